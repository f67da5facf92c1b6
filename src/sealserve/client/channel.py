"""Connections to the service: gRPC over TLS that ends inside the enclave."""

import contextlib
import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

import grpc

from sealserve.client.connection_fault import DIAGNOSIS_SECONDS, UnreachableError, find_fault
from sealserve.client.credentials import Credentials, Endpoint, TlsError, parse_endpoint
from sealserve.errors import SealserveError
from sealserve.secret import SecretBytes

if TYPE_CHECKING:  # the verification of evidence is imported only for programs that use it
    from sealserve.client.attested import AttestedPolicy, VerifiedReplicas
    from sealserve.client.attested_connection import AttestedConnection

_OPTIONS: dict[str, Any] = {
    # Otherwise channels to the same address share a connection, and all requests would reach a single replica.
    "grpc.use_local_subchannel_pool": 1,
    "grpc.max_send_message_length": -1,
    "grpc.max_receive_message_length": -1,
    # Ignore a proxy in the environment, which is meant for web traffic. A caller can enable it with an option.
    "grpc.enable_http_proxy": 0,
    "grpc.initial_reconnect_backoff_ms": 200,
    # How long one attempt to connect may take. gRPC's default is 20 s. A call that meets a path to a stopped pod would
    # wait for all this time, although the next attempt takes another path.
    "grpc.min_reconnect_backoff_ms": 5000,
    "grpc.max_reconnect_backoff_ms": 2000,
}


GrpcChannel = grpc.Channel  # inside the class, `grpc` is a field


@dataclass(frozen=True, slots=True)
class ServiceChannel:
    """A connection to one replica, which NGINX or another load balancer chose.

    Close the channel, or use it in a ``with`` statement.

    Attributes:
        grpc: The gRPC channel.
        endpoint: The address of the service.
        credentials: The service's expected name and CA, and the client's certificate.
        attested: The connection that verifies replicas, or None. ``grpc`` is then its first channel.
    """

    grpc: GrpcChannel
    endpoint: Endpoint
    credentials: Credentials
    attested: "AttestedConnection | None" = None

    def current(self, *, timeout: float) -> GrpcChannel:
        """Return the gRPC channel for the next request. With evidence, it may be a new one.

        Raises:
            StepFailedError: The evidence expired, and a replica fails a step of the new verification.
            SealserveError: No new connection was established within ``timeout``.
        """
        return self.grpc if self.attested is None else self.attested.current(timeout=timeout)

    def find_fault(self) -> SealserveError | None:
        """Return the reason why a new connection to this address fails, or None if it succeeds."""
        return find_fault(self.endpoint, self.credentials, timeout=DIAGNOSIS_SECONDS)

    def close(self) -> None:
        """Close the connection. Requests in progress are canceled."""
        if self.attested is not None:
            self.attested.close()
        self.grpc.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_channel(
    target: str,
    *,
    server_name: str,
    ca: bytes,
    certificate: bytes | None = None,
    key: SecretBytes | None = None,
    options: Sequence[tuple[str, Any]] = (),
    timeout: float = 10.0,
    attested: "AttestedPolicy | None" = None,
) -> ServiceChannel:
    """Connect to the service. Each call opens a separate connection.

    If the service does not answer yet, the connection is retried until ``timeout``. A TLS error is raised immediately.

    Args:
        target: Address of the service, ``host:port``.
        server_name: The service's name. It is sent as SNI and must be in the service's certificate, even if ``target``
            is another name or an IP address.
        ca: The certificate of the authority that signs the service's certificates, PEM.
        certificate: The client's certificate chain for two-way TLS, PEM.
        key: The client's private key for two-way TLS, PEM.
        options: gRPC channel options. They are added to the default options, or replace them.
        timeout: Seconds to wait for the connection.
        attested: The user's policy. Each replica must satisfy it before anything else is sent to it, also after the
            connection was lost. None means that the CA alone is trusted.

    Raises:
        StepFailedError: With ``attested``, a step of the verification failed.
        InputError: `client.target`: ``target`` is not a valid address.
        `client.credentials`, `certificate.unreadable`, `certificate.unsupported`, `certificate.key-unreadable`,
            KeyMismatchError: As `Credentials`.
        VerificationError: `certificate.expired`: The client's certificate has expired.
        CertificateNotYetValidError: The client's certificate is not valid yet.
        TlsError: The TLS handshake failed. The subclass names the reason.
        UnreachableError: No connection was established within ``timeout``.
    """
    credentials = Credentials(server_name=server_name, ca=ca, certificate=certificate, key=key)
    return _open(parse_endpoint(target), credentials, options=options, timeout=timeout, attested=attested)


