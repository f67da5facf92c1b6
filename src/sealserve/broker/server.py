"""The broker's server: Gramine's secret provisioning protocol over TLS, with one thread per connection.

The steps are numbered as in `sealserve.broker.decision`: steps 1, 2 and 15 are in this module. A silent or slow peer
occupies one waiting thread for a limited time. It is disconnected when too many peers are connected. Only a few threads
run the expensive part, the appraisal, at the same time.
"""

import contextlib
import errno
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Any, Final, Self

from sealserve.addresses import usable_address
from sealserve.attestation.secret_provisioning import ProvisioningServer
from sealserve.broker.codes import BrokerCode
from sealserve.broker.connections import Connection, Connections
from sealserve.broker.decision import Broker
from sealserve.broker.tls import (
    HandshakeError,
    PeerGoneError,
    PeerTimeoutError,
    TlsSession,
    sends_session_tickets,
    server_context,
)
from sealserve.errors import PortTakenError, SealserveError
from sealserve.pki.certificate import CertifiedKey, describe
from sealserve.pki.tls_material import check_chain
from sealserve.secret import SecretBytes
from sealserve.tcp_ports import BROKER_PORT

_LOG: Final = logging.getLogger(__name__)
_BACKLOG: Final = 128
_EXPIRES_SOON: Final = timedelta(days=14)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on the resources of peers. Times are in seconds.

    Args:
        connections: The maximum number of open connections.
        appraisals: The maximum number of concurrent appraisals.
        first_byte: How long a peer may be silent after connecting. Gramine's client generates its quotes in this time.
        handshake: The maximum duration of the TLS handshake from its first byte.
        request: The maximum duration of the request.
        queue: How long a request may wait for its appraisal to begin.
        send: The maximum time for the peer to receive its key.
        linger: How long to wait for the peer to close the connection.
        stop: How long appraisals in progress may take when the server stops.
    """

    connections: int = 128
    appraisals: int = 4
    first_byte: float = 60
    handshake: float = 15
    request: float = 15
    queue: float = 30
    send: float = 15
    linger: float = 5
    stop: float = 10


class BrokerServer:
    """Serves release keys. Use it as a context manager, or call `start` and `stop`.

    Args:
        broker: Decides on the requests.
        identity: The server's certificate chain and key. Enclaves verify it with the broker's CA certificate.
        listen: The address to listen on.
        port: The port. 0 selects a free port.
        limits: The limits on peers. `None` means the defaults.

    Raises:
        KeyMismatchError: The private key does not match the certificate.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        identity: CertifiedKey,
        listen: str = "127.0.0.1",
        port: int = BROKER_PORT,
        limits: Limits | None = None,
    ) -> None:
        self._broker = broker
        self._chain = identity.chain_pem
        self._context = server_context(identity)
        self._listen = (listen, port)
        self._limits = limits or Limits()
        self._connections = Connections(self._limits.connections)
        self._appraisals = threading.BoundedSemaphore(self._limits.appraisals)
        self._stopping = threading.Event()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None

    @property
    def address(self) -> tuple[str, int]:
        """The address and port that the server listens on. Available after `start`."""
        if self._listener is None:
            raise RuntimeError("the server is not started")
        host, port = self._listener.getsockname()[:2]
        return host, port

    def start(self) -> Self:
        """Start listening. Connections are served in separate threads.

        Raises:
            VerificationError: `certificate.expired` if the server's certificate has expired. Enclaves would reject it.
            CertificateNotYetValidError: The server's certificate is not valid yet.
            PortTakenError: The port is in use.
            InputError: `broker.cannot-listen` if the address does not belong to this machine, or if the port requires
                more privileges.
        """
        # Enclaves reject an invalid certificate. Fail now, where the owner sees the error.
        self._check_certificate()
        if sends_session_tickets(self._context):
            _LOG.warning("TLS 1.3 session tickets are enabled: Gramine 1.8's client will fail (see openssl_settings)")
        # Bind the port in this thread, so that the caller gets the error if the port is in use.
        self._listener = _listen(*self._listen)
        self._stopping.clear()
        self._acceptor = threading.Thread(target=self._accept, name="broker-accept", daemon=True)
        self._acceptor.start()
        _LOG.info("the broker is listening on %s port %d", *self.address)
        return self

    def stop(self) -> None:
        """Stop accepting, wait for appraisals in progress, disconnect all other peers, and finalize the audit log."""
        if self._acceptor is None:
            return
        # Stop accepting new connections.
        self._stopping.set()
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes up accept()
        # The acceptor thread disconnects waiting peers and waits for appraisals in progress.
        self._acceptor.join()
        self._acceptor = self._listener = None
        # The last decision is now in the log. Write the outstanding counts and sign the head.
        with contextlib.suppress(SealserveError):
            self._broker.settle()
        _LOG.info("the broker has stopped")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def serve_until_signalled(self, *, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT. Must be called in the main thread.

        Args:
            ready: Called when the server is listening.

        Raises:
            PortTakenError: The port is in use.
            InputError: `broker.cannot-listen` if the server cannot listen on the address.
        """
        with _signalled(signal.SIGTERM, signal.SIGINT) as wait, self:
            ready()
            wait()

    def _accept(self) -> None:
        listener, limits = self._listener, self._limits
        assert listener is not None  # noqa: S101  # `start` sets it before this thread begins
        with listener, ThreadPoolExecutor(limits.connections + 1, thread_name_prefix="broker") as threads:
            while not self._stopping.is_set():
                # Wait for a peer. An error of one accept() does not stop the server.
                try:
                    stream, address = listener.accept()
                except OSError as error:  # stopping, out of descriptors, or the peer already disconnected
                    if self._stopping.is_set():
                        break
                    _LOG.warning("cannot accept a connection: %s", error)
                    self._stopping.wait(0.1)
                    continue
                # A new peer may replace a waiting peer. If all connections are busy, the new peer is refused.
                connection = Connection(stream, address[0], _peer(address))
                if self._connections.admit(connection):
                    threads.submit(self._serve, connection)
                else:
                    busy = BrokerCode.BUSY.error(
                        f"The broker is busy: all {limits.connections} connections are in use."
                    )
                    self._broker.turn_away(busy, peer=connection.peer)
                    stream.close()
            # Stopping: disconnect waiting peers immediately. Appraisals in progress get a limited time.
            self._connections.shut_waiting()
            if not self._connections.wait_empty(limits.stop):
                _LOG.warning("disconnected %d peers during their appraisal", len(self._connections))

    def _serve(self, connection: Connection) -> None:
        try:
            connection.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._talk(connection)
        except OSError as error:
            self._broker.turn_away(
                PeerGoneError(f"The connection to the peer was lost: {error}."), peer=connection.peer
            )
        except Exception:  # noqa: BLE001  # an error in one connection must not stop the server
            _LOG.exception("internal error while serving %s", connection.peer)
        finally:
            self._connections.close(connection)

    def _talk(self, connection: Connection) -> None:
        limits = self._limits
        session = TlsSession(self._context, connection.stream)
        # 1. The peer proves that it holds the certificate's private key. The certificate's content is checked later.
        try:
            certificate = session.handshake(first_byte_seconds=limits.first_byte, seconds=limits.handshake)
        except (HandshakeError, PeerGoneError, PeerTimeoutError) as error:
            self._broker.turn_away(error, peer=connection.peer)
        else:
            self._answer(session, certificate, connection)
        # Close TLS properly, so that the peer can distinguish the end of the response from a lost connection.
        session.finish(seconds=0 if self._stopping.is_set() else limits.linger)

    def _answer(self, session: TlsSession, certificate: bytes, connection: Connection) -> None:
        limits, peer = self._limits, connection.peer
        protocol = ProvisioningServer()
        # 2. Receive the complete request before any expensive step.
        try:
            self._receive(session, protocol)
        except SealserveError as error:
            self._broker.turn_away(error, peer=peer)
            return
        # 3 to 14. A refusal is recorded in the audit log. The reason is not sent to the peer, which may be an attacker.
        try:
            key = self._appraise(certificate, connection)
        except SealserveError:
            return
        # 15. Send the key once, and wipe its memory even if the connection fails.
        with key, protocol.respond(key) as response:
            try:
                session.send(response.reveal(), seconds=limits.send)
            except (HandshakeError, PeerGoneError, PeerTimeoutError) as error:
                _LOG.warning("the released key could not be delivered to %s: %s", peer, error.message)

    def _receive(self, session: TlsSession, protocol: ProvisioningServer) -> None:
        deadline = time.monotonic() + self._limits.request
        while not protocol.receive(data := session.receive(seconds=deadline - time.monotonic())):
            if not data:
                protocol.end()

    def _appraise(self, certificate: bytes, connection: Connection) -> SecretBytes:
        # From here on the connection is busy and cannot be evicted.
        self._connections.busy(connection)
        try:
            # Only a few appraisals run at a time. A request that waits too long is refused.
            if not self._appraisals.acquire(timeout=self._limits.queue):
                busy = BrokerCode.BUSY.error(
                    f"The broker is busy: no appraisal could begin within {self._limits.queue} s."
                )
                self._broker.turn_away(busy, peer=connection.peer)
                raise busy
            try:
                return self._broker.release_key(certificate, peer=connection.peer)
            finally:
                self._appraisals.release()
        finally:
            self._connections.busy(connection, busy=False)

    def _check_certificate(self) -> None:
        now, source = datetime.now(UTC), "the broker's certificate"
        for outside in check_chain(self._chain, now, source=source):
            _LOG.warning("the broker's certificate chain contains a certificate that is not valid now: %s", outside)
        ends = describe(self._chain, source=source)[0].not_after
        if ends - now < _EXPIRES_SOON:
            _LOG.warning("the broker's certificate expires on %s: renew it", f"{ends:%Y-%m-%d %H:%M} UTC")


def _listen(host: str, port: int) -> socket.socket:
    host = usable_address(host)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # make "::" accept IPv4 too, independently of net.ipv6.bindv6only
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"The broker cannot listen on {host} port {port}: another program already uses the port.",
                hint="Run `ss -ltnp` to find the program and stop it, or set broker.port to a free port.",
            ) from error
        raise BrokerCode.CANNOT_LISTEN.error(
            f"The broker cannot listen on {host} port {port}: {error.strerror or error}.",
            hint="Set broker.listen to an address of this machine and broker.port to 1024 or more.",
        ) from error
    return listener


def _peer(address: Any) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextlib.contextmanager
def _signalled(*signals: signal.Signals) -> Iterator[Callable[[], None]]:
    # The interpreter itself writes to the pipe, from any thread that receives the signal. A Python handler would have
    # to wait for the main thread. That thread may have checked for signals just before it began to block.
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(reading, True)
    awaited = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]  # others stay ignored
    before = {number: signal.signal(number, _ignore) for number in awaited}
    waker = signal.set_wakeup_fd(writing)

    def wait() -> None:
        while os.read(reading, 1)[0] not in signals:
            pass

    try:
        yield wait
    finally:
        signal.set_wakeup_fd(waker)
        for number, previous in before.items():
            signal.signal(number, previous)
        os.close(reading)
        os.close(writing)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing. A registered handler is required for the wake-up descriptor to receive the signal."""
