"""The limit for the bytes that the messages of all clients use at the same time, on all ports together."""

import threading


class Allowance:
    """A limited number of bytes that can be borrowed.

    Args:
        limit: The number of bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lent = 0
        self._refused = False
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Borrow ``size`` bytes if they are available; return whether they are.

        A message of 0 bytes, such as a health probe sends, is always accepted.
        """
        with self._lock:
            if size and self._lent + size > self._limit:
                self._refused = True
                return False
            self._lent += size
            return True

    def take_anyway(self, size: int) -> None:
        """Borrow ``size`` bytes that are already in memory, even if the limit is exceeded. Other requests must wait."""
        with self._lock:
            self._lent += size

    def give_back(self, size: int) -> None:
        """Return borrowed bytes."""
        with self._lock:
            self._lent -= size

    def is_short(self) -> bool:
        """Return whether all bytes are borrowed, or more."""
        return self._lent >= self._limit

    def ran_out(self) -> bool:
        """Return whether a request was rejected since the last call of this method."""
        with self._lock:
            refused, self._refused = self._refused, False
            return refused
