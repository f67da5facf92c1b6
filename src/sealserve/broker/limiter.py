"""Rate limits on the records of refusals: a limited number per network is written, and the others are counted.

A client that reaches the port can cause any number of refusals. One row or line for each refusal would fill the disk.
Therefore each network has a token bucket, and all networks together have another bucket. A network is an IPv4 address
or the /64 of an IPv6 address, because a client usually controls a whole /64. Refusals beyond the limits are counted by
network and code. A `Tally` reports the counts, so that no refusal is lost without a trace.
"""

import contextlib
import ipaddress
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Final

OTHERS: Final = "other addresses"
"""The network name for refusals that are counted together, because too many networks are tracked already."""

_IPV6_NETWORK: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """The rate of a token bucket: ``burst`` tokens at the start, and one more token every ``seconds`` seconds."""

    burst: int
    seconds: float

    def divided(self, parts: int) -> "Rate":
        """Return the rate of each of ``parts`` buckets, which together admit at most as much as this one."""
        return self if parts == 1 else Rate(burst=max(self.burst // parts, 1), seconds=self.seconds * parts)


@dataclass(slots=True, kw_only=True)
class Tally:
    """Refusals that were counted instead of written separately.

    Args:
        network: The network of the refused peers.
        since: The time of the first counted refusal.
        codes: The number of refusals by error code.
    """

    network: str
    since: datetime
    codes: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        codes = ", ".join(f"{count} {code}" for code, count in self.codes.most_common())
        since = self.since.isoformat(timespec="seconds")
        total = self.codes.total()
        return f"{total} further refusals of {self.network} since {since} were not recorded separately: {codes}"


class Limiter:
    """Decides which refusals are written separately, and counts the others. Several threads may use it.

    Args:
        each: The rate for one network.
        together: The rate for all networks together.
        networks: The maximum number of networks that are tracked separately.
    """

    def __init__(self, *, each: Rate, together: Rate, networks: int = 1024) -> None:
        self._each = each
        self._together = _Bucket(together)
        self._networks = networks
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # least recently used first
        self._tallies: dict[str, Tally] = {}  # oldest first
        self._lock = threading.Lock()

    def admit(self, peer: str, code: str, now: datetime) -> bool:
        """Return whether this refusal is written separately. Otherwise it is counted."""
        network = network_of(peer)
        with self._lock:
            bucket = self._buckets.pop(network, None) or _Bucket(self._each)
            self._buckets[network] = bucket
            if len(self._buckets) > self._networks:
                # The removed network gets a new bucket later, but the limit for all networks still applies.
                self._buckets.popitem(last=False)
            if bucket.has_token(now) and self._together.has_token(now):
                bucket.tokens -= 1
                self._together.tokens -= 1
                return True
            counted = network if network in self._tallies or len(self._tallies) < self._networks else OTHERS
            self._tallies.setdefault(counted, Tally(network=counted, since=now)).codes[code] += 1
            return False

    @contextlib.contextmanager
    def owed(self, peer: str | None = None) -> Iterator[Tally | None]:
        """Yield one tally to be written now: the tally of the peer's network, else the oldest, else `None`.

        The tally is removed afterwards. If the body raises an exception, the tally was not written and is restored.
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
    """Return the network of a peer (``ADDRESS:PORT`` or ``[ADDRESS]:PORT``). Other text is returned unchanged."""
    return _network_of_host(peer.rpartition(":")[0].strip("[]")) or peer


@lru_cache(maxsize=1024)
def _network_of_host(host: str) -> str | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
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
