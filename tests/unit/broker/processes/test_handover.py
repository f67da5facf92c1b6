"""Connections that the supervisor passes to a worker."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from sealserve.broker.processes.handover import EndedCounts, HandedArrivals, hand_over
from sealserve.broker.silent_peers import SilentPeer

PATIENT = 30.0


@pytest.fixture
def counts() -> Iterator[EndedCounts]:
    with closing(EndedCounts.create()) as made:
        yield made


def test_a_connection_is_passed_on_with_its_peer(counts: EndedCounts) -> None:
    given, taken = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours, theirs = socket.socketpair()
    arrivals = HandedArrivals(taken, counts, worker=1, address=("127.0.0.1", 4433))
    begun: list[SilentPeer] = []
    stopping, arrived = threading.Event(), threading.Event()

    def begin(peer: SilentPeer) -> None:
        begun.append(peer)
        arrived.set()

    thread = threading.Thread(target=arrivals.run, args=(stopping, begin, lambda *_: None))
    with given, taken, theirs:
        thread.start()
        with ours:
            assert hand_over(given, SilentPeer(ours, "192.0.2.1:4711"))
        assert arrived.wait(PATIENT)
        stopping.set()
        arrivals.wake()
        thread.join(PATIENT)
        (peer,) = begun
        with peer.stream:
            assert peer.peer == "192.0.2.1:4711"
            assert not peer.stream.get_inheritable()
            theirs.sendall(b"x")
            assert peer.stream.recv(1) == b"x"
        arrivals.ended()
        assert (counts.of(0), counts.of(1)) == (0, 1)
        # A worker that has stopped takes no connection.
        assert not hand_over(given, SilentPeer(theirs, "192.0.2.1:4712"))


def test_a_worker_that_takes_nothing_does_not_block_the_supervisor() -> None:
    given, taken = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    given.setblocking(False)
    with given, taken, socket.socket() as stream:
        results = [hand_over(given, SilentPeer(stream, "192.0.2.1:1")) for _ in range(2000)]
    assert results[0]
    assert not results[-1]


def test_a_worker_cannot_shrink_the_shared_counts(counts: EndedCounts) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(counts.descriptor, 0)


def test_the_counts_are_shared_through_the_descriptor(counts: EndedCounts) -> None:
    with closing(EndedCounts(os.dup(counts.descriptor))) as worker:
        worker.add(3)
        worker.add(3)
        assert counts.of(3) == 2
        counts.reset(3)
        assert worker.of(3) == 0
