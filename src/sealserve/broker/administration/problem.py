"""Errors of the administration API: problem documents (RFC 9457), and their conversion from and to `SealserveError`.

The document has the stable code, the message and the hint of the error. The client raises the same error again, so that
output and exit status are the same as for a local command.
"""

import unicodedata
from http import HTTPStatus
from typing import Annotated, Final, Literal

from pydantic import Field

from sealserve.broker.administration.documents import ReplyDocument
from sealserve.broker.administration.operations import MethodNotAllowedError
from sealserve.broker.codes import BrokerCode
from sealserve.broker.releases import ReleaseAmbiguousError, ReleaseUnknownError
from sealserve.errors import InputError, SealserveError, UnavailableError, VerificationError
from sealserve.pki.codes import PkiCode

MEDIA_TYPE: Final = "application/problem+json"
_LONGEST: Final = 4000

_FAMILIES: Final[dict[str, tuple[type[SealserveError], HTTPStatus]]] = {
    "input": (InputError, HTTPStatus.BAD_REQUEST),
    "verification": (VerificationError, HTTPStatus.UNPROCESSABLE_ENTITY),
    "unavailable": (UnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    "internal": (SealserveError, HTTPStatus.INTERNAL_SERVER_ERROR),
}
"""The class of each family of errors, and the HTTP status of a code that is not in `_STATUSES`."""

_STATUSES: Final[dict[str, HTTPStatus]] = {
    ReleaseUnknownError.code: HTTPStatus.NOT_FOUND,
    ReleaseAmbiguousError.code: HTTPStatus.CONFLICT,
    BrokerCode.PLATFORM_NOT_ENROLLED: HTTPStatus.NOT_FOUND,
    BrokerCode.RELEASE_CONFLICT: HTTPStatus.CONFLICT,
    BrokerCode.RELEASE_FINAL: HTTPStatus.CONFLICT,
    BrokerCode.RELEASE_POLICY: HTTPStatus.CONFLICT,
    BrokerCode.NOTIFICATION_SETTINGS: HTTPStatus.CONFLICT,
    BrokerCode.ADMINISTRATION_BUSY: HTTPStatus.TOO_MANY_REQUESTS,
    MethodNotAllowedError.code: HTTPStatus.METHOD_NOT_ALLOWED,
    BrokerCode.ADMINISTRATION_PATH: HTTPStatus.NOT_FOUND,
    BrokerCode.ADMINISTRATION_ROLE: HTTPStatus.FORBIDDEN,
    BrokerCode.ADMINISTRATION_SIZE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    BrokerCode.ADMINISTRATION_SLOW: HTTPStatus.REQUEST_TIMEOUT,
    PkiCode.ADMINISTRATOR_CERTIFICATE: HTTPStatus.FORBIDDEN,
    PkiCode.ADMINISTRATOR_REVOKED: HTTPStatus.FORBIDDEN,
    PkiCode.CERTIFICATE_EXPIRED: HTTPStatus.FORBIDDEN,
    "release.missing": HTTPStatus.NOT_FOUND,  # codes of sealserve.owner, which this layer cannot import
    "release.ambiguous": HTTPStatus.CONFLICT,
    "policy.unknown": HTTPStatus.NOT_FOUND,
}


class ProblemReply(ReplyDocument):
    """An error (RFC 9457). Programs can rely on ``code`` and ``family``."""

    title: Annotated[str, Field(max_length=_LONGEST)]
    """The phrase of the HTTP status."""
    status: Annotated[int, Field(ge=400, le=599)]
    """The HTTP status."""
    detail: Annotated[str, Field(max_length=_LONGEST)]
    """What failed."""
    hint: Annotated[str, Field(max_length=_LONGEST)] | None
    """The next step."""
    code: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}(\.[a-z0-9-]{1,60})?$")]
    """The stable code of the error."""
    family: Literal["input", "verification", "unavailable", "internal"]
    """The family of the error, which decides the exit status of the command."""

    @classmethod
    def of(cls, error: SealserveError) -> "ProblemReply":
        """Convert an error."""
        family = next(name for name, (kind, _) in _FAMILIES.items() if isinstance(error, kind))
        status = _STATUSES.get(error.code, _FAMILIES[family][1])
        return cls(
            title=status.phrase,
            status=status,
            detail=error.message[:_LONGEST],
            hint=None if error.hint is None else error.hint[:_LONGEST],
            code=error.code,
            family=family,
        )

    def error(self) -> SealserveError:
        """Return the error that the document describes. Control characters in its text are replaced."""
        kind, _ = _FAMILIES[self.family]
        hint = None if self.hint is None else _printable(self.hint)
        return kind(_printable(self.detail), hint=hint, code=self.code)


def _printable(text: str) -> str:
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if character != "\n" and unicodedata.category(character) in {"Cc", "Cf", "Cs"}
        else character
        for character in text
    )  # fmt: skip
