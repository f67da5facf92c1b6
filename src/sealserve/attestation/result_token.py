"""Sign and verify attestation results. Both functions are pure: they use no clock, network or file."""

import hmac
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from sealserve.attestation import json_web_signature
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.json_web_keys import JsonWebKeySet
from sealserve.attestation.result import MAXIMUM_LIFETIME, MEDIA_TYPE, AttestationResult, parse_claims
from sealserve.attestation.trustworthiness import Tier, worst_tier
from sealserve.canonical_document import canonical_json
from sealserve.clock import CLOCK_SKEW

_ACCEPTED: Final = (Tier.AFFIRMING, Tier.WARNING)


def sign_result(result: AttestationResult, key: ec.EllipticCurvePrivateKey) -> str:
    """Return the token of an attestation result: a JWT in compact form.

    Args:
        result: The result.
        key: The broker's token signing key, a P-256 key.
    """
    return json_web_signature.sign(canonical_json(result.to_claims()), key, kind=MEDIA_TYPE)


def verify_result(
    token: str,
    keys: JsonWebKeySet,
    *,
    now: datetime,
    issuer: str,
    audience: str,
    nonce: bytes | None = None,
    dangerous_simulated: bool = False,
) -> AttestationResult:
    """Verify a token, and return the attestation result in it.

    1. The signature verifies with one of the keys. See `sealserve.attestation.json_web_signature.verify`.
    2. The token has exactly the supported EAT profile, and all claims have the right type.
    3. The broker that the caller trusts issued it. Two brokers can share a key after a restored backup.
    4. It is for this audience, so that a result for another service cannot be presented here.
    5. It is valid now. Its start may be 5 minutes in the future, because clocks differ. Its end has no tolerance.
    6. It does not live longer than the format permits, so that a former key can be removed after that time.
    7. It contains the caller's nonce, if the caller has one: the result was issued after the caller chose the nonce.
    8. The enclave is not in debug mode.
    9. The status is not better than the trustworthiness vector, and a simulated result is contraindicated.
    10. A simulated result is rejected, unless the caller accepts it.
    11. The status is affirming or warning. A contraindicated result is accepted only if simulation is its cause.

    Args:
        token: The token, without surrounding white space.
        keys: The broker's keys, from the owner over a channel that the caller trusts.
        now: The time of verification, with a time zone.
        issuer: The name of the broker.
        audience: The name of the caller, which the enclave put into its request.
        nonce: The nonce that the caller gave to the enclave. `None` does not check the freshness of the result.
        dangerous_simulated: Whether to accept results of simulated enclaves, which protect nothing.

    Raises:
        VerificationError: A step fails; `AttestationCode` has a code ``token.*`` for each cause.
        ValueError: ``now`` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError("the time of verification needs a time zone")
    claims = json_web_signature.verify(token, keys, kind=MEDIA_TYPE)  # (1)
    result, valid_from = parse_claims(claims)  # (2)
    if result.issuer != issuer:  # (3)
        raise AttestationCode.TOKEN_ISSUER.error(
            f"Another broker issued the attestation result: expected {issuer!r}, got {result.issuer!r}."
        )
    if result.audience != audience:  # (4)
        raise AttestationCode.TOKEN_AUDIENCE.error(
            f"The attestation result is for another audience: expected {audience!r}, got {result.audience!r}."
        )
    _check_time(result, valid_from, now)  # (5) (6)
    if nonce is not None and not hmac.compare_digest(result.nonce or b"", nonce):  # (7)
        raise AttestationCode.TOKEN_NONCE.error(
            f"The attestation result does not contain the expected nonce: expected {nonce.hex()}, got "
            f"{'no nonce' if result.nonce is None else result.nonce.hex()}.",
            hint="Treat the result as replayed, and request a new result with a new nonce.",
        )
    if result.enclave.debug:  # (8)
        raise AttestationCode.TOKEN_DEBUG.error(
            "The attestation result is for an enclave in debug mode, whose memory the host can read."
        )
    worst = worst_tier(result.vector)  # (9)
    if result.status.rank < worst.rank or (result.simulated and result.status is not Tier.CONTRAINDICATED):
        raise AttestationCode.TOKEN_STATUS.error(
            f"The attestation result is contradictory: its status is {result.status.value!r}, but its trustworthiness "
            f"vector is {worst.value!r}{', and its enclave is simulated' if result.simulated else ''}."
        )
    if result.simulated and not dangerous_simulated:  # (10)
        raise AttestationCode.TOKEN_SIMULATED.error(
            "The attestation result is for a simulated enclave, which protects nothing from its host.",
            hint="Use an enclave on an SGX machine. In a test, use --dangerous-accept-simulated.",
        )
    if result.status not in _ACCEPTED and not result.simulated:  # (11)
        raise AttestationCode.TOKEN_STATUS.error(
            f"The status of the attestation result is not acceptable: expected affirming or warning, got "
            f"{result.status.value}."
        )
    return result


def _check_time(result: AttestationResult, valid_from: datetime, now: datetime) -> None:
    start = max(result.issued, valid_from)
    if start - CLOCK_SKEW > now:
        raise AttestationCode.TOKEN_NOT_YET_VALID.error(
            f"The attestation result is not valid yet: it starts at {start:%Y-%m-%d %H:%M:%S} UTC, and the time is "
            f"{now:%Y-%m-%d %H:%M:%S %Z}.",
            hint="Check the clock of this machine.",
        )
    if now >= result.expires:
        raise AttestationCode.TOKEN_EXPIRED.error(
            f"The attestation result expired at {result.expires:%Y-%m-%d %H:%M:%S} UTC, and the time is "
            f"{now:%Y-%m-%d %H:%M:%S %Z}.",
            hint="Request a new attestation result.",
        )
    if not result.issued < result.expires <= result.issued + MAXIMUM_LIFETIME:
        raise AttestationCode.TOKEN_LIFETIME.error(
            f"The attestation result has an invalid lifetime: expected more than 0 and at most {MAXIMUM_LIFETIME.days} "
            f"days, got {result.expires - result.issued}."
        )
