"""Peers that have connected and not sent a byte yet. They need no thread, so the broker can hold thousands of them.

Gramine's client connects first and then generates its quote, so that an honest enclave is silent for one or two
seconds. A flood of new connections must not push it out during this time. At the limit, a new peer replaces a peer:

1. If a network holds more than its share of the places, it loses a place. A flood from one address, or from one
   IPv6 /64, therefore replaces only its own connections.
2. Otherwise, the whole set loses a place. A share is needed because an honest host connects several enclaves: without
   it, a flood from many addresses with one connection each would replace the enclaves of that host first.
3. The place is the oldest one, if its peer had the guaranteed time to generate a quote. Otherwise it is the youngest
   one. Under a fast flood, an admitted peer thus has its guaranteed time with a known probability, instead of never.
"""

import contextlib
import errno
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from sealserve.broker.limiter import network_of

SHARE: Final = 8
"""A network may hold one eighth of the places before it competes only with itself."""


@dataclass(slots=True, eq=False)
class SilentPeer:
    """A connected peer that has not sent a byte.

    Args:
        stream: The accepted socket.
        peer: The address and port of the peer.
        since: The time of the connection, in seconds of the monotonic clock.
    """

    stream: socket.socket
    peer: str
    since: float = 0.0


class SilentPeers:
    """The silent peers of a server, and its listening socket. It belongs to one thread.

    Args:
        listener: The listening socket, in non-blocking mode.
        limit: The maximum number of silent peers.
        quoting: The time that an admitted peer is guaranteed for its quote, in seconds.
        clock: Returns the time in seconds. It never goes backwards.
    """

    def __init__(
        self, listener: socket.socket, *, limit: int, quoting: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._share = max(limit // SHARE, 1)
        self._quoting = quoting
        self._clock = clock
        self._all: dict[SilentPeer, None] = {}  # in order of arrival
        self._networks: dict[str, dict[SilentPeer, None]] = {}  # each in order of arrival
        self._large: set[str] = set()  # the networks above their share: fewer than `SHARE` + 1
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)

    def __len__(self) -> int:
        return len(self._all)

    def wait(self, seconds: float) -> tuple[list[SilentPeer], bool]:
        """Wait for events.

        Args:
            seconds: The maximum time to wait.

        Returns:
            The peers that sent a byte or disconnected, which are removed from the set, and whether the listener has
            new connections.
        """
        data = [key.data for key, _ in self._selector.select(seconds)]
        # Remove these peers before new connections are admitted: a new connection must not replace them.
        ready = [peer for peer in data if peer is not None]
        for peer in ready:
            self._remove(peer)
        return ready, len(ready) < len(data)

    def admit(self, peer: SilentPeer) -> SilentPeer | None:
        """Add a new peer. Return the peer that it replaces, if the limit is reached. The caller closes it.

        Raises:
            OSError: The kernel cannot watch another socket. The new peer is disconnected, and no peer is replaced.
        """
        # Register first: if this fails, the set is unchanged.
        try:
            self._selector.register(peer.stream, selectors.EVENT_READ, peer)
        except OSError:
            peer.stream.close()
            raise
        replaced = self._choose() if len(self._all) >= self._limit else None
        if replaced is not None:
            self._remove(replaced)
        peer.since = self._clock()
        network = network_of(peer.peer)
        self._all[peer] = None
        members = self._networks.setdefault(network, {})
        members[peer] = None
        if len(members) > self._share:
            self._large.add(network)
        return replaced

    def expired(self, seconds: float) -> Iterator[SilentPeer]:
        """Remove and yield the peers that have been silent for more than ``seconds``. The caller closes them."""
        now = self._clock()
        while self._all and now - (oldest := next(iter(self._all))).since > seconds:
            self._remove(oldest)
            yield oldest

    def close(self) -> None:
        """Disconnect all silent peers."""
        self._selector.close()
        for peer in self._all:
            peer.stream.close()
        self._all.clear()
        self._networks.clear()
        self._large.clear()

    def _choose(self) -> SilentPeer:
        # A network above its share competes only with itself. The other peers are not affected.
        if self._large:
            peers = self._networks[max(self._large, key=lambda network: len(self._networks[network]))]
        else:
            peers = self._all
        # An old peer had the time for its quote. Without old peers, keep the peers nearest to their first byte.
        oldest = next(iter(peers))
        return oldest if self._clock() - oldest.since >= self._quoting else next(reversed(peers))

    def _remove(self, peer: SilentPeer) -> None:
        self._selector.unregister(peer.stream)
        del self._all[peer]
        network = network_of(peer.peer)
        members = self._networks[network]
        del members[peer]
        if len(members) <= self._share:
            self._large.discard(network)
        if not members:
            del self._networks[network]


def has_data(stream: socket.socket) -> bool:
    """Return whether a readable socket has data. Without data, the peer has disconnected."""
    try:
        return bool(stream.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError as error:
        return error.errno == errno.EAGAIN


def accept_all(listener: socket.socket, *, limit: int) -> Iterator[tuple[socket.socket, tuple[str, int]]]:
    """Yield up to ``limit`` connections that wait at a non-blocking listener, with their addresses.

    Raises:
        OSError: The listener is shut down, or the process cannot open another descriptor.
    """
    with contextlib.suppress(BlockingIOError):
        for _ in range(limit):
            stream, address = listener.accept()
            yield stream, address
