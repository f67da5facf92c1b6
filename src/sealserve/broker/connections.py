"""The broker's connections that have sent a byte. Their number is limited, so that slow peers cannot exhaust threads.

At the limit, a new connection replaces a connection whose peer keeps the broker waiting. A network that holds more than
its share of the waiting connections loses its oldest one. Without such a network, the oldest of all is replaced: an
honest host connects several enclaves, and must not lose them to a flood from many addresses. A connection with an
appraisal in progress is never replaced.
"""

import contextlib
import socket
import threading
from collections import Counter
from dataclasses import dataclass, field

from sealserve.broker.silent_peers import SHARE


@dataclass(slots=True, eq=False)
class Connection:
    """A connection that has sent a byte.

    Args:
        stream: The socket.
        network: The network of the peer (see `sealserve.broker.limiter.network_of`).
        peer: The address and port of the peer.
        waiting: Whether the broker waits for the peer.
    """

    stream: socket.socket
    network: str
    peer: str
    waiting: bool = field(default=True)


class Connections:
    """The open connections of the broker.

    Args:
        limit: The maximum number of open connections.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[Connection, None] = {}  # in order of arrival
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._open)

    def counts(self) -> tuple[int, int]:
        """Return the number of open connections, and the number of connections with an appraisal in progress."""
        with self._changed:
            return len(self._open), sum(not connection.waiting for connection in self._open)

    def admit(self, connection: Connection) -> bool:
        """Add a new connection. At the limit it replaces a waiting connection. Return `False` if all are busy."""
        with self._changed:
            # At the limit, a waiting peer is disconnected in favor of the new peer.
            if len(self._open) >= self._limit and not self._evict():
                return False
            self._open[connection] = None
            return True

    def busy(self, connection: Connection, *, busy: bool = True) -> None:
        """Mark a connection as busy, so that it is not evicted, or as waiting for its peer (``busy=False``)."""
        with self._changed:
            connection.waiting = not busy

    def close(self, connection: Connection) -> None:
        """Close a connection and remove it from the set."""
        with self._changed:  # under the lock, no other thread can shut down a descriptor that is closed and reused
            self._open.pop(connection, None)
            connection.stream.close()
            self._changed.notify_all()

    def shut_waiting(self) -> None:
        """Disconnect all peers that the broker waits for."""
        with self._changed:
            for connection in self._open:
                if connection.waiting:
                    _shut(connection)

    def wait_empty(self, seconds: float) -> bool:
        """Wait for all connections to end, then disconnect the remaining ones. Return whether none remained.

        Args:
            seconds: The maximum time to wait.
        """
        with self._changed:
            # Give appraisals in progress time to complete.
            if self._changed.wait_for(lambda: not self._open, seconds):
                return True
            # Disconnect the others. Their threads then end with a socket error.
            for connection in self._open:
                _shut(connection)
            return False

    def _evict(self) -> bool:
        # Consider only peers that the broker waits for: an appraisal in progress is never interrupted.
        waiting = [connection for connection in self._open if connection.waiting]
        if not waiting:
            return False
        # A network above its share competes only with itself, so that it cannot evict the others.
        network, held = Counter(connection.network for connection in waiting).most_common(1)[0]
        share = max(self._limit // SHARE, 1)
        oldest = next(connection for connection in waiting if held <= share or connection.network == network)
        # The connection's own thread closes the socket. Shutting it down here wakes that thread.
        del self._open[oldest]
        _shut(oldest)
        return True


def _shut(connection: Connection) -> None:
    with contextlib.suppress(OSError):
        connection.stream.shutdown(socket.SHUT_RDWR)
