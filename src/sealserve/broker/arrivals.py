"""The source of the broker's connections: a listening socket, with the peers that have not sent a byte yet.

`ListeningArrivals` accepts connections and holds them until their first byte. If the broker has several processes, it
runs in their supervisor, and `sealserve.broker.processes.handover` is the source of each process.
"""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import Final, Protocol

from sealserve.broker.codes import BrokerCode
from sealserve.broker.listening import affordable, bind, listen, peer_name
from sealserve.broker.server_limits import Limits
from sealserve.broker.silent_peers import SilentPeer, SilentPeers, accept_all, has_data
from sealserve.broker.tls import PeerGoneError, PeerTimeoutError
from sealserve.errors import SealserveError

_LOG: Final = logging.getLogger(__name__)
_ACCEPTED_AT_ONCE: Final = 64  # before peers that have sent a byte have their turn
_EXPIRY_CHECK: Final = 0.5  # seconds

Begin = Callable[[SilentPeer], None]
"""Serves a connection whose peer has sent its first byte."""
Drop = Callable[[SilentPeer, SealserveError], None]
"""Closes a connection, and records the reason."""


class Arrivals(Protocol):
    """A source of connections."""

    @property
    def address(self) -> tuple[str, int]:
        """The address and port of the broker. Available after `open`."""

    def __len__(self) -> int:
        """Return the number of connections that have not sent a byte yet."""

    def open(self) -> None:
        """Begin to listen."""

    def run(self, stopping: threading.Event, begin: Begin, drop: Drop) -> None:
        """Call ``begin`` with each connection, until ``stopping`` is set or the source ends."""

    def wake(self) -> None:
        """Let `run` notice at once that ``stopping`` is set."""

    def ended(self) -> None:
        """Report that a connection has ended that ``begin`` was called with."""


class ListeningArrivals:
    """Accepts connections, and holds each one until its first byte. Its `run` belongs to one thread.

    Args:
        host: The address to listen on.
        port: The port. 0 selects a free port.
        limits: The limits on peers.
    """

    def __init__(self, host: str, port: int, limits: Limits) -> None:
        self._listen = (host, port)
        self._limits = limits
        self._listener: socket.socket | None = None
        self._silent: SilentPeers | None = None

    @property
    def address(self) -> tuple[str, int]:
        """The address and port of the broker. Available after `open`."""
        if self._listener is None:
            raise RuntimeError("the server is not started")
        host, port = self._listener.getsockname()[:2]
        return host, port

    def __len__(self) -> int:
        """Return the number of connections that have not sent a byte yet."""
        return len(self._silent or ())

    def bind(self) -> None:
        """Reserve the address. Connections are refused until `open`.

        Raises:
            SealserveError: As `sealserve.broker.listening.bind`.
        """
        self._listener = bind(*self._listen)

    def open(self) -> None:
        """Begin to listen.

        Raises:
            SealserveError: As `sealserve.broker.listening.bind`.
        """
        if self._listener is None:
            self.bind()
        assert self._listener is not None  # noqa: S101  # `bind` sets it
        try:
            listen(self._listener)
        except SealserveError:
            self.close()
            raise

    def close(self) -> None:
        """Give up the address, if `run` was not called. It does so itself."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def run(self, stopping: threading.Event, begin: Begin, drop: Drop) -> None:
        """Accept connections until ``stopping`` is set. Then close the listening socket and the silent connections."""
        listener, limits = self._listener, self._limits
        assert listener is not None  # noqa: S101  # `open` sets it
        listener.setblocking(False)
        self._silent = silent = SilentPeers(listener, limit=affordable(limits), quoting=limits.quoting)
        with listener, contextlib.closing(silent):
            while not stopping.is_set():
                ready, arrived = silent.wait(min(limits.first_byte, _EXPIRY_CHECK))
                # A peer has sent its first byte. A peer that disconnected without a byte is not served.
                for peer in ready:
                    if has_data(peer.stream):
                        begin(peer)
                    else:
                        drop(peer, PeerGoneError("The peer closed the connection before its first byte."))
                # Disconnect peers that are silent for too long.
                for peer in silent.expired(limits.first_byte):
                    drop(peer, PeerTimeoutError("The peer exceeded the time limit for its first byte."))
                # Accept new peers. An error of one accept() does not stop the server.
                if arrived:
                    try:
                        _admit_all(silent, listener, drop)
                    except OSError as error:  # stopping, out of descriptors, or the peer already disconnected
                        if stopping.is_set():
                            break
                        _LOG.warning("cannot accept a connection: %s", error)
                        stopping.wait(0.1)

    def wake(self) -> None:
        """Let `run` notice at once that ``stopping`` is set."""
        if self._listener is not None:
            with contextlib.suppress(OSError):  # `run` may have ended already, and closed the socket
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes up accept()

    def ended(self) -> None:
        """Do nothing: this source does not count connections after their first byte."""


def _admit_all(silent: SilentPeers, listener: socket.socket, drop: Drop) -> None:
    for stream, address in accept_all(listener, limit=_ACCEPTED_AT_ONCE):
        replaced = silent.admit(SilentPeer(stream, peer_name(address)))
        if replaced is not None:
            busy = BrokerCode.BUSY.error("The broker is busy: a new connection replaced this silent connection.")
            drop(replaced, busy)
