"""Issues attestation results: it turns an appraisal into a signed token."""

import hashlib
import secrets
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from sealserve import __version__
from sealserve.attestation.result import AttestationResult, Freshness
from sealserve.attestation.result_request import ResultRequest
from sealserve.attestation.result_token import sign_result
from sealserve.attestation.strict_encoding import encode_base64url
from sealserve.attestation.trustworthiness import vector_of, worst_tier
from sealserve.broker.appraised import Appraised
from sealserve.broker.decision import Broker, Downloading

LIFETIME: Final = timedelta(hours=1)
"""The validity of a token. A revocation takes effect on users after this time at the latest."""

_TOKEN_ID_SIZE: Final = 16


class TokenIssuer:
    """Appraises enclaves and issues tokens. Several threads may use it at the same time.

    Args:
        broker: Appraises the evidence and writes the audit row.
        key: Returns the token signing key, a P-256 key. It is called for each token, because the key can
            be replaced.
        issuer: The broker's name.
        lifetime: The validity of a token, at most `MAXIMUM_LIFETIME`.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        key: Callable[[], ec.EllipticCurvePrivateKey],
        issuer: str,
        lifetime: timedelta = LIFETIME,
    ) -> None:
        self._broker = broker
        self._key = key
        self._issuer = issuer
        self._lifetime = lifetime

    def issue(
        self,
        certificate: bytes,
        request: ResultRequest,
        *,
        peer: str,
        downloading: Callable[[], Downloading] = nullcontext,
    ) -> str:
        """Appraise the evidence of a peer, record the decision in the audit log, and return a token.

        Args:
            certificate: The peer's RA-TLS certificate, DER. TLS has proved that the peer holds its private key.
            request: The peer's request.
            peer: The peer's address and port.
            downloading: Returns a context in which the request waits for downloads of collateral.

        Raises:
            SealserveError: The broker refuses the request. The refusal is recorded.
        """
        token_id = new_token_id()
        # The audit row names the token, so that the owner finds the platform of a presented token.
        purpose = f"attestation result {token_id} for {request.audience}"
        appraised = self._broker.attest(certificate, peer=peer, purpose=purpose, downloading=downloading)
        return sign_result(self._result(appraised, request, token_id), self._key())

    def _result(self, appraised: Appraised, request: ResultRequest, token_id: str) -> AttestationResult:
        return result_of(
            appraised,
            issuer=self._issuer,
            audience=request.audience,
            token_id=token_id,
            expires=end_of(appraised.time, self._lifetime, appraised.release.deadline),
            nonce=request.nonce,
        )


def new_token_id() -> str:
    """Return the id of a new token."""
    return encode_base64url(secrets.token_bytes(_TOKEN_ID_SIZE))


def result_of(
    appraised: Appraised,
    *,
    issuer: str,
    audience: str,
    token_id: str,
    expires: datetime,
    nonce: bytes | None = None,
    keyset_digest: bytes | None = None,
) -> AttestationResult:
    """Return the attestation result of an appraised enclave.

    Args:
        appraised: The enclave.
        issuer: The broker's name.
        audience: The relying party.
        token_id: The id of the token.
        expires: The end of the validity.
        nonce: The nonce of the request.
        keyset_digest: The digest of the enclave's keyset. With it, the evidence is bound to a TLS session.
    """
    release, claims = appraised.release, appraised.claims
    vector = vector_of(
        tcb_status=claims.tcb_status,
        enrolled=release.policy.enrolled_platforms_only,
        simulated=claims.simulated,
    )
    return AttestationResult(
        issuer=issuer,
        audience=audience,
        token_id=token_id,
        issued=appraised.time,
        expires=expires,
        nonce=nonce,
        build=f"sealserve {__version__}",
        enclave=claims.identity,
        public_key_digest=appraised.public_key_digest,
        keyset_digest=keyset_digest,
        simulated=claims.simulated,
        release_id=release.release_id,
        policy_digest=hashlib.sha256(release.policy.to_json().encode()).digest(),
        tcb_status=claims.tcb_status,
        tcb_date=claims.tcb_date,
        advisories=tuple(sorted(claims.advisory_ids)),
        evaluation_number=claims.tcb_evaluation_data_number,
        evidence_digest=bytes.fromhex(appraised.quote_digest),
        freshness=Freshness.CERTIFICATE if keyset_digest is None else Freshness.SESSION,
        status=worst_tier(vector),
        vector=vector,
    )


def end_of(now: datetime, lifetime: timedelta, deadline: datetime | None) -> datetime:
    """Return the end of a validity: nothing for a draining release outlives the release's deadline."""
    end = now + lifetime
    if deadline is None or deadline > end:
        return end
    return max(deadline, now + timedelta(seconds=1))  # the format has whole seconds, and a positive validity
