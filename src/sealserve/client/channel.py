"""Connections to the service: gRPC over TLS that ends inside the enclave."""

import contextlib
import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import grpc

from sealserve.client.connection_fault import UnreachableError, find_fault
from sealserve.client.credentials import Credentials, Endpoint, TlsError, parse_endpoint
from sealserve.errors import SealserveError
from sealserve.secret import SecretBytes

_DIAGNOSIS_SECONDS = 3.0
_OPTIONS: dict[str, Any] = {
    # Channels to one address share connections otherwise, and all requests would reach a single replica.
    "grpc.use_local_subchannel_pool": 1,
    "grpc.max_send_message_length": -1,
    "grpc.max_receive_message_length": -1,
    # A proxy in the environment is meant for the web; ask for it with an option of your own.
    "grpc.enable_http_proxy": 0,
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 2000,
}


@dataclass(frozen=True, slots=True)
class ServiceChannel:
    """A connection to one replica, whichever the proxy chose. Close it, or use it in a ``with`` statement.

    Attributes:
        grpc: gRPC's own channel.
        endpoint: The address that it connects to.
        credentials: Whom it expects there, and who we are.
    """

    grpc: grpc.Channel
    endpoint: Endpoint
    credentials: Credentials

    def find_fault(self) -> SealserveError | None:
        """Return why a new connection to this address does not come about, or None where it does."""
        return find_fault(self.endpoint, self.credentials, timeout=_DIAGNOSIS_SECONDS)

    def close(self) -> None:
        """Close the connection; requests under way are cancelled."""
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
) -> ServiceChannel:
    """Connect to the service. Each call makes a connection of its own.

    A service that is not up yet is tried again until ``timeout``; what TLS refuses fails at once.

    Args:
        target: Where to connect to, ``host:port``.
        server_name: The service's name: sent as SNI, and required in its certificate, whatever ``target`` says.
        ca: The certificate of the authority that signs the service's certificates, PEM.
        certificate: The client's certificate chain for two-way TLS, PEM.
        key: The client's private key for two-way TLS, PEM.
        options: gRPC channel options, added to ours or in place of them.
        timeout: Seconds to wait for the connection.

    Raises:
        InputError: `client.target`: ``target`` is no address.
        `client.credentials`, `certificate.unreadable`, `certificate.unsupported`, `certificate.key-unreadable`,
            KeyMismatchError: As `Credentials`.
        VerificationError: `certificate.expired`: The client's certificate is outside its dates.
        CertificateNotYetValidError: The client's certificate is outside its dates.
        TlsError: The two sides do not agree on TLS; the subclass says why.
        UnreachableError: There was no connection within ``timeout``.
    """
    endpoint = parse_endpoint(target)
    credentials = Credentials(server_name=server_name, ca=ca, certificate=certificate, key=key)
    now = datetime.now(UTC)
    credentials.check_dates(now)
    # The authority is also the name that TLS sends and checks: so it goes to an address, and stays the service's name.
    settings = _OPTIONS | {"grpc.default_authority": server_name} | dict(options)
    channel = ServiceChannel(
        grpc.secure_channel(
            str(endpoint),
            credentials.for_grpc(now),
            options=list(settings.items()),
        ),
        endpoint,
        credentials,
    )
    try:
        _wait(channel, timeout)
    except BaseException:
        channel.close()
        raise
    return channel


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
) -> Iterator[list[ServiceChannel]]:
    """Open ``count`` connections, each to the replica that the proxy chooses, and close them in the end.

    The other arguments, and the errors, are those of `open_channel`.
    """
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                open_channel(target, server_name=server_name, ca=ca, certificate=certificate, key=key, timeout=timeout)
            )
            for _ in range(count)
        ]


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
        f"No connection to {channel.endpoint} within {timeout:.3g} s.", hint="Try again, with more time."
    )
