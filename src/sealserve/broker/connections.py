"""The open connections of the broker: bounded in number, so that silent peers cannot use it up.

When there are too many, the one that has waited longest for its peer makes room, taken from the address that has most.
A connection whose evidence is being appraised is never the one.
"""

import contextlib
import socket
import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Connection:
    """An accepted connection."""

    stream: socket.socket
    host: str
    peer: str
    waiting: bool = field(default=True)


class Connections:
    """The open connections, at most ``limit``.

    Args:
        limit: How many.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[Connection, None] = {}  # in order of arrival
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: Connection) -> bool:
        """Take a new connection in, if need be in an older one's place; False when all are busy."""
        with self._changed:
            # When all places are taken, the peer that has waited longest loses its place.
            if len(self._open) >= self._limit and not self._evict():
                return False
            self._open[connection] = None
            return True

    def busy(self, connection: Connection, *, busy: bool = True) -> None:
        """Note that the broker works for a connection, so that it is not evicted; or that it waits for its peer."""
        with self._changed:
            connection.waiting = not busy

    def close(self, connection: Connection) -> None:
        """Close a connection and forget it."""
        with self._changed:  # nobody may shut a descriptor down that is closed here, and perhaps used again
            self._open.pop(connection, None)
            connection.stream.close()
            self._changed.notify_all()

    def shut_waiting(self) -> None:
        """Break off with all peers that the broker waits for."""
        with self._changed:
            for connection in self._open:
                if connection.waiting:
                    _shut(connection)

    def wait_empty(self, seconds: float) -> bool:
        """Wait for all connections to end; then break off with those that are left, and say whether there were none."""
        with self._changed:
            # Give appraisals that are in progress their time.
            if self._changed.wait_for(lambda: not self._open, seconds):
                return True
            # Disconnect the rest. Their threads then end with an error of their socket.
            for connection in self._open:
                _shut(connection)
            return False

    def _evict(self) -> bool:
        # Only peers that the broker waits for: an appraisal in progress is never lost.
        waiting = [connection for connection in self._open if connection.waiting]
        if not waiting:
            return False
        # Of these, the oldest of the address that has most, so that one address cannot push out all others.
        held = Counter(connection.host for connection in waiting)
        most = max(held.values())
        oldest = next(connection for connection in waiting if held[connection.host] == most)
        # Its thread still closes the socket: here it is only shut down, which wakes that thread up.
        del self._open[oldest]
        _shut(oldest)
        return True


def _shut(connection: Connection) -> None:
    with contextlib.suppress(OSError):
        connection.stream.shutdown(socket.SHUT_RDWR)
