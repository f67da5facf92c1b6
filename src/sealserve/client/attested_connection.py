"""A gRPC connection that ends only in verified enclaves, also after gRPC connects again.

gRPC opens connections itself, whenever one is lost, and a load balancer may choose another replica for each. Therefore
the certificates of verified replicas are gRPC's only roots. A connection to any other replica fails in the TLS
handshake, before gRPC sends a byte. Then the unknown replica is verified on a separate connection, and its
certificate joins the roots.
"""

import queue
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import grpc
from cryptography import x509

from sealserve.client.attested import AttestedPolicy, VerifiedEndpoint, VerifiedReplicas, verify_connection
from sealserve.client.connection_fault import ServiceCertificateExpiredError, UnreachableError, name_fault
from sealserve.client.credentials import Credentials, Endpoint
from sealserve.client.noted_connection import EndpointTls, noted_connection

_PAUSE: Final = 0.1
_PROBES: Final = 16
"""Handshakes to find an unknown replica, before gRPC tries the known replicas again."""
_SHORTEST: Final = 0.1
"""Seconds for a step when the time limit is almost over, so that the step reports its own error."""


class AttestedConnection:
    """A gRPC channel whose only roots are the certificates of verified replicas. Many threads may use it.

    Args:
        endpoint: The address of the service.
        credentials: The service's name and CA, and the client's certificate.
        policy: The user's policy.
        replicas: The replicas that were verified before, or None. Connections to the same service share them.
        connect: Returns a new gRPC channel with the given credentials.
        clock: Returns the user's time.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Credentials,
        policy: AttestedPolicy,
        *,
        replicas: VerifiedReplicas | None,
        connect: Callable[[grpc.ChannelCredentials], grpc.Channel],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.replicas = VerifiedReplicas() if replicas is None else replicas
        self._endpoint, self._tls, self._policy = endpoint, EndpointTls.of_credentials(credentials), policy
        self._connect, self._clock = connect, clock
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._retired: grpc.Channel | None = None
        self._expires = datetime.min.replace(tzinfo=UTC)

    def current(self, *, timeout: float) -> grpc.Channel:
        """Return a channel whose replicas are all verified now. After their evidence expired, they are verified again.

        Args:
            timeout: Seconds for a new connection.

        Raises:
            SealserveError: As `open`.
        """
        channel = self._valid()
        if channel is None:
            with self._lock:
                channel = self._valid() or self._open(time.monotonic() + timeout)
        return channel

    def replace(self, used: grpc.Channel, *, timeout: float) -> None:
        """Open a new channel instead of ``used``, which has no connection, unless another thread already did.

        Raises:
            SealserveError: As `current`.
        """
        with self._lock:
            if self._valid() in (None, used):
                self._open(time.monotonic() + timeout)

    def close(self) -> None:
        """Close the connection. Requests in progress are canceled."""
        with self._lock:
            for channel in (self._channel, self._retired):
                if channel is not None:
                    channel.close()
            self._channel = self._retired = None

    def _valid(self) -> grpc.Channel | None:
        return self._channel if self._clock() < self._expires else None

    def _open(self, deadline: float) -> grpc.Channel:
        """Connect until a verified replica answers.

        Raises:
            StepFailedError: A replica fails a step. No other replica is tried, because the load balancer is the host's.
            SealserveError: As `verify_endpoint`. An unreachable service is tried until the deadline.
        """
        known = self.replicas.current(now=self._clock())
        while True:
            # 1. Connect with gRPC, which accepts only verified replicas.
            if known:
                pinned = self._tls.pinned_to([item.certificate for item in known], self._clock())
                channel = self._connect(pinned)
                if _becomes_ready(channel, deadline):
                    return self._use(channel, known)
                channel.close()
                if time.monotonic() >= deadline:
                    raise UnreachableError(
                        f"No connection to a verified replica at {self._endpoint} was established in time.",
                        hint="Check that the service is running, or try again with a longer timeout.",
                    )
            # 2. No replica is known, or the load balancer chose an unknown one. Verify it, and try again.
            self._find_replica(deadline)
            known = self.replicas.current(now=self._clock())

    def _find_replica(self, deadline: float) -> None:
        """Verify a replica that is not known. A load balancer may choose known replicas first."""
        for _ in range(_PROBES):
            left = max(deadline - time.monotonic(), _SHORTEST)
            try:
                with noted_connection(self._endpoint, self._tls, timeout=left) as connection:
                    if self.replicas.find(connection.certificate, now=self._clock()) is not None:
                        continue
                    found = verify_connection(connection, self._policy, now=self._clock())
            except UnreachableError:
                if time.monotonic() + _PAUSE >= deadline:
                    raise
                time.sleep(_PAUSE)
                continue
            _check_certificate(found, self._tls.server_name, self._clock())
            self.replicas.add(found)
            return

    def _use(self, channel: grpc.Channel, known: tuple[VerifiedEndpoint, ...]) -> grpc.Channel:
        # Requests of other threads may still use the former channel. It is closed one replacement later.
        if self._retired is not None:
            self._retired.close()
        self._retired, self._channel = self._channel, channel
        self._expires = min(item.expires for item in known)
        return channel


def _check_certificate(found: VerifiedEndpoint, server_name: str, now: datetime) -> None:
    """Check what gRPC requires of a certificate, because gRPC's own error does not name the reason."""
    certificate = x509.load_der_x509_certificate(found.certificate)
    if fault := name_fault(certificate, server_name):
        raise fault
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= now < last:
        raise ServiceCertificateExpiredError(
            f"The service's certificate is not valid now: it is valid from {first:%Y-%m-%d %H:%M} to "
            f"{last:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M} UTC.",
            hint="Check the clock of this machine. The enclave renews its certificate with the owner's broker.",
        )


def _becomes_ready(channel: grpc.Channel, deadline: float) -> bool:
    """Return whether the first attempt to connect succeeds."""
    states: queue.SimpleQueue[grpc.ChannelConnectivity] = queue.SimpleQueue()
    notify = states.put
    channel.subscribe(notify, try_to_connect=True)
    try:
        while (left := deadline - time.monotonic()) > 0:
            state = states.get(timeout=left)
            if state is grpc.ChannelConnectivity.READY:
                return True
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                return False
    except queue.Empty:
        pass
    finally:
        channel.unsubscribe(notify)
    return False
