"""How much strangers may have the broker write: each a few lines, and a count of the others.

Whoever reaches the port can be refused as often as he likes. One row or line for each would fill the disk, so a network
(an IPv4 address, or the /64 of an IPv6 address, since that much is anybody's) has a token bucket, and all together have
another. What goes over is counted by network and code: `Tally` says how many, so that nothing is lost without a trace.
"""

import contextlib
import ipaddress
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

OTHERS: Final = "other addresses"
"""Where refusals are counted when there are too many networks to count each."""

_IPV6_NETWORK: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What a token bucket allows: ``burst`` at once, and one more every ``seconds``."""

    burst: int
    seconds: float


@dataclass(slots=True, kw_only=True)
class Tally:
    """Refusals that were not written one by one.

    Args:
        network: Whose.
        since: The time of the first.
        codes: How many, by the error's code.
    """

    network: str
    since: datetime
    codes: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        codes = ", ".join(f"{count} {code}" for code, count in self.codes.most_common())
        since = self.since.isoformat(timespec="seconds")
        return f"{self.codes.total()} further refusals of {self.network} since {since} not written one by one: {codes}"


class Limiter:
    """Says which refusals are written by themselves, and counts the others. Several threads may use it at once.

    Args:
        each: What one network may have written.
        together: What all may have written.
        networks: How many are told apart.
    """

    def __init__(self, *, each: Rate, together: Rate, networks: int = 1024) -> None:
        self._each = each
        self._together = _Bucket(together)
        self._networks = networks
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # the one that was used last is last
        self._tallies: dict[str, Tally] = {}  # oldest first
        self._lock = threading.Lock()

    def admit(self, peer: str, code: str, now: datetime) -> bool:
        """Say whether this refusal is written by itself; if not, it is counted."""
        network = network_of(peer)
        with self._lock:
            bucket = self._buckets.pop(network, None) or _Bucket(self._each)
            self._buckets[network] = bucket
            if len(self._buckets) > self._networks:
                self._buckets.popitem(last=False)  # it may begin anew: what all may have together still holds
            if bucket.has_token(now) and self._together.has_token(now):
                bucket.tokens -= 1
                self._together.tokens -= 1
                return True
            counted = network if network in self._tallies or len(self._tallies) < self._networks else OTHERS
            self._tallies.setdefault(counted, Tally(network=counted, since=now)).codes[code] += 1
            return False

    @contextlib.contextmanager
    def owed(self, peer: str | None = None) -> Iterator[Tally | None]:
        """Yield one tally to be written now: of the peer's network, else the oldest; None if there is none.

        It is forgotten, unless an error says that it was not written.
        """
        with self._lock:
            network = network_of(peer) if peer else None
            chosen = network if network in self._tallies else next(iter(self._tallies), None)
            tally = None if chosen is None else self._tallies.pop(chosen)
        try:
            yield tally
        except BaseException:
            if tally is not None:
                self._give_back(tally)
            raise

    def _give_back(self, tally: Tally) -> None:
        with self._lock:
            if (newer := self._tallies.get(tally.network)) is not None:
                tally.codes += newer.codes
            self._tallies[tally.network] = tally


def network_of(peer: str) -> str:
    """Return the network of a peer, ``ADDRESS:PORT`` or ``[ADDRESS]:PORT``; what is neither stands for itself."""
    host = peer.rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _IPV6_NETWORK), strict=False))


class _Bucket:
    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._at: datetime | None = None
        self.tokens: float = rate.burst

    def has_token(self, now: datetime) -> bool:
        passed = 0.0 if self._at is None else (now - self._at).total_seconds()
        self._at = now
        self.tokens = min(self._rate.burst, self.tokens + max(passed, 0.0) / self._rate.seconds)
        return self.tokens >= 1
