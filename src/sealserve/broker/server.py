"""The broker's server: Gramine's secret provisioning protocol over TLS, one thread for each connection.

The steps are those of `sealserve.broker.decision`: 1 and 2 happen here before it, and 15 after it. A silent or slow
peer occupies a thread that only waits, for a limited time, and is disconnected when there are too many peers. The
costly part, the appraisal, runs in a few threads at a time.
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
    """What a peer may use, and for how long (seconds).

    Args:
        connections: How many at once.
        appraisals: How many appraisals at once.
        first_byte: How long a peer may be silent after it has connected. Gramine's client makes its quotes then.
        handshake: How long the TLS handshake may take from its first byte.
        request: How long the request may take.
        queue: How long a request may wait for an appraisal to begin.
        send: How long the peer may take to receive its key.
        linger: How long to wait for the peer to close.
        stop: How long appraisals under way may take when the server stops.
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
    """Serves release keys. Use it as a context manager, or `start` and `stop` it.

    Args:
        broker: Decides.
        identity: The server's certificate chain and key. Enclaves verify it against the broker's authority.
        listen: The address to listen on.
        port: The port; 0 takes a free one.
        limits: What peers may use.

    Raises:
        KeyMismatchError: The certificate and the key do not belong together.
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
        """The address and port that the server listens on, once it is started."""
        if self._listener is None:
            raise RuntimeError("the server is not started")
        host, port = self._listener.getsockname()[:2]
        return host, port

    def start(self) -> Self:
        """Begin to listen; connections are served in threads of their own.

        Raises:
            VerificationError: `certificate.expired`: The server's certificate has expired: no enclave would take it.
            CertificateNotYetValidError: It is not valid yet.
            PortTakenError: The port is taken.
            InputError: `broker.cannot-listen`: The address is not one of this machine's, or the port needs other
                rights.
        """
        # Without a valid certificate no enclave would connect: fail now, where the owner sees it.
        self._check_certificate()
        if sends_session_tickets(self._context):
            _LOG.warning("TLS 1.3 session tickets are on: Gramine 1.8's client breaks off (see openssl_settings)")
        # Bind the port in this thread, so that the caller gets the error if the port is taken.
        self._listener = _listen(*self._listen)
        self._stopping.clear()
        self._acceptor = threading.Thread(target=self._accept, name="broker-accept", daemon=True)
        self._acceptor.start()
        _LOG.info("the broker listens on %s port %d", *self.address)
        return self

    def stop(self) -> None:
        """Accept nothing more, let appraisals under way end, break off with all other peers, settle the audit log."""
        if self._acceptor is None:
            return
        # Accept no new connections.
        self._stopping.set()
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes up accept()
        # The acceptor disconnects waiting peers, and waits for appraisals that are in progress.
        self._acceptor.join()
        self._acceptor = self._listener = None
        # Only now is the last decision in the log: write the counts, and sign its head.
        with contextlib.suppress(SealserveError):
            self._broker.settle()
        _LOG.info("the broker has stopped")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def serve_until_signalled(self, *, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT. Call it in the main thread.

        Args:
            ready: Called when the server listens.

        Raises:
            PortTakenError: The port is taken.
            InputError: `broker.cannot-listen`: The address cannot be listened on.
        """
        with _signalled(signal.SIGTERM, signal.SIGINT) as wait, self:
            ready()
            wait()

    def _accept(self) -> None:
        listener, limits = self._listener, self._limits
        assert listener is not None  # noqa: S101  # `start` sets it before this thread begins
        with listener, ThreadPoolExecutor(limits.connections + 1, thread_name_prefix="broker") as threads:
            while not self._stopping.is_set():
                # Wait for a peer. An error of one accept() does not end the server.
                try:
                    stream, address = listener.accept()
                except OSError as error:  # stopping; or out of descriptors, or a peer that was gone at once
                    if self._stopping.is_set():
                        break
                    _LOG.warning("a connection was not accepted: %s", error)
                    self._stopping.wait(0.1)
                    continue
                # A new peer may replace one that only waits. If all are being appraised, the new one is turned away.
                connection = Connection(stream, address[0], _peer(address))
                if self._connections.admit(connection):
                    threads.submit(self._serve, connection)
                else:
                    busy = BrokerCode.BUSY.error(f"No room: all {limits.connections} connections are busy.")
                    self._broker.turn_away(busy, peer=connection.peer)
                    stream.close()
            # Stopping: waiting peers go at once, and appraisals in progress have a limited time.
            self._connections.shut_waiting()
            if not self._connections.wait_empty(limits.stop):
                _LOG.warning("broke off with %d peers while appraising", len(self._connections))

    def _serve(self, connection: Connection) -> None:
        try:
            connection.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._talk(connection)
        except OSError as error:
            self._broker.turn_away(PeerGoneError(f"The connection broke: {error}."), peer=connection.peer)
        except Exception:  # noqa: BLE001  # one connection never takes the server down
            _LOG.exception("an internal error while serving %s", connection.peer)
        finally:
            self._connections.close(connection)

    def _talk(self, connection: Connection) -> None:
        limits = self._limits
        session = TlsSession(self._context, connection.stream)
        # 1. The peer proves that it holds the key of its certificate. What the certificate says comes later.
        try:
            certificate = session.handshake(first_byte_seconds=limits.first_byte, seconds=limits.handshake)
        except (HandshakeError, PeerGoneError, PeerTimeoutError) as error:
            self._broker.turn_away(error, peer=connection.peer)
        else:
            self._answer(session, certificate, connection)
        # Close TLS in order, so that the peer can tell the end of the answer from a connection that was cut.
        session.finish(seconds=0 if self._stopping.is_set() else limits.linger)

    def _answer(self, session: TlsSession, certificate: bytes, connection: Connection) -> None:
        limits, peer = self._limits, connection.peer
        protocol = ProvisioningServer()
        # 2. The request, complete before anything costly begins.
        try:
            self._receive(session, protocol)
        except SealserveError as error:
            self._broker.turn_away(error, peer=peer)
            return
        # 3 to 14. A refusal is in the audit log. The peer gets no reason: it may be an attacker.
        try:
            key = self._appraise(certificate, connection)
        except SealserveError:
            return
        # 15. The key leaves once, and its memory is wiped whatever happens to the connection.
        with key, protocol.respond(key) as response:
            try:
                session.send(response.reveal(), seconds=limits.send)
            except (HandshakeError, PeerGoneError, PeerTimeoutError) as error:
                _LOG.warning("the key that was released to %s did not arrive: %s", peer, error.message)

    def _receive(self, session: TlsSession, protocol: ProvisioningServer) -> None:
        deadline = time.monotonic() + self._limits.request
        while not protocol.receive(data := session.receive(seconds=deadline - time.monotonic())):
            if not data:
                protocol.end()

    def _appraise(self, certificate: bytes, connection: Connection) -> SecretBytes:
        # From here on the connection is not evicted: the broker works for it.
        self._connections.busy(connection)
        try:
            # Few appraisals run at a time; a queue that is too long ends with a refusal.
            if not self._appraisals.acquire(timeout=self._limits.queue):
                busy = BrokerCode.BUSY.error(f"No appraisal could begin within {self._limits.queue} s.")
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
            _LOG.warning("the broker's chain has a certificate that is not valid now: %s", outside)
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
            if family == socket.AF_INET6:  # whatever net.ipv6.bindv6only says: "::" takes IPv4 connections as well
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"Port {port} on {host} is taken.",
                hint="Stop what listens there (`ss -ltnp` shows it), or set broker.port to another one.",
            ) from error
        raise BrokerCode.CANNOT_LISTEN.error(
            f"The broker cannot listen on {host} port {port}: {error.strerror or error}.",
            hint="Set broker.listen to an address of this machine, and broker.port to 1024 or more.",
        ) from error
    return listener


def _peer(address: Any) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextlib.contextmanager
def _signalled(*signals: signal.Signals) -> Iterator[Callable[[], None]]:
    # The interpreter itself writes to the pipe, from whichever thread gets the signal. A handler in Python would
    # have to wait for the main thread, which may have looked for signals just before it began to block.
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(reading, True)
    awaited = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]  # else it stays ignored
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
    """Do nothing: that a signal has a handler is enough to be woken up by it."""
