"""Verify a service by its evidence before an input is sent: the connection ends in an enclave that the user accepts.

Example:
    A user who pinned the owner's key verifies a service, and keeps the evidence::

        from pathlib import Path

        from sealserve.client.attested import EndpointTls, read_policy, verify_endpoint

        policy = read_policy(Path("policy.toml"))
        tls = EndpointTls(server_name="grpc.tf-serving.service.com")
        verified = verify_endpoint("service.example.com:8500", policy, tls=tls)
        for report in verified.service.reports:
            print(report.step.number, report.step.title, report.text)
        Path("evidence.json").write_bytes(verified.bundle())
"""

import hashlib
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from sealserve.attested.evidence import MAXIMUM_BUNDLE, EvidenceBundle
from sealserve.attested.evidence_conversation import PresentedService
from sealserve.attested.user_policy import LARGEST_FILE, UserPolicy, parse_user_policy
from sealserve.attested.verification import Step, StepFailedError, StepReport, VerifiedService
from sealserve.client.credentials import parse_endpoint
from sealserve.client.noted_connection import EndpointTls, NotedConnection, noted_connection
from sealserve.regular_file import read_regular

AttestedPolicy = UserPolicy
"""The user's policy: which enclaves may receive an input."""

DEFAULT_TIMEOUT = 10.0
WITHOUT_RESULT: Final = timedelta(hours=1)
"""How long evidence without an attestation result counts: then a revocation is not noticed, but new collateral is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEndpoint:
    """A replica of a service that passed all six steps. Only `verify_presented` creates it.

    Args:
        address: The address of the connection.
        presented: The evidence, the user's nonce, and the certificate of the connection.
        service: The verified enclave.
        verified_at: The user's time of the verification.
        expires: The time after which the evidence must be requested again: the expiry of the attestation result
            (without one, `WITHOUT_RESULT` after the verification), or of the certificate if that is earlier.
    """

    address: str
    presented: PresentedService = field(repr=False)
    service: VerifiedService
    verified_at: datetime
    expires: datetime

    @property
    def certificate(self) -> bytes:
        """The certificate of the connection, DER. A client may trust exactly this certificate until ``expires``."""
        return self.presented.certificate

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate in hex."""
        return hashlib.sha256(self.certificate).hexdigest()

    def bundle(self) -> bytes:
        """Return the evidence bundle for a later verification, as the bytes of a file."""
        return self.presented.bundle(address=self.address, saved=self.verified_at).to_bytes()


def read_policy(path: Path) -> AttestedPolicy:
    """Return the policy in a file.

    Raises:
        InputFileError: The file does not exist, is not a regular file, or is too large.
        InputError: `user-policy.invalid` or `user-policy.empty`.
    """
    return parse_user_policy(read_regular(path, limit=LARGEST_FILE))


def fetch_evidence(address: str, *, tls: EndpointTls, timeout: float = DEFAULT_TIMEOUT) -> PresentedService:
    """Connect to a service, and request its evidence on this connection. Nothing in the result is verified.

    Args:
        address: ``host:port`` of the service's gRPC or REST port.
        tls: The TLS settings.
        timeout: Seconds for the connection and the answer.

    Raises:
        InputError: `client.target` if the address is invalid.
        UnreachableError, TlsError: The connection failed.
        VerificationError: `client.evidence-missing` if the service does not offer evidence; `document.*` if the
            evidence is malformed.
        UnavailableError: `client.evidence-unavailable` if the service cannot answer now.
    """
    with noted_connection(parse_endpoint(address), tls, timeout=timeout) as connection:
        return connection.request_evidence()


def verify_endpoint(
    address: str,
    policy: AttestedPolicy,
    *,
    tls: EndpointTls,
    timeout: float = DEFAULT_TIMEOUT,
    now: datetime | None = None,
) -> VerifiedEndpoint:
    """Connect to a service, and perform the six steps. Behind a load balancer, this verifies one of the replicas.

    Args:
        address: ``host:port`` of the service's gRPC or REST port.
        policy: The user's policy.
        tls: The TLS settings.
        timeout: Seconds for the connection and the answer.
        now: The user's time, with a time zone; `None` means the clock of this machine.

    Raises:
        StepFailedError: A step fails. The service must not receive an input.
        SealserveError: As `fetch_evidence`.
    """
    return verify_presented(fetch_evidence(address, tls=tls, timeout=timeout), policy, address=address, now=now)


