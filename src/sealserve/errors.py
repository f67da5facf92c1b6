"""The root of every error that sealserve raises, and the families that decide the exit status.

Each cause is a subclass with a stable ``code`` (``quote.tcb-out-of-date``), defined beside the code that raises it. A
program can rely on codes and exit statuses; messages are for people and may change. ``docs/reference/errors.md`` lists
them all.
"""

from typing import ClassVar


class SealserveError(Exception):
    """Something that went wrong and that a person can act on.

    Args:
        message: What went wrong, which file or field, what was expected and what was found. Never a secret.
        hint: What to do next, as one sentence, or None where the message already says it.
    """

    code: ClassVar[str] = "internal"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class InputError(SealserveError):
    """What the caller gave cannot be used: a flag, a TOML key, a model, a file that is not what it should be."""

    code = "input"
    exit_status = 2


class VerificationError(SealserveError):
    """Something did not verify: a tampered file, a quote, a certificate, a policy that refuses."""

    code = "verification"
    exit_status = 3


class UnavailableError(SealserveError):
    """The machine or a peer is not as needed: a missing program, a taken port, a full disk, a broker that is down."""

    code = "environment"
    exit_status = 4
