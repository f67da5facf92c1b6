"""A limit for the rate of requests: in total, and for each client, so that one client cannot use up the total."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

_PEERS: Final = 1024
"""Maximum number of clients that are remembered. The total limits them, so forgetting a client is safe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A permitted rate.

    Args:
        per_second: Requests per second in the long run.
        burst: Requests that may arrive at once.
    """

    per_second: float
    burst: int


class Bucket:
    """A token bucket. It is full at the beginning."""

    __slots__ = ("_left", "_rate", "_since")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._left = float(rate.burst)
        self._since = now

    def wait(self, now: float) -> float:
        """Return the seconds until the next request is permitted, or 0."""
        elapsed = max(now - self._since, 0.0)
        self._left = min(self._rate.burst, self._left + elapsed * self._rate.per_second)
        self._since = max(now, self._since)
        return max((1.0 - self._left) / self._rate.per_second, 0.0)

    def take(self) -> None:
        """Use up one request."""
        self._left -= 1.0


class RateLimit:
    """A limit in total and for each client. Many threads may use it.

    Args:
        total: The rate of all clients together.
        peer: The rate of one client.
    """

    def __init__(self, *, total: Rate, peer: Rate) -> None:
        self._peer_rate = peer
        self._total = Bucket(total, 0.0)
        self._peers: OrderedDict[bytes, Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, peer: bytes, now: float) -> float:
        """Count a request if it is permitted. Return 0, or else the seconds after which the client may retry.

        A rejected request does not count, neither for the client nor for the total.

        Args:
            peer: An identifier of the client.
            now: The time on the clock of `time.monotonic`.
        """
        with self._lock:
            bucket = self._peers.get(peer)
            if bucket is None:
                bucket = self._peers[peer] = Bucket(self._peer_rate, now)
                if len(self._peers) > _PEERS:
                    self._peers.popitem(last=False)
            else:
                self._peers.move_to_end(peer)
            wait = max(bucket.wait(now), self._total.wait(now))
            if not wait:
                bucket.take()
                self._total.take()
            return wait
