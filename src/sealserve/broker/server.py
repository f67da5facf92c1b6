"""The broker's server: Gramine's secret provisioning protocol over TLS, and attestation results beside it.

The steps are numbered as in `sealserve.broker.decision`: steps 1, 2 and 15 are in this module. One thread accepts
connections and waits for the first byte of every silent peer (see `sealserve.broker.arrivals`). After its first
byte, a connection gets its own thread. A slow peer occupies this thread for a limited time, and is disconnected
when too many connections have a thread. Only a few threads run the expensive part, the appraisal, at the same time.
"""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Self, TypeVar

from sealserve.attestation.secret_provisioning import ProvisioningServer
from sealserve.broker import attest_conversation, token_conversation
from sealserve.broker.application_protocols import ATTEST, RESULTS
from sealserve.broker.appraisal_places import Place
from sealserve.broker.arrivals import Arrivals, ListeningArrivals
from sealserve.broker.attest_issuer import AttestIssuer
from sealserve.broker.codes import BrokerCode
from sealserve.broker.connections import Connection, Connections
from sealserve.broker.decision import Broker
from sealserve.broker.limiter import network_of
from sealserve.broker.reloaded import Reloaded
from sealserve.broker.server_identity import ServerIdentity
from sealserve.broker.server_limits import Limits
from sealserve.broker.service_loop import run
from sealserve.broker.silent_peers import SilentPeer
from sealserve.broker.stage_times import RequestTimes, Stage
from sealserve.broker.tls import (
    HandshakeError,
    PeerGoneError,
    PeerTimeoutError,
    TlsSession,
)
from sealserve.broker.token_issuer import TokenIssuer
from sealserve.errors import SealserveError
from sealserve.log_line import fields
from sealserve.pki.certificate import CertifiedKey
from sealserve.secret import SecretBytes
from sealserve.signal_pipe import SignalPipe
from sealserve.systemd_notify import Notifier
from sealserve.tcp_ports import BROKER_PORT

