"""The messages of ``sealserve-attest/1``, the protocol in which an enclave with its own keys gets a release's key.

`sealserve.attestation.attest_conversation` states the order of the messages and the meaning of each step.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, ValidationError

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.framing import IncomingMessage
from sealserve.attestation.json_web_signature import MAXIMUM_TOKEN
from sealserve.attestation.secret_provisioning import KEY_SIZE
from sealserve.attestation.session_binding import NONCE_SIZE
from sealserve.attestation.strict_document import Base64Url, SignedContent, StrictDocument

MAXIMUM_QUOTE: Final = 8192
"""Maximum size in bytes of a quote. Source: Gramine 1.9, ``/dev/attestation/quote``."""
MAXIMUM_STATEMENT: Final = 16 * 2**10
"""Maximum size in bytes of a release statement."""
_MAXIMUM_COLLATERAL: Final = 32 * 2**10

Purpose = Literal["start", "renewal"]
"""The purpose of an enclave's attestation. Only ``start`` releases the key of the release."""


def _nonce(content: bytes) -> bytes:
    if len(content) != NONCE_SIZE:
        raise ValueError(f"expected a nonce of {NONCE_SIZE} bytes")
    return content


def _collateral(members: dict[str, str]) -> dict[str, str]:
    if (size := sum(len(name) + len(text.encode()) for name, text in members.items())) > _MAXIMUM_COLLATERAL:
        raise ValueError(f"expected at most {_MAXIMUM_COLLATERAL} bytes, got {size}")
    return members


def check_collateral(members: Mapping[str, str]) -> Mapping[str, str]:
    """Check that a grant can contain the collateral, and return it.

    Raises:
        VerificationError: `attest.collateral` if it is too large, or has another form.
    """
    try:
        return _COLLATERAL.validate_python(dict(members))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise AttestationCode.ATTEST_COLLATERAL.error(
            f"The collateral of the platform does not fit into a grant: {first['msg'].removeprefix('Value error, ')}.",
            hint="Check the documents of the collateral service: `sealserve broker collateral`.",
        ) from error


Nonce = Annotated[Base64Url, AfterValidator(_nonce)]
QuoteBytes = Annotated[Base64Url, Field(min_length=1, max_length=MAXIMUM_QUOTE)]
KeysetBytes = Annotated[Base64Url, Field(min_length=1, max_length=1024)]
CollateralMembers = Annotated[
    dict[Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,40}$")], str],
    Field(min_length=1, max_length=16),
    AfterValidator(_collateral),
]
_COLLATERAL: Final = TypeAdapter(CollateralMembers)
"""The vendor's collateral as texts by name. The kind of evidence defines the names."""
Token = Annotated[str, StringConstraints(pattern=rf"^[A-Za-z0-9_.-]{{1,{MAXIMUM_TOKEN}}}$")]
"""An attestation result, which is not verified yet."""


class Challenge(StrictDocument):
    """The first message, from the broker.

    Attributes:
        type: The kind of message.
        version: The version of the message.
        nonce: 32 random bytes that the broker uses only in this session.
    """

    what: ClassVar[str] = "challenge"
    limit: ClassVar[int] = 512

    type: Literal["sealserve-attest.challenge"] = "sealserve-attest.challenge"
    version: Literal[1] = 1
    nonce: Nonce


class EvidenceMessage(StrictDocument):
    """The answer of the enclave.

    Attributes:
        type: The kind of message.
        version: The version of the message.
        purpose: ``start`` requests the key of the release, ``renewal`` only a new certificate and result.
        quote: The quote. Its report data is `sealserve.attestation.session_binding.session_report_data`.
        keyset: The exact bytes of the keyset.
        certificate_request: A PKCS #10 certificate request (DER) for the TLS key. It proves the possession of the key.
            The broker ignores its names and extensions.
    """

    what: ClassVar[str] = "evidence message"
    limit: ClassVar[int] = 16 * 2**10

    type: Literal["sealserve-attest.evidence"] = "sealserve-attest.evidence"
    version: Literal[1] = 1
    purpose: Purpose
    quote: QuoteBytes
    keyset: KeysetBytes
    certificate_request: Annotated[Base64Url, Field(min_length=1, max_length=2048)]


class Grant(StrictDocument):
    """The broker's answer to evidence that it accepts. With the purpose ``start``, the key is the next message.

    Attributes:
        type: The kind of message.
        version: The version of the message.
        attestation_result: The token of the attestation result, for users.
        certificate_chain: The service's certificate for the TLS key and its issuers, PEM, leaf first.
        collateral: The collateral that the broker used, for users.
        statement: The release statement and its signature, or `None` if the enclave uses the file of the release.
    """

    what: ClassVar[str] = "grant"
    limit: ClassVar[int] = 96 * 2**10

    type: Literal["sealserve-attest.grant"] = "sealserve-attest.grant"
    version: Literal[1] = 1
    attestation_result: Token
    certificate_chain: Annotated[str, StringConstraints(min_length=1, max_length=16 * 2**10)]
    collateral: CollateralMembers
    statement: SignedContent | None


class Refusal(StrictDocument):
    """The broker's answer to evidence that it rejects. It does not contain the reason, because the peer may attack.

    Attributes:
        type: The kind of message.
        version: The version of the message.
        final: Whether a repetition of the same request cannot succeed. Otherwise the broker was not able to decide.
        reference: The place of the decision in the broker's audit log, or `None`.
    """

    what: ClassVar[str] = "refusal"
    limit: ClassVar[int] = 512

    type: Literal["sealserve-attest.refusal"] = "sealserve-attest.refusal"
    version: Literal[1] = 1
    final: bool
    reference: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,64}$")] | None


def incoming_challenge() -> IncomingMessage:
    """Return an empty challenge, which the enclave fills with bytes from the session."""
    return _incoming(Challenge.limit, "challenge")


def incoming_evidence() -> IncomingMessage:
    """Return an empty evidence message, which the broker fills with bytes from the session."""
    return _incoming(EvidenceMessage.limit, "evidence message")


def incoming_answer() -> IncomingMessage:
    """Return an empty grant or refusal, which the enclave fills with bytes from the session. The key may follow."""
    return _incoming(Grant.limit, "answer of the broker", last=False)


def incoming_key() -> IncomingMessage:
    """Return an empty key message, which the enclave fills with bytes from the session. Wipe it after its use."""
    return _incoming(KEY_SIZE, "key message")


def _incoming(maximum: int, what: str, *, last: bool = True) -> IncomingMessage:
    return IncomingMessage(
        maximum=maximum,
        refusal=AttestationCode.ATTEST_LENGTH,
        truncated=AttestationCode.ATTEST_TRUNCATED,
        what=what,
        last=last,
    )
