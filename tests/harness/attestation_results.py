"""An attestation result with a key, for tests of tokens."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from sealserve.attestation.claims import EnclaveIdentity, Measurement, TcbStatus
from sealserve.attestation.json_web_keys import JsonWebKey, JsonWebKeySet
from sealserve.attestation.result import AttestationResult, Freshness
from sealserve.attestation.result_token import verify_result
from sealserve.attestation.strict_encoding import encode_base64url
from sealserve.attestation.trustworthiness import vector_of, worst_tier

NOW: Final = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
ISSUER: Final = "attestation.service.com"
AUDIENCE: Final = "sealserve.client"
NONCE: Final = bytes(range(32))
KEY: Final = ec.derive_private_key(0x1234567890ABCDEF, ec.SECP256R1())
KEYS: Final = JsonWebKeySet([JsonWebKey(KEY.public_key())])


def make_result(
    *, simulated: bool = False, tcb_status: TcbStatus = TcbStatus.UP_TO_DATE, **changes: Any
) -> AttestationResult:
    """Return the result of an enclave on an enrolled platform, with ``changes``."""
    vector = vector_of(tcb_status=tcb_status, enrolled=not simulated, simulated=simulated)
    result = AttestationResult(
        issuer=ISSUER,
        audience=AUDIENCE,
        token_id="A" * 22,
        issued=NOW,
        expires=NOW + timedelta(hours=1),
        nonce=NONCE,
        build="sealserve 0.2.0",
        enclave=EnclaveIdentity(
            tee="sgx",
            measurement=Measurement(b"\x01" * 32),
            signer=b"\x02" * 32,
            product_id=1,
            security_version=2,
            debug=False,
        ),
        public_key_digest=b"\x03" * 32,
        simulated=simulated,
        release_id="a" * 64,
        policy_digest=b"\x04" * 32,
        tcb_status=tcb_status,
        tcb_date=datetime(2026, 5, 1, tzinfo=UTC),
        advisories=("INTEL-SA-00615",),
        evaluation_number=18,
        evidence_digest=b"\x05" * 32,
        freshness=Freshness.CERTIFICATE,
        status=worst_tier(vector),
        vector=vector,
    )
    return replace(result, **changes)


def verify(token: str, **changes: Any) -> AttestationResult:
    """Verify a token as its audience would, one minute after the issue."""
    expected: dict[str, Any] = {
        "now": NOW + timedelta(minutes=1),
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "nonce": NONCE,
    }
    return verify_result(token, changes.pop("keys", KEYS), **(expected | changes))


def raw_token(header: bytes, payload: bytes, key: ec.EllipticCurvePrivateKey = KEY) -> str:
    """Return a token with exactly these bytes and a genuine signature."""
    signed = f"{encode_base64url(header)}.{encode_base64url(payload)}"
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{encode_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def header(**changes: Any) -> bytes:
    """Return a header with ``changes``. The value `None` removes a parameter."""
    members = {"alg": "ES256", "kid": KEYS.keys[0].key_id, "typ": "eat+jwt"} | changes
    return json.dumps({name: value for name, value in members.items() if value is not None}).encode()


def claims_token(claims: dict[str, Any]) -> str:
    """Return a token with these claims, which the genuine key signed."""
    return raw_token(header(), json.dumps(claims).encode())