_LOG: Final = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class BrokerServer:
    """Serves release keys. Use it as a context manager, or call `start` and `stop`.

    Args:
        broker: Decides on the requests.
        identity: The server's certificate chain and key. Enclaves verify it with the broker's CA certificate. A
            `ServerIdentity` can be replaced while the server runs.
        listen: The address to listen on.
        port: The port. 0 selects a free port.
        limits: The limits on peers. `None` means the defaults.
        results: Issues attestation results. `None` means that the server refuses the protocol for them.
        attested: Answers enclaves with their own TLS keys. `None` means that the server refuses their protocol.
        reloaded: Further values to reload when their files change.
        arrivals: The source of the connections. `None` listens on ``listen`` and ``port``.
        name: The server's name in the log.

    Raises:
        KeyMismatchError: The private key does not match the certificate.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        identity: CertifiedKey | ServerIdentity,
        listen: str = "127.0.0.1",
        port: int = BROKER_PORT,
        limits: Limits | None = None,
        results: TokenIssuer | None = None,
        attested: AttestIssuer | None = None,
        reloaded: Sequence[Reloaded[Any]] = (),
        arrivals: Arrivals | None = None,
        name: str = "the broker",
    ) -> None:
        self._broker = broker
        self._name = name
        self._results = results
        self._attested = attested
        if not isinstance(identity, ServerIdentity):
            offered = ((RESULTS, results), (ATTEST, attested))
            identity = ServerIdentity.fixed(identity, [name for name, issuer in offered if issuer is not None])
        self._identity = identity
        self._reloaded = (identity, *reloaded)
        self._limits = limits or Limits()
        self._arrivals = ListeningArrivals(listen, port, self._limits) if arrivals is None else arrivals
        self._connections = Connections(self._limits.connections)
        self._appraisals = threading.BoundedSemaphore(self._limits.appraisals)
        self._downloads = threading.BoundedSemaphore(self._limits.downloads)
        self._stopping = threading.Event()
        self._acceptor: threading.Thread | None = None

    @property
    def address(self) -> tuple[str, int]:
        """The address and port that the server listens on. Available after `start`."""
        return self._arrivals.address

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
        self._identity.value.warn(datetime.now(UTC))
        # Bind the port in this thread, so that the caller gets the error if the port is in use.
        self._arrivals.open()
        self._stopping.clear()
        self._acceptor = threading.Thread(target=self._accept, name="broker-accept", daemon=True)
        self._acceptor.start()
        _LOG.info("%s is listening on %s port %d", self._name, *self.address)
        return self

    def stop(self) -> None:
        """Stop accepting, wait for appraisals in progress, disconnect all other peers, and finalize the audit log."""
        if self._acceptor is None:
            return
        # Stop accepting new connections.
        self._stopping.set()
        self._arrivals.wake()
        # The acceptor thread disconnects waiting peers and waits for appraisals in progress.
        self._acceptor.join()
        self._acceptor = None
        # The last decision is now in the log. Write the outstanding counts and sign the head.
        with contextlib.suppress(SealserveError):
            self._broker.settle()
        _LOG.info("%s has stopped", self._name)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def check_ready(self) -> None:
        """Check that this server can release keys now: it listens, its certificate is valid, its database answers.

        Raises:
            UnavailableError: `broker.busy` if the server does not accept connections.
            VerificationError: `certificate.expired` if the server's certificate has expired.
            UnavailableError: `broker.database` if the database failed.
        """
        if not self.is_serving():
            raise BrokerCode.BUSY.error("The broker does not accept connections: it is starting or stopping.")
        self._identity.value.check(datetime.now(UTC))
        self._broker.check_database()

    def is_serving(self) -> bool:
        """Return whether the server accepts connections."""
        return self._acceptor is not None and self._acceptor.is_alive() and not self._stopping.is_set()

    def reload(self) -> None:
        """Load the certificate and the other files again. An invalid file leaves the former value in place."""
        for value in self._reloaded:
            value.reload()

    def poll(self) -> None:
        """Load the files that have changed. Call this method about once a second."""
        for value in self._reloaded:
            value.poll()

    def reloads(self) -> Mapping[str, bool]:
        """Return whether the last attempt to load each value succeeded, by the value's name."""
        return {value.what: value.problem is None for value in self._reloaded}

    def connections(self) -> Mapping[str, int]:
        """Return the number of open connections: silent, waiting for the peer, and with an appraisal in progress."""
        opened, busy = self._connections.counts()
        return {"silent": len(self._arrivals), "waiting": opened - busy, "busy": busy}

    def describe(self) -> str:
        """Return the server's state as one sentence, for ``systemctl status``."""
        failed = "".join(f"; the new {value.what} cannot be used" for value in self._reloaded if value.problem)
        host, port = self.address
        return f"Listening on {host} port {port}; certificate until {self._identity.value.ends:%Y-%m-%d}{failed}"

    def serve_until_signalled(
        self, signals: SignalPipe, *, ready: Callable[[], None] = lambda: None, notifier: Notifier | None = None
    ) -> None:
        """Serve until SIGTERM or SIGINT. Must be called in the main thread. See `sealserve.broker.service_loop`.

        Args:
            signals: The pipe from `signalled`.
            ready: Called when the server is listening.
            notifier: Reports to systemd. `None` reports nothing.

        Raises:
            PortTakenError: The port is in use.
            InputError: `broker.cannot-listen` if the server cannot listen on the address.
        """
        signals.begin()
        with self:
            ready()
            run(self, signals.wait, notifier or Notifier(None))

    def _accept(self) -> None:
        limits = self._limits
        with ThreadPoolExecutor(limits.connections + 1, thread_name_prefix="broker") as threads:
            # Each peer that has sent its first byte gets a thread.
            self._arrivals.run(self._stopping, partial(self._begin, threads=threads), self._drop)
            # Stopping: disconnect waiting peers immediately. Appraisals in progress get a limited time.
            self._connections.shut_waiting()
            if not self._connections.wait_empty(limits.stop):
                _LOG.warning("disconnected %d peers during their appraisal", len(self._connections))

    def _begin(self, peer: SilentPeer, *, threads: ThreadPoolExecutor) -> None:
        # A new connection may replace a waiting one. If all connections are busy, the new connection is refused.
        connection = Connection(peer.stream, network_of(peer.peer), peer.peer)
        if self._connections.admit(connection):
            threads.submit(self._serve, connection)
        else:
            busy = BrokerCode.BUSY.error(f"The broker is busy: all {self._limits.connections} connections are in use.")
            self._drop(peer, busy)
            self._arrivals.ended()

    def _drop(self, peer: SilentPeer, error: SealserveError) -> None:
        peer.stream.close()
        self._broker.turn_away(error, peer=peer.peer)

    def _serve(self, connection: Connection) -> None:
        times = self._broker.stages.request()
        try:
            connection.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._talk(connection, times)
        except OSError as error:
            self._broker.turn_away(
                PeerGoneError(f"The connection to the peer was lost: {error}."), peer=connection.peer
            )
        except Exception:  # noqa: BLE001  # an error in one connection must not stop the server
            _LOG.exception("internal error while serving %s", connection.peer, extra=fields(peer=connection.peer))
        finally:
            self._connections.close(connection)
            self._arrivals.ended()
            times.record()

    def _talk(self, connection: Connection, times: RequestTimes) -> None:
        limits = self._limits
        session = TlsSession(self._identity.value.context, connection.stream)
        times.begin(Stage.HANDSHAKE)
        # 1. The peer proves that it holds the certificate's private key. The certificate's content is checked later.
        try:
            certificate = session.handshake(first_byte_seconds=limits.first_byte, seconds=limits.handshake)
        except (HandshakeError, PeerGoneError, PeerTimeoutError) as error:
            self._broker.turn_away(error, peer=connection.peer)
        else:
            if certificate is None:
                self._attest(session, connection, times)
            elif self._results is not None and session.application_protocol == RESULTS:
                token_conversation.answer(
                    session,
                    certificate,
                    issuer=self._results,
                    peer=connection.peer,
                    appraising=lambda step: self._in_place(connection, lambda place: step(place.downloading)),
                    turn_away=partial(self._broker.turn_away, peer=connection.peer),
                    request_seconds=limits.request,
                    send_seconds=limits.send,
                )
            else:
                self._answer(session, certificate, connection, times)
        # Close TLS properly, so that the peer can distinguish the end of the response from a lost connection.
        session.finish(seconds=0 if self._stopping.is_set() else limits.linger)

    def _attest(self, session: TlsSession, connection: Connection, times: RequestTimes) -> None:
        assert self._attested is not None  # noqa: S101  # otherwise ALPN does not select the protocol
        attest_conversation.answer(
            session,
            issuer=self._attested,
            peer=connection.peer,
            appraising=lambda step: self._in_place(connection, lambda place: step(place.downloading, place.leave)),
            turn_away=partial(self._broker.turn_away, peer=connection.peer),
            times=times,
            request_seconds=self._limits.request + self._limits.quoting,
            send_seconds=self._limits.send,
        )

    def _answer(self, session: TlsSession, certificate: bytes, connection: Connection, times: RequestTimes) -> None:
        limits, peer = self._limits, connection.peer
        protocol = ProvisioningServer()
        # 2. Receive the complete request before any expensive step.
        times.begin(Stage.REQUEST)
        try:
            token_conversation.receive(session, protocol, seconds=limits.request)
        except SealserveError as error:
            self._broker.turn_away(error, peer=peer)
            return
        # 3 to 14. A refusal is recorded in the audit log. The reason is not sent to the peer, which may be an attacker.
        try:
            times.begin(Stage.QUEUE)
            key = self._in_place(connection, partial(self._release, certificate, connection.peer, times))
        except SealserveError:
            return
        times.begin(Stage.SEND)
        # 15. Send the key once, and wipe its memory even if the connection fails.
        with key, protocol.respond(key) as response:
            try:
                session.send(response.reveal(), seconds=limits.send)
            except (HandshakeError, PeerGoneError, PeerTimeoutError) as error:
                extra = fields(peer=peer, code=error.code)
                _LOG.warning("the released key could not be delivered to %s: %s", peer, error.message, extra=extra)
            else:
                times.succeed()

    def _release(self, certificate: bytes, peer: str, times: RequestTimes, place: Place) -> SecretBytes:
        return self._broker.release_key(
            certificate, peer=peer, downloading=place.downloading, appraised=place.leave, times=times
        )

    def _in_place(self, connection: Connection, step: Callable[[Place], _Result]) -> _Result:
        # From here on the connection is busy and cannot be evicted.
        self._connections.busy(connection)
        try:
            # Only a few appraisals run at a time. A request that waits too long is refused.
            try:
                place = Place(self._appraisals, self._downloads, self._limits)
            except SealserveError as busy:
                self._broker.turn_away(busy, peer=connection.peer)
                raise
            with place:
                return step(place)
        finally:
            self._connections.busy(connection, busy=False)
