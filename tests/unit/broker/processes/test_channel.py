"""Messages between the supervisor and a worker."""

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from sealserve.broker.processes.channel import Channel, ChannelError
from sealserve.secret import SecretBytes

Ends = tuple[Channel, Channel, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    first, second = Channel(ours), Channel(theirs)
    with closing(first), closing(second):
        yield first, second, theirs


def test_messages_and_secrets_arrive_in_order(ends: Ends) -> None:
    first, second, _ = ends
    first.send({"id": 1, "text": "é"})
    first.send_secret(SecretBytes(b"passphrase"))
    assert second.receive() == {"id": 1, "text": "é"}
    assert second.receive_secret() == SecretBytes(b"passphrase")


def test_the_end_of_the_other_process_is_the_end(ends: Ends) -> None:
    first, second, _ = ends
    second.close()
    assert first.receive() is None
    with pytest.raises(ChannelError, match=r"does not receive"):
        first.send({})
    with pytest.raises(ChannelError, match=r"is gone"):
        first.receive_secret()


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"\x00\x00\x00\x02[]", "not an object"),
        (b"\x00\x00\x00\x01{", "not JSON"),
        (b"\x00\x00\x00\x01\xff", "not JSON"),
        (b"\xff\xff\xff\xff", "too large"),
    ],
)
def test_a_message_of_another_form_is_an_error(ends: Ends, sent: bytes, message: str) -> None:
    first, _, theirs = ends
    theirs.sendall(sent)
    with pytest.raises(ChannelError, match=message):
        first.receive()


def test_a_message_that_is_cut_off_is_the_end(ends: Ends) -> None:
    first, second, theirs = ends
    theirs.sendall(b"\x00\x00\x00\x09{")
    second.close()
    assert first.receive() is None
