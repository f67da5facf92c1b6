"""The root of every error that sealserve raises, the families that decide the exit status, and the codes.

Each cause has a stable code (``quote.tcb-out-of-date``). A program can rely on codes and exit statuses; messages are
for people and may change. ``docs/reference/errors.md`` lists all codes.

Most codes are members of an enumeration in the module ``codes`` of their package, and are raised like this::

    raise SgxCode.QUOTE_DEBUG.error("Quote: the enclave is in debug mode.", hint="Build it with sgx.debug = false.")

A subclass of a family exists only where code catches an error by its type, or where an error carries data. Its class
attribute ``code`` is the definition of its code then.
"""

from enum import StrEnum
from typing import ClassVar, Self


class SealserveError(Exception):
    """Something that went wrong and that a person can act on.

    Args:
        message: What went wrong, which file or field, what was expected and what was found. Never a secret.
        hint: What to do next, as one sentence, or None where the message already says it.
        code: The cause. The default is the code of the class.
    """

    code: str = "internal"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.code}: {self.message!r}>"


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


class PortTakenError(UnavailableError):
    """Another program listens on the port."""

    code = "port.taken"


class ErrorCode(StrEnum):
    """Base of the enumerations of codes: a member is its code, and knows the family of its errors.

    The docstring below a member says what the error means; the reference page shows its first line.
    """

    family: type[SealserveError]

    def __new__(cls, code: str, family: type[SealserveError]) -> Self:
        """Make a member of its code and its family."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.family = family
        return member

    def error(self, message: str, *, hint: str | None = None) -> SealserveError:
        """Return an error of the member's family with the member's code, to raise it.

        Args:
            message: As for `SealserveError`.
            hint: As for `SealserveError`.
        """
        return self.family(message, hint=hint, code=self.value)
