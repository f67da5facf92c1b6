"""The program of an enclave with its own keys, from its first instruction to the end of the server.

1. Parse the command line, which is measured. It reads no file.
2. Create the keys in memory.
3. Attest to a broker of the measured list, and receive the release's key and a certificate.
4. Give the key to the attestation device, which opens the encrypted mounts, and wipe it. Nothing touches the mounts
   before: Gramine caches a failed look-up of a path.
5. Get a quote for users, which covers the keyset.
6. Start the server in this process. It verifies the sealed file list, checks the operations of each model, and serves
   with the enclave's TLS key.
7. Renew the certificate in the background, with the same keys.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealserve.attestation.attest_messages import Grant, Purpose
from sealserve.attestation.session_binding import service_report_data
from sealserve.attestation.strict_document import SignedContent
from sealserve.attested.evidence_conversation import EvidenceService
from sealserve.attested.service_identity import ServiceIdentity
from sealserve.attester.broker_link import BrokerLink
from sealserve.attester.device import AttestationDevice
from sealserve.attester.enclave_keys import EnclaveKeys
from sealserve.attester.measured import MeasuredSettings, measured_settings
from sealserve.attester.model_check import check_model
from sealserve.attester.renewal import Renewal
from sealserve.attester.session import Attested, attest
from sealserve.attester.turns import START_LIMIT, Backoff, in_turn
from sealserve.serving.program import main as serve
from sealserve.serving.spans import NO_STAGES, Stages
from sealserve.tracing.span import SpanName

LOGGER: Final = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Attest, serve until the process is stopped, and return the exit status.

    Args:
        arguments: The server's command line without the program's name; this process's by default.
    """
    return serve(arguments, attest=partial(attested_identity, os.environ), check_model=check_model)


def attested_identity(environment: Mapping[str, str], stages: Stages = NO_STAGES) -> ServiceIdentity:
    """Attest this enclave, open its encrypted mounts, and return its identity, which is renewed in the background.

    Args:
        environment: The measured environment.
        stages: Records the stages as spans.

    Raises:
        VerificationError: `attester.environment`: A measured variable is missing or invalid.
        VerificationError: `attest.refused`: The broker rejected this enclave.
        SealserveError: No broker granted the key in time. The error is the last attempt's.
    """
    # Create the keys (2). They never leave this process.
    settings = measured_settings(environment)
    enclave = Enclave(settings, EnclaveKeys.create(settings.release_id), stages=stages)
    # Attest, and receive the key (3).
    granted = enclave.attest("start")
    # Open the encrypted mounts (4).
    with stages.stage(SpanName.UNSEAL):
        enclave.open_mounts(granted)
    # Get the quote for users (5).
    identity = ServiceIdentity(
        tls_key=enclave.keys.tls,
        certificate_chain=granted.grant.certificate_chain.encode(),
        service=enclave.evidence(granted.grant),
        find_signer=_find_signer,
    )
    # Renew the certificate while the server runs (7).
    renewal(enclave, identity, granted).start()
    return identity


def _find_signer(key: Ed25519PrivateKey) -> Callable[[bytes], bytes]:
    """Return the server's function for signatures. The import waits for the first receipt: it needs TensorFlow."""
    from sealserve.serving.runtime.ed25519 import find_signer  # noqa: PLC0415

    return find_signer(key)


def renewal(enclave: "Enclave", identity: ServiceIdentity, granted: Attested) -> Renewal:
    """Return the renewal of an identity's certificate and evidence. It is not started.

    Args:
        enclave: The enclave, which attests again.
        identity: The identity that gets the new certificate.
        granted: The grant of the start.
    """
    return Renewal(
        renew=lambda: enclave.attest("renewal", limit=0),
        use=lambda renewed: identity.renew(
            certificate_chain=renewed.grant.certificate_chain.encode(), service=enclave.evidence(renewed.grant)
        ),
        failed=identity.renewal_failed,
        first=granted,
    )


class Enclave:
    """This enclave: its keys, its attestation device, and its brokers.

    Args:
        settings: The measured settings.
        keys: The keys of the enclave.
        backoff: The pauses between rounds of attempts.
        stages: Records each attestation as a span.
    """

    def __init__(
        self,
        settings: MeasuredSettings,
        keys: EnclaveKeys,
        *,
        backoff: Backoff | None = None,
        stages: Stages = NO_STAGES,
    ) -> None:
        self._settings = settings
        self._device = AttestationDevice(settings.device, relay=settings.relay)
        self._backoff = backoff or Backoff()
        self._stages = stages
        self._statement: SignedContent | None = None
        self.keys = keys

    def attest(self, purpose: Purpose, *, limit: float = START_LIMIT) -> Attested:
        """Attest to the brokers in turn until one of them grants a certificate.

        Args:
            purpose: ``start`` or ``renewal``.
            limit: Seconds after which no new round begins.
        """
        return in_turn(self._settings.brokers, partial(self._attempt, purpose), backoff=self._backoff, limit=limit)

    def _attempt(self, purpose: Purpose, broker: tuple[str, int]) -> Attested:
        host, port = broker
        with (
            self._stages.stage(SpanName.ATTEST),
            BrokerLink(host, port, broker_ca=self._settings.broker_ca) as link,
        ):
            LOGGER.info("step=broker connected=%s:%d purpose=%s", host, port, purpose)
            return attest(link, self.keys, purpose=purpose, quote_for=self._device.quote, stages=self._stages)

    def open_mounts(self, granted: Attested) -> None:
        """Give the release's key to the device, and wipe it."""
        if granted.key is None:
            raise ValueError("a renewal contains no key")
        name = self._settings.key_name
        with granted.key as key:
            size = len(key)
            self._device.set_key(name, key)
        LOGGER.info("step=key key_name=%s bytes=%d %s", name, size, granted.validity)

    def evidence(self, grant: Grant) -> EvidenceService:
        """Return the evidence for users, with a new quote. Without a new statement, the former one stays in use."""
        self._statement = grant.statement or self._statement
        return EvidenceService(
            keyset=self.keys.keyset,
            identity=self.keys.identity,
            quote=self._device.quote(service_report_data(self.keys.keyset.digest)),
            collateral=grant.collateral,
            attestation_result=grant.attestation_result,
            statement=self._statement,
        )
