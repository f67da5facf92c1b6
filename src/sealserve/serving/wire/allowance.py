"""How many bytes the messages of all peers may take at once, on every port together."""

import threading


class Allowance:
    """A number of bytes that is lent out.

    Args:
        limit: The bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lent = 0
        self._refused = False
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Lend ``size`` bytes, or none where they are not there; return whether they were.

        A message without bytes, as probes of health send it, is always let in.
        """
        with self._lock:
            if size and self._lent + size > self._limit:
                self._refused = True
                return False
            self._lent += size
            return True

    def take_anyway(self, size: int) -> None:
        """Lend ``size`` bytes that are in memory already: others will have to wait for them."""
        with self._lock:
            self._lent += size

    def give_back(self, size: int) -> None:
        """Take back what was lent."""
        with self._lock:
            self._lent -= size

    def is_short(self) -> bool:
        """Whether all bytes are lent, or more."""
        return self._lent >= self._limit

    def ran_out(self) -> bool:
        """Whether somebody was refused since this was asked last."""
        with self._lock:
            refused, self._refused = self._refused, False
            return refused
