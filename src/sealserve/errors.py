"""The root class of all sealserve errors, the families that decide the exit status, and the base class of codes.

Each cause has a stable code, such as ``quote.tcb-out-of-date``. Programs can rely on codes and exit statuses. Messages
are for people and may change. ``docs/reference/errors.md`` lists all codes.

Most codes are members of an enumeration in the module ``codes`` of their package, and are raised like this::

    raise SgxCode.QUOTE_DEBUG.error("Quote: the enclave is in debug mode.", hint="Build it with sgx.debug = false.")

A subclass of a family exists only where code catches an error by its type, or where an error carries data. The class
attribute ``code`` of such a subclass defines its code.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, Self


class SealserveError(Exception):
    """Root class of the errors that a person can act on.

    Args:
        message: What failed, which file or field, and the expected and actual values. Never contains a secret.
        hint: The next step as one sentence that starts with a verb. `None` if the message already contains it.
        code: The code of the cause. `None` means the code of the class.
    """

    code: str = "internal"
    exit_status: ClassVar[int] = 1
    details: Mapping[str, str | int] = MappingProxyType({})
    """Values for programs, which the JSON form of the error contains beside code, message and hint."""

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
    """An input is invalid: an option, a key in sealserve.toml, a model, or the content of a file."""

    code = "input"
    exit_status = 2


class VerificationError(SealserveError):
    """A verification failed: a tampered file, an invalid quote or certificate, or a policy that rejects evidence."""

    code = "verification"
    exit_status = 3


class UnavailableError(SealserveError):
    """The machine or a peer is not ready: a missing program, a port in use, a full disk, an unreachable broker."""

    code = "environment"
    exit_status = 4


class PortTakenError(UnavailableError):
    """Another program already listens on the port."""

    code = "port.taken"


class ErrorCode(StrEnum):
    """Base class of the enumerations of codes. Each member is a code and has the error family of that code.

    The docstring below a member states the meaning of the error. The reference page shows its first line.
    """

    family: type[SealserveError]

    def __new__(cls, code: str, family: type[SealserveError]) -> Self:
        """Create a member from its code and its error family."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.family = family
        return member

    def error(self, message: str, *, hint: str | None = None) -> SealserveError:
        """Return an error with this code and of this family. The caller raises it.

        Args:
            message: What failed, as in `SealserveError`.
            hint: The next step, as in `SealserveError`. `None` means no hint.
        """
        return self.family(message, hint=hint, code=self.value)