@contextlib.contextmanager
def open_channels(
    count: int,
    target: str,
    *,
    server_name: str,
    ca: bytes,
    certificate: bytes | None = None,
    key: SecretBytes | None = None,
    timeout: float = 10.0,
    attested: "AttestedPolicy | None" = None,
) -> Iterator[list[ServiceChannel]]:
    """Open ``count`` connections, and close them when the context ends.

    The load balancer chooses a replica for each connection. The other arguments and the errors are as for
    `open_channel`.
    """
    credentials = Credentials(server_name=server_name, ca=ca, certificate=certificate, key=key)
    endpoint = parse_endpoint(target)
    replicas: VerifiedReplicas | None = None
    with contextlib.ExitStack() as stack:
        channels = []
        for _ in range(count):
            channel = stack.enter_context(
                _open(endpoint, credentials, timeout=timeout, attested=attested, replicas=replicas)
            )
            if channel.attested is not None:
                replicas = channel.attested.replicas  # each replica is verified once for all channels
            channels.append(channel)
        yield channels


def _open(
    endpoint: Endpoint,
    credentials: Credentials,
    *,
    options: Sequence[tuple[str, Any]] = (),
    timeout: float,
    attested: "AttestedPolicy | None",
    replicas: "VerifiedReplicas | None" = None,
) -> ServiceChannel:
    now = datetime.now(UTC)
    credentials.check_dates(now)
    # gRPC sends and verifies the authority as the TLS server name, so it is set to the service's name, not the address.
    settings = list((_OPTIONS | {"grpc.default_authority": credentials.server_name} | dict(options)).items())

    def connect(accepted: grpc.ChannelCredentials) -> grpc.Channel:
        return grpc.secure_channel(str(endpoint), accepted, options=settings)

    if attested is not None:
        from sealserve.client.attested_connection import AttestedConnection  # noqa: PLC0415  # only if it is used

        verified = AttestedConnection(endpoint, credentials, attested, replicas=replicas, connect=connect)
        return ServiceChannel(verified.current(timeout=timeout), endpoint, credentials, verified)
    channel = ServiceChannel(connect(credentials.for_grpc(now)), endpoint, credentials)
    try:
        _wait(channel, timeout)
    except BaseException:
        channel.close()
        raise
    return channel


def _wait(channel: ServiceChannel, timeout: float) -> None:
    states: queue.SimpleQueue[grpc.ChannelConnectivity] = queue.SimpleQueue()
    deadline = time.monotonic() + timeout
    fault: SealserveError | None = None
    notify = states.put
    channel.grpc.subscribe(notify, try_to_connect=True)
    try:
        while (left := deadline - time.monotonic()) > 0:
            try:
                state = states.get(timeout=left)
            except queue.Empty:
                break
            if state is grpc.ChannelConnectivity.READY:
                return
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                fault = channel.find_fault() or fault
                if isinstance(fault, TlsError):
                    raise fault
    finally:
        channel.grpc.unsubscribe(notify)
    fault = fault or channel.find_fault()
    raise fault or UnreachableError(
        f"No connection to {channel.endpoint} was established within {timeout:.3g} s.",
        hint="Check that the service is running, or try again with a longer timeout.",
    )
