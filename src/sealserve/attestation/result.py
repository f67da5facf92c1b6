"""The attestation result: what a broker states about an enclave, as the claims of a signed token.

The claims are an EAR (EAT attestation result), so that other verifiers of EAR can read them. `docs/reference/
attestation-result.md` describes each claim. Three decisions deserve a reason:

- **Simulation cannot be overlooked.** The result of a simulated enclave has the status ``contraindicated``. A program
  that reads only the standard status rejects it. ``simulated`` states the reason.
- **The platform is not identified.** A token can be shown to users, and users of several services must not be able to
  recognize a machine. The owner finds the platform's id in the audit log, with the token's id.
- **A result states how fresh its evidence is.** Evidence in a TLS certificate contains no nonce, so a program that
  stole the certificate's key could present it again. ``freshness`` is then ``certificate``.

Source: RFC 9711 (EAT) sections 4.1 (``eat_nonce``), 4.2.9 (``dbgstat``), 4.2.18 (``submods``), 4.3.2 (``eat_profile``)
and 8 (privacy); draft-ietf-rats-ear-04 section 3 (EAR); draft-ietf-rats-ar4si-10 section 2.3; RFC 7519 section 4.1
(``iss``, ``aud``, ``exp``, ``nbf``, ``iat``, ``jti``); RFC 6920 section 3 (``ni`` URI).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sealserve.attestation.claims import EnclaveIdentity, Measurement, TcbStatus
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.strict_encoding import decode_base64url, encode_base64url
from sealserve.attestation.trustworthiness import LARGEST_VALUE, SMALLEST_VALUE, Tier
from sealserve.canonical_document import Sha256

SPEC_VERSION: Final = "RFC 9711; draft-ietf-rats-ear-04; draft-ietf-rats-ar4si-10"
PROFILE: Final = "tag:ietf.org,2026:rats/ear#04"
"""The EAT profile of EAR in version 04 of its draft. Later versions have another profile."""
ENCLAVE_PROFILE: Final = "urn:uuid:05a128aa-7351-4e70-8fce-d7843e69210f"
"""The profile of the claims about the enclave. A change that an existing verifier would misread needs a new one."""
MEDIA_TYPE: Final = "eat+jwt"
"""The ``typ`` of the token. Source: RFC 9782 (media type ``application/eat+jwt``)."""
SUBMODULE: Final = "enclave"
MAXIMUM_LIFETIME: Final = timedelta(days=7)
"""The longest validity of a result. After it, a former signing key is no longer necessary."""
NONCE_SIZES: Final = range(8, 65)
"""The possible sizes of a nonce in bytes. Source: RFC 9711 section 4.1."""
MAXIMUM_AUDIENCE: Final = 255
USER_AUDIENCE: Final = "sealserve.user"
"""The audience of results for users of a service, who receive them as part of its evidence."""

_DEVELOPER: Final = "sealserve"
_NI: Final = "ni:///sha-256;"
_DIGEST_SIZE: Final = 32
_LARGEST_TIME: Final = 253_402_300_799  # the end of the year 9999


class Freshness(StrEnum):
    """What binds the evidence to a moment."""

    CERTIFICATE = "certificate"
    """The evidence is bound to the key of the enclave's TLS certificate. It contains neither a nonce nor a session."""
    SESSION = "session"
    """The evidence contains the broker's nonce, and is bound to the TLS session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationResult:
    """An attestation result. From `sealserve.attestation.result_token.verify_result`, it is verified.

    Args:
        issuer: The name of the broker.
        audience: The relying party that the enclave named in its request.
        token_id: The id of the token. The broker's audit log contains it.
        issued: The time of issue, in whole seconds.
        expires: The end of the validity.
        nonce: The nonce of the request, 8 to 64 bytes, or `None`.
        build: The broker's software.
        enclave: The enclave.
        public_key_digest: SHA-256 of the SubjectPublicKeyInfo that the evidence is bound to. A relying party that
            checks this key knows that its peer is the enclave. Otherwise the token is only a statement about it.
        keyset_digest: SHA-256 of the keys that the enclave created for itself, or `None`.
        simulated: Whether the platform is simulated. A simulated enclave protects nothing.
        release_id: The release that the enclave belongs to.
        policy_digest: SHA-256 of the appraisal policy as JSON.
        tcb_status: The vendor's rating of the platform.
        tcb_date: The date of the platform's TCB level.
        advisories: The security advisories that affect the platform, sorted.
        evaluation_number: The version of the vendor's collateral.
        evidence_digest: SHA-256 of the evidence (the quote).
        freshness: What binds the evidence to a moment.
        status: The worst tier of ``vector``.
        vector: The trustworthiness vector.
    """

    issuer: str
    audience: str
    token_id: str
    issued: datetime
    expires: datetime
    nonce: bytes | None
    build: str
    enclave: EnclaveIdentity
    public_key_digest: bytes
    keyset_digest: bytes | None = None
    simulated: bool
    release_id: str
    policy_digest: bytes
    tcb_status: TcbStatus
    tcb_date: datetime
    advisories: tuple[str, ...]
    evaluation_number: int
    evidence_digest: bytes
    freshness: Freshness
    status: Tier
    vector: Mapping[str, int]

    def to_claims(self) -> dict[str, Any]:
        """Return the claims of the token."""
        enclave = self.enclave
        attester = {
            "tee": enclave.tee,
            "measurement": enclave.measurement.hex(),
            "signer": enclave.signer.hex(),
            "product_id": enclave.product_id,
            "security_version": enclave.security_version,
            "dbgstat": "enabled" if enclave.debug else "disabled-since-boot",
            "public_key_sha256": self.public_key_digest.hex(),
            "simulated": self.simulated,
        }
        if self.keyset_digest is not None:
            attester["keyset_sha256"] = self.keyset_digest.hex()
        appraisal = {
            "eat_profile": ENCLAVE_PROFILE,
            "ear_status": self.status.value,
            "ear_trustworthiness_vector": dict(self.vector),
            "ear_appraisal_policy_ids": [_NI + encode_base64url(self.policy_digest)],
            "ear_attester_claims": attester,
            "ear_verifier_claims": {
                "release_id": self.release_id,
                "tcb_status": self.tcb_status.value,
                "tcb_date": _seconds(self.tcb_date),
                "advisories": list(self.advisories),
                "evaluation_number": self.evaluation_number,
                "evidence_sha256": self.evidence_digest.hex(),
                "freshness": self.freshness.value,
            },
        }
        claims = {
            "eat_profile": PROFILE,
            "iss": self.issuer,
            "aud": self.audience,
            "jti": self.token_id,
            "iat": _seconds(self.issued),
            "exp": _seconds(self.expires),
            "ear_status": self.status.value,
            "ear_verifier_id": {"developer": _DEVELOPER, "build": self.build},
            "submods": {SUBMODULE: appraisal},
        }
        return claims if self.nonce is None else {**claims, "eat_nonce": encode_base64url(self.nonce)}


def parse_claims(claims: Mapping[str, Any]) -> tuple[AttestationResult, datetime]:
    """Return the result in the claims of a token, and the time from which the token is valid.

    Unknown claims are ignored, as EAR requires (draft-ietf-rats-ear-04 section 4). The values are not judged.

    Raises:
        VerificationError: `token.profile` if the token, or its claims about the enclave, have another profile.
        VerificationError: `token.claims` if a claim is missing, or has the wrong type or form.
        VerificationError: `token.status` if the status of the token and the status of the enclave differ.
    """
    for expected, profile in ((PROFILE, claims.get("eat_profile")), (ENCLAVE_PROFILE, _enclave_profile(claims))):
        if profile != expected:
            raise AttestationCode.TOKEN_PROFILE.error(
                f"The token has another EAT profile: expected {expected}, got {profile!r:.80}.",
                hint="Use a version of sealserve that supports this profile.",
            )
    try:
        found = _Result.model_validate(claims)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]).encode("unicode_escape").decode()  # it may name any claim
        raise AttestationCode.TOKEN_CLAIMS.error(
            f"The attestation result is invalid: {where}: {first['msg'].removeprefix('Value error, ')}."
        ) from error
    appraisal = found.submods.enclave
    if found.ear_status != appraisal.ear_status:  # a program may read either of the two
        raise AttestationCode.TOKEN_STATUS.error(
            f"The attestation result is contradictory: its status is {found.ear_status!r}, but the status of its "
            f"enclave is {appraisal.ear_status!r}."
        )
    attester, verifier = appraisal.ear_attester_claims, appraisal.ear_verifier_claims
    result = AttestationResult(
        issuer=found.iss,
        audience=found.aud,
        token_id=found.jti,
        issued=_time(found.iat),
        expires=_time(found.exp),
        nonce=None if found.eat_nonce is None else decode_base64url(found.eat_nonce),
        build=found.ear_verifier_id.build,
        enclave=EnclaveIdentity(
            tee=attester.tee,
            measurement=Measurement(bytes.fromhex(attester.measurement)),
            signer=bytes.fromhex(attester.signer),
            product_id=attester.product_id,
            security_version=attester.security_version,
            debug=attester.dbgstat != "disabled-since-boot",
        ),
        public_key_digest=bytes.fromhex(attester.public_key_sha256),
        keyset_digest=None if attester.keyset_sha256 is None else bytes.fromhex(attester.keyset_sha256),
        simulated=attester.simulated,
        release_id=verifier.release_id,
        policy_digest=decode_base64url(appraisal.ear_appraisal_policy_ids[0].removeprefix(_NI)),
        tcb_status=TcbStatus(verifier.tcb_status),
        tcb_date=_time(verifier.tcb_date),
        advisories=tuple(verifier.advisories),
        evaluation_number=verifier.evaluation_number,
        evidence_digest=bytes.fromhex(verifier.evidence_sha256),
        freshness=Freshness(verifier.freshness),
        status=Tier(appraisal.ear_status),
        vector=dict(appraisal.ear_trustworthiness_vector),
    )
    return result, result.issued if found.nbf is None else _time(found.nbf)


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


def _is_nonce(text: str) -> str:
    if len(decode_base64url(text)) not in NONCE_SIZES:
        raise ValueError(f"expected {NONCE_SIZES[0]} to {NONCE_SIZES[-1]} bytes")
    return text


def _is_policy(text: str) -> str:
    if not text.startswith(_NI) or len(decode_base64url(text.removeprefix(_NI))) != _DIGEST_SIZE:
        raise ValueError(f"expected {_NI} and a digest of {_DIGEST_SIZE} bytes")
    return text


_Seconds = Annotated[int, Field(ge=0, le=_LARGEST_TIME)]
_Name = Annotated[str, StringConstraints(pattern=rf"^[!-~]{{1,{MAXIMUM_AUDIENCE}}}$")]
_Count = Annotated[int, Field(ge=0, le=2**32 - 1)]
_TierName = Literal["none", "affirming", "warning", "contraindicated"]


class _VerifierId(_Part):
    developer: Annotated[str, StringConstraints(max_length=255)]
    build: Annotated[str, StringConstraints(max_length=255)]


class _AttesterClaims(_Part):
    tee: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,32}$")]
    measurement: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){32,64}$")]
    signer: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){32,64}$")]
    product_id: _Count
    security_version: _Count
    dbgstat: Literal["enabled", "disabled", "disabled-since-boot", "disabled-permanently",
                     "disabled-fully-and-permanently"]  # fmt: skip
    public_key_sha256: Sha256
    keyset_sha256: Sha256 | None = None
    simulated: bool


class _VerifierClaims(_Part):
    release_id: Sha256
    tcb_status: Literal[tuple(TcbStatus)]  # type: ignore[valid-type]
    tcb_date: _Seconds
    advisories: Annotated[
        list[Annotated[str, StringConstraints(pattern=r"^[!-~]{1,64}$")]], Field(max_length=256)
    ]  # for example INTEL-SA-00615
    evaluation_number: _Count
    evidence_sha256: Sha256
    freshness: Literal["certificate", "session"]


class _Appraisal(_Part):
    ear_status: _TierName
    ear_trustworthiness_vector: Annotated[
        dict[str, Annotated[int, Field(ge=SMALLEST_VALUE, le=LARGEST_VALUE)]], Field(min_length=1, max_length=32)
    ]
    ear_appraisal_policy_ids: Annotated[
        list[Annotated[str, AfterValidator(_is_policy)]],
        Field(min_length=1, max_length=1),
    ]
    ear_attester_claims: _AttesterClaims
    ear_verifier_claims: _VerifierClaims


class _Submodules(_Part):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    enclave: _Appraisal


class _Result(_Part):
    iss: _Name
    aud: _Name
    jti: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{22}$")]
    iat: _Seconds
    exp: _Seconds
    nbf: _Seconds | None = None
    eat_nonce: Annotated[str, AfterValidator(_is_nonce)] | None = None
    ear_status: _TierName
    ear_verifier_id: _VerifierId
    submods: _Submodules


def _enclave_profile(claims: Mapping[str, Any]) -> object:
    match claims:
        case {"submods": {"enclave": {"eat_profile": profile}}}:
            return profile
    return None


def _seconds(time: datetime) -> int:
    return int(time.timestamp())


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