def verify_connection(
    connection: NotedConnection, policy: AttestedPolicy, *, now: datetime | None = None
) -> VerifiedEndpoint:
    """Perform the six steps on an open connection. Only after HTTP/1.1, the connection can be used afterwards.

    Args:
        connection: The connection, on which nothing was sent.
        policy: The user's policy.
        now: The user's time, with a time zone; `None` means the clock of this machine.

    Raises:
        SealserveError: As `verify_endpoint`.
    """
    return verify_presented(connection.request_evidence(), policy, address=str(connection.endpoint), now=now)


def parse_bundle(content: bytes) -> EvidenceBundle:
    """Parse a bundle that `VerifiedEndpoint.bundle` returned.

    Raises:
        VerificationError: `document.*` if it is malformed.
    """
    return EvidenceBundle.parse(content)


def evidence_end(service: VerifiedService, *, now: datetime) -> datetime:
    """Return the end of the attestation result; without one, the time `WITHOUT_RESULT` after ``now``."""
    return now + WITHOUT_RESULT if service.result is None else service.result.expires


def verify_presented(
    presented: PresentedService, policy: AttestedPolicy, *, address: str, now: datetime | None = None
) -> VerifiedEndpoint:
    """Perform the six steps with evidence from `fetch_evidence` or from a bundle.

    Args:
        presented: The evidence.
        policy: The user's policy.
        address: The address of the connection. It is a note, and is not verified.
        now: The user's time, with a time zone; `None` means the clock of this machine.

    Raises:
        StepFailedError: A step fails.
    """
    now = now or datetime.now(UTC)
    service = presented.verify(policy, now=now)
    # Only the certificate's end is not sufficient: its issuer, whom the user does not trust, chooses it.
    ends = [x509.load_der_x509_certificate(presented.certificate).not_valid_after_utc, evidence_end(service, now=now)]
    return VerifiedEndpoint(address=address, presented=presented, service=service, verified_at=now, expires=min(ends))


class VerifiedReplicas:
    """The replicas of a service that were verified, by their certificates. Many threads may use it.

    Several connections to a service share it, so that each replica is verified once until its evidence expires.
    """

    MOST = 256
    """The newest verified replicas that are remembered. A replica that restarts has a new certificate."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[bytes, VerifiedEndpoint] = {}

    def add(self, endpoint: VerifiedEndpoint) -> None:
        """Remember a verified replica."""
        with self._lock:
            self._known.pop(endpoint.certificate, None)
            self._known[endpoint.certificate] = endpoint
            while len(self._known) > self.MOST:
                del self._known[next(iter(self._known))]  # the oldest

    def find(self, certificate: bytes, *, now: datetime) -> VerifiedEndpoint | None:
        """Return the replica with this certificate (DER), or `None` if it is unknown or must be verified again."""
        with self._lock:
            found = self._known.get(certificate)
        return found if found is not None and now < found.expires else None

    def current(self, *, now: datetime) -> tuple[VerifiedEndpoint, ...]:
        """Return the replicas whose evidence has not expired, and forget the others."""
        with self._lock:
            self._known = {key: endpoint for key, endpoint in self._known.items() if now < endpoint.expires}
            return tuple(self._known.values())


__all__ = [
    "MAXIMUM_BUNDLE",
    "WITHOUT_RESULT",
    "AttestedPolicy",
    "EndpointTls",
    "NotedConnection",
    "PresentedService",
    "Step",
    "StepFailedError",
    "StepReport",
    "VerifiedEndpoint",
    "VerifiedReplicas",
    "VerifiedService",
    "fetch_evidence",
    "noted_connection",
    "parse_bundle",
    "read_policy",
    "verify_connection",
    "verify_endpoint",
    "verify_presented",
]
