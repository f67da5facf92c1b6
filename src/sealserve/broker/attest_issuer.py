"""Answers an enclave with its own TLS key: it turns an appraisal into a certificate, a token and a grant."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from sealserve.attestation.attest_conversation import PresentedEvidence
from sealserve.attestation.result import USER_AUDIENCE
from sealserve.attestation.result_token import sign_result
from sealserve.broker.certificate_issuer import CertificateIssuer, ReadyIssuer
from sealserve.broker.decision import Broker, Downloading
from sealserve.broker.stage_times import RequestTimes
from sealserve.broker.token_issuer import end_of, new_token_id, result_of
from sealserve.secret import SecretBytes

LIFETIME: Final = timedelta(hours=24)
"""The default validity of a certificate and of the attestation result that belongs to it."""


class AttestIssuer:
    """Appraises enclaves with their own TLS keys, and answers them. Several threads may use it at the same time.

    Args:
        broker: Appraises the evidence and writes the audit row.
        certificates: Issues the certificates.
        token_key: Returns the token signing key. It is called for each answer, because the key can be replaced.
        issuer: The broker's name.
        lifetime: The validity of certificates and results, at most
            `sealserve.attestation.result.MAXIMUM_LIFETIME`.
        clock: Returns the time on the owner's clock.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        certificates: CertificateIssuer,
        token_key: Callable[[], ec.EllipticCurvePrivateKey],
        issuer: str,
        lifetime: timedelta = LIFETIME,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._broker = broker
        self._certificates = certificates
        self._token_key = token_key
        self._issuer = issuer
        self._lifetime = lifetime
        self._clock = clock

    def answer(
        self,
        presented: PresentedEvidence,
        *,
        peer: str,
        downloading: Callable[[], Downloading],
        appraised: Callable[[], None] = lambda: None,
        times: RequestTimes | None = None,
    ) -> SecretBytes:
        """Appraise the evidence, record the decision in the audit log, and return the messages of the grant.

        Args:
            presented: The evidence of the enclave.
            peer: The peer's address and port.
            downloading: Returns a context in which the request waits for downloads of collateral.
            appraised: Called when only the decision's row remains to be written.
            times: Measures the stages of the request.

        Returns:
            The bytes to send. They contain the release's key with the purpose ``start``. Wipe them after their use.

        Raises:
            SealserveError: The broker refuses the request. The refusal is recorded.
        """
        token_id = new_token_id()
        # The row names the keyset and the token, so that the owner finds the platform of presented evidence.
        detail = (
            f"{presented.purpose}: keyset {presented.keyset.digest.hex()}, attestation result {token_id} for "
            f"{USER_AUDIENCE}"
        )
        prepared: list[ReadyIssuer] = []

        def ready() -> None:
            # An appraisal can be repeated, because a row changed. A certificate that cannot be issued is a refusal.
            if not prepared:
                prepared.append(self._certificates.ready(self._clock()))

        try:
            found = self._broker.provision(
                presented,
                peer=peer,
                detail=detail,
                ready=ready,
                downloading=downloading,
                appraised=appraised,
                times=times,
            )
            try:
                (issuing,) = prepared
                now, release, bound = found.appraised.time, found.appraised.release, found.evidence
                # Certificate and token end together, in whole seconds, and never after the issuing CA.
                until = min(end_of(now, self._lifetime, release.deadline), issuing.certificate.ends)
                result = result_of(
                    found.appraised,
                    issuer=self._issuer,
                    audience=USER_AUDIENCE,
                    token_id=token_id,
                    expires=until,
                    keyset_digest=bound.keyset.digest,
                )
                return bound.grant(
                    attestation_result=sign_result(result, self._token_key()),
                    certificate_chain=issuing.issue(bound.public_key_info, now=now, until=until).decode(),
                    collateral=found.collateral,
                    statement=found.statement,
                    key=found.key,
                )
            finally:
                if found.key is not None:
                    found.key.wipe()
        finally:
            for issuing in prepared:
                issuing.wipe()
