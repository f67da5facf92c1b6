import errno
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from sealserve.broker.silent_peers import SHARE, SilentPeer, SilentPeers, accept_all, has_data

Connect = Callable[[str], SilentPeer]
LIMIT = 4 * SHARE
QUOTING = 3.0


@dataclass(slots=True)
class World:
    """A set of silent peers with a clock of its own. The ends of the peers stay open."""

    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    now: float = 1000.0
    sockets: list[socket.socket] = field(default_factory=list)
    replaced: list[SilentPeer] = field(default_factory=list)
    theirs: dict[SilentPeer, socket.socket] = field(default_factory=dict)
    peers: SilentPeers = field(init=False)

    def __post_init__(self) -> None:
        self.listener.setblocking(False)
        self.peers = SilentPeers(self.listener, limit=LIMIT, quoting=QUOTING, clock=lambda: self.now)

    def connect(self, address: str) -> SilentPeer:
        ours, theirs = socket.socketpair()
        self.sockets += [ours, theirs]
        peer = SilentPeer(ours, f"{address}:1")
        self.theirs[peer] = theirs
        if (replaced := self.peers.admit(peer)) is not None:
            self.replaced.append(replaced)
        return peer

    def flood(self, addresses: Iterator[str], seconds: float = 0.0) -> None:
        for address in addresses:
            self.now += seconds
            self.connect(address)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.peers.close()
    for stream in (*made.sockets, made.listener):
        stream.close()


def many(count: int, start: int = 0) -> Iterator[str]:
    return (f"192.0.{number // 250}.{number % 250}" for number in range(start, start + count))


def prefix(count: int) -> Iterator[str]:
    """Different addresses of one IPv6 /64."""
    return (f"[2001:db8::{number:x}]" for number in range(count))


def test_a_flood_from_one_ipv6_network_replaces_only_itself(world: World) -> None:
    honest = [world.connect(f"198.51.100.{number}") for number in range(LIMIT // 2)]
    world.flood(prefix(LIMIT * 20), seconds=0.001)
    assert len(world.peers) == LIMIT
    assert not set(honest) & set(world.replaced)
    # Honest enclaves that arrive during the flood also stay.
    late = world.connect("198.51.100.99")
    world.flood(prefix(LIMIT * 20), seconds=0.001)
    assert late not in world.replaced


def test_a_flood_from_many_addresses_keeps_the_enclaves_of_one_host_for_their_quote(world: World) -> None:
    world.flood(many(LIMIT))
    world.now += QUOTING
    honest = [world.connect("198.51.100.1") for _ in range(4)]
    # At the highest rate of the guarantee, `limit / quoting`, each place is replaced after the time for a quote.
    world.flood(many(LIMIT - 4, start=1000), seconds=QUOTING / LIMIT)
    assert not set(honest) & set(world.replaced)


def test_a_faster_flood_replaces_its_youngest_peers(world: World) -> None:
    honest = [world.connect("198.51.100.1") for _ in range(4)]
    world.flood(many(LIMIT * 100), seconds=QUOTING / LIMIT / 200)
    assert not set(honest) & set(world.replaced)
    world.now += QUOTING
    world.connect("203.0.113.1")
    assert world.replaced[-1] is honest[0]  # it had the time for its quote


def test_peers_expire_in_the_order_of_their_arrival(world: World) -> None:
    first = world.connect("192.0.2.1")
    world.now += 50
    second = world.connect("192.0.2.1")
    world.now += 11
    assert list(world.peers.expired(60)) == [first]
    assert list(world.peers.expired(60)) == []
    world.now += 50
    assert list(world.peers.expired(60)) == [second]
    assert len(world.peers) == 0


def test_a_first_byte_and_an_end_are_reported_once(world: World) -> None:
    speaking, gone, _silent = (world.connect(f"192.0.2.{number}") for number in range(3))
    world.theirs[speaking].sendall(b"\x16")
    world.theirs[gone].close()
    ready, arrived = world.peers.wait(10)
    assert (set(ready), arrived) == ({speaking, gone}, False)
    assert has_data(speaking.stream)
    assert not has_data(gone.stream)
    assert world.peers.wait(0) == ([], False)
    assert len(world.peers) == 1


def test_new_connections_are_reported_and_accepted(world: World) -> None:
    for _ in range(3):
        world.sockets.append(socket.create_connection(world.listener.getsockname(), timeout=10))
    assert world.peers.wait(10) == ([], True)
    accepted = [stream for limit in (2, 2) for stream, _ in accept_all(world.listener, limit=limit)]
    world.sockets += accepted
    assert len(accepted) == 3
    assert world.peers.wait(0) == ([], False)


def test_closing_disconnects_all(world: World) -> None:
    peer = world.connect("192.0.2.1")
    world.peers.close()
    assert world.theirs[peer].recv(1) == b""
    assert len(world.peers) == 0


def test_a_socket_that_cannot_be_watched_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = [world.connect("192.0.2.1") for _ in range(LIMIT)]

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(world.peers._selector, "register", fail)
        with pytest.raises(OSError, match="No space left"):
            world.connect("192.0.2.2")
    assert (world.replaced, len(world.peers)) == ([], LIMIT)
    assert world.sockets[-1].recv(1) == b""
    world.now += 100
    assert list(world.peers.expired(60)) == peers
