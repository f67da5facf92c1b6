"""One attestation of this enclave to one broker."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from sealserve.attestation.attest_conversation import EnclaveSession
from sealserve.attestation.attest_messages import (
    Grant,
    Purpose,
    incoming_answer,
    incoming_challenge,
    incoming_key,
)
from sealserve.attestation.codes import AttestationCode
from sealserve.attester.broker_link import BrokerLink
from sealserve.attester.enclave_keys import EnclaveKeys
from sealserve.clock import issue_time
from sealserve.secret import SecretBytes
from sealserve.serving.spans import NO_STAGES, Stages
from sealserve.tracing.span import SpanName

_FORM: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """What a broker granted to this enclave.

    Args:
        grant: Certificate, attestation result, collateral and statement.
        key: The release's key with the purpose ``start``, else `None`. Wipe it after its use.
        issued: The time of issue of the certificate, UTC.
        expires: The time until which the certificate is valid, UTC.
    """

    grant: Grant
    key: SecretBytes | None = field(repr=False)
    issued: datetime
    expires: datetime

    @property
    def lifetime(self) -> timedelta:
        """The time from the issue of the certificate to its end."""
        return self.expires - self.issued

    @property
    def validity(self) -> str:
        """The time of issue and the end of the certificate, for the log."""
        return f"certificate_from={self.issued:{_FORM}} certificate_until={self.expires:{_FORM}}"


def attest(
    link: BrokerLink,
    keys: EnclaveKeys,
    *,
    purpose: Purpose,
    quote_for: Callable[[bytes], bytes],
    stages: Stages = NO_STAGES,
) -> Attested:
    """Attest this enclave in a session with a broker.

    Args:
        link: The session. It must be new.
        keys: The keys of the enclave.
        purpose: ``start``, or ``renewal`` for a new certificate.
        quote_for: Returns a quote with the given report data.
        stages: Records the receipt of the key as a span.

    Raises:
        VerificationError: `attest.refused`: The broker rejected this enclave, and a repetition cannot succeed.
        UnavailableError: `attest.unavailable`: The broker was not able to decide.
        SealserveError: The errors of `EnclaveSession`, `BrokerLink` and ``quote_for``.
    """
    session = EnclaveSession(keyset=keys.keyset, purpose=purpose, certificate_request=keys.certificate_request())
    # The nonce and the exporter bind the quote to this session.
    challenged = session.receive(link.receive(incoming_challenge()).content)
    presenting = challenged.bind(link.exporter(challenged.nonce))
    message, awaiting = presenting.present(quote_for(presenting.report_data))
    link.send(message)
    answer = link.receive(incoming_answer())
    granted = awaiting.receive(answer.content)
    issued, expires = _validity(granted.grant)
    key = None
    if granted.key_follows:
        following = incoming_key()
        try:
            with stages.stage(SpanName.KEY):
                link.receive(following, answer.rest)
                key = granted.key(following.content)
        finally:
            following.wipe()
            answer.wipe()
    elif answer.rest:
        raise AttestationCode.ATTEST_LENGTH.error("Extra bytes follow the answer of the broker.")
    return Attested(grant=granted.grant, key=key, issued=issued, expires=expires)


def _validity(grant: Grant) -> tuple[datetime, datetime]:
    leaf = x509.load_pem_x509_certificates(grant.certificate_chain.encode())[0]  # `AwaitingGrant` parsed it before
    return issue_time(leaf.not_valid_before_utc, leaf.not_valid_after_utc), leaf.not_valid_after_utc
