"""The protocol ``sealserve-token/1``, in which an enclave requests an attestation result and no key: both sides.

The protocol runs inside a TLS 1.3 session on the broker's port, and ALPN selects it. The client presents an RA-TLS
certificate, as in Gramine's protocol. Each side sends one message: a length (4 bytes, big-endian) and the content.

1. The client sends a JSON object with ``audience`` (1 to 255 printable ASCII characters without spaces) and, if the
   relying party chose a nonce, ``nonce`` (8 to 64 bytes, base64url).
2. The server appraises the evidence. It sends the token, or closes the session without a byte. The reason of a refusal
   is in the broker's audit log only, because the peer may be an attacker.

TLS records may split these bytes at any position, see `sealserve.attestation.framing`. `docs/reference/
attestation-result.md` is the specification.
"""

import re
from dataclasses import dataclass
from typing import Final

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.framing import IncomingMessage, framed
from sealserve.attestation.json_web_signature import MAXIMUM_TOKEN
from sealserve.attestation.result import MAXIMUM_AUDIENCE, NONCE_SIZES
from sealserve.attestation.strict_encoding import decode_base64url, encode_base64url, parse_object
from sealserve.canonical_document import canonical_json
from sealserve.errors import SealserveError

PROTOCOL: Final = b"sealserve-token/1"
"""The name of the protocol in ALPN."""
MAXIMUM_REQUEST: Final = 1024

_AUDIENCE: Final = re.compile(rf"[!-~]{{1,{MAXIMUM_AUDIENCE}}}")
_TOKEN: Final = re.compile(rb"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRequest:
    """A request for an attestation result.

    Args:
        audience: The relying party, for which the result will be valid. Printable ASCII, without spaces.
        nonce: The relying party's nonce, 8 to 64 bytes, or `None`.

    Raises:
        VerificationError: `token.request` if a value is not in this form.
    """

    audience: str
    nonce: bytes | None = None

    def __post_init__(self) -> None:
        if not _AUDIENCE.fullmatch(self.audience):
            raise _request_error(f"expected an audience of 1 to {MAXIMUM_AUDIENCE} printable ASCII characters")
        if self.nonce is not None and len(self.nonce) not in NONCE_SIZES:
            raise _request_error(f"expected a nonce of 8 to 64 bytes, got {len(self.nonce)}")

    def to_bytes(self) -> bytes:
        """Return the message of the request, with its length."""
        members = {"audience": self.audience}
        if self.nonce is not None:
            members["nonce"] = encode_base64url(self.nonce)
        return framed(canonical_json(members))

    @classmethod
    def parse(cls, content: bytes) -> "ResultRequest":
        """Parse the content of a request.

        Raises:
            VerificationError: `token.request` if the content is not a request, or has an unknown member.
        """
        try:
            members = parse_object(content)
            nonce = decode_base64url(members["nonce"]) if "nonce" in members else None
        except (ValueError, TypeError) as error:
            raise _request_error("expected a JSON object, and a nonce in base64url") from error
        match members:
            case {"audience": str() as audience} if members.keys() <= {"audience", "nonce"}:
                return cls(audience=audience, nonce=nonce)
            case _:
                raise _request_error("expected the member audience, and optionally nonce")


class ResultServer(IncomingMessage):
    """The server side. Call `receive` until it returns `True`, then `request`; send the bytes from `respond`."""

    def __init__(self) -> None:
        super().__init__(
            maximum=MAXIMUM_REQUEST,
            refusal=AttestationCode.TOKEN_REQUEST,
            truncated=AttestationCode.TOKEN_TRUNCATED,
            what="request for an attestation result",
        )

    def request(self) -> ResultRequest:
        """Return the request.

        Raises:
            VerificationError: `token.request` if the message is not a request.
        """
        return ResultRequest.parse(self.content)

    @staticmethod
    def respond(token: str) -> bytes:
        """Return the message with the token."""
        return framed(token.encode())


class ResultClient(IncomingMessage):
    """The client side. Send `ResultRequest.to_bytes`, call `receive` until it returns `True`, then `token`."""

    def __init__(self) -> None:
        super().__init__(
            maximum=MAXIMUM_TOKEN,
            refusal=AttestationCode.TOKEN_RESPONSE,
            truncated=AttestationCode.TOKEN_TRUNCATED,
            what="response with an attestation result",
        )

    def token(self) -> str:
        """Return the token. It is not verified.

        Raises:
            VerificationError: `token.response` if the message contains another character than a token.
        """
        if not _TOKEN.fullmatch(self.content):
            raise AttestationCode.TOKEN_RESPONSE.error(
                "The response with an attestation result is invalid: expected base64url and dots."
            )
        return self.content.decode()


def _request_error(what: str) -> SealserveError:
    return AttestationCode.TOKEN_REQUEST.error(
        f"The request for an attestation result is invalid: {what}.",
        hint="Give the audience as printable ASCII, and the nonce as 8 to 64 bytes in base64url without padding.",
    )
