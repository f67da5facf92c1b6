import socket
from collections.abc import Iterator

import pytest

from sealserve.broker.connections import Connection, Connections


@pytest.fixture
def pairs() -> Iterator[list[tuple[Connection, socket.socket]]]:
    made = []
    for number, host in enumerate(["a", "b", "b", "c"]):
        ours, theirs = socket.socketpair()
        made.append((Connection(ours, host, f"{host}:{number}"), theirs))
    yield made
    for connection, theirs in made:
        connection.stream.close()
        theirs.close()


def _is_shut(theirs: socket.socket) -> bool:
    theirs.setblocking(False)
    try:
        return theirs.recv(1) == b""
    except BlockingIOError:
        return False


def test_the_one_that_waited_longest_of_the_busiest_address_makes_room(
    pairs: list[tuple[Connection, socket.socket]],
) -> None:
    table = Connections(3)
    assert all(table.admit(connection) for connection, _ in pairs)
    assert [_is_shut(theirs) for _, theirs in pairs] == [False, True, False, False]
    assert len(table) == 3


def test_the_enclaves_of_one_host_do_not_lose_to_many_addresses() -> None:
    table, streams = Connections(64), [socket.socketpair() for _ in range(70)]
    try:
        hosts = ["flood-a"] * 6 + ["honest"] * 5 + [str(number) for number in range(59)]
        for host, (ours, _) in zip(hosts, streams, strict=True):
            assert table.admit(Connection(ours, host, host))
        assert [host for host, (_, theirs) in zip(hosts, streams, strict=True) if _is_shut(theirs)] == ["flood-a"] * 6
    finally:
        for pair in streams:
            for stream in pair:
                stream.close()


def test_a_busy_connection_is_not_broken_off(pairs: list[tuple[Connection, socket.socket]]) -> None:
    table = Connections(2)
    for connection, _ in pairs[:2]:
        assert table.admit(connection)
        table.busy(connection)
    assert not table.admit(pairs[2][0])
    table.busy(pairs[0][0], busy=False)
    assert table.admit(pairs[2][0])
    assert [_is_shut(theirs) for _, theirs in pairs] == [True, False, False, False]


def test_closing_is_final_and_counted(pairs: list[tuple[Connection, socket.socket]]) -> None:
    table = Connections(9)
    for connection, _ in pairs:
        table.admit(connection)
    table.busy(pairs[0][0])
    table.shut_waiting()
    assert [_is_shut(theirs) for _, theirs in pairs] == [False, True, True, True]
    for connection, _ in pairs[1:]:
        table.close(connection)
        table.close(connection)
    assert not table.wait_empty(0)
    assert _is_shut(pairs[0][1])
    table.close(pairs[0][0])
    assert table.wait_empty(0)
