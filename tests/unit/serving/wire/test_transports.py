import gc
import itertools
import logging
import re
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from tests.harness import http2
from tests.harness.errors import raises
from tests.harness.served import LONG, Served, make_settings, served

from sealserve.serving.codes import ServingCode
from sealserve.serving.request_errors import Status
from sealserve.serving.wire import senders, transports
from sealserve.serving.wire.allowance import Allowance
from sealserve.serving.wire.completion_queue import QueueTransport
from sealserve.serving.wire.public_server import PublicTransport
from sealserve.serving.wire.transport import KEEPALIVE, Call

pytestmark = pytest.mark.usefixtures("transport")

PATH = "/s/Method"


def echo(call: Call) -> None:
    call.answer(call.content)


def failure(send: Callable[[], Any]) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        send()
    return caught.value


def waiting(there: Served) -> int:
    """Return the number of calls that wait for their turn to send."""
    transport: Any = there.transport
    return int(transport.senders.waiting)


def sending(there: Served) -> int:
    """Return the number of calls that may send. A call is already open a moment before."""
    transport: Any = there.transport
    return len(transport.senders._sending)


def given_up() -> grpc.StatusCode:
    """Return the status that a cancelled client gets. The public API cannot set a status for a call that it cancels."""
    fast = transports.choose() is QueueTransport
    return grpc.StatusCode.DEADLINE_EXCEEDED if fast else grpc.StatusCode.CANCELLED


class Held:
    """A handler that stores calls, so that the test can answer them."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.arrived = threading.Semaphore(0)
        self.left = threading.Event()

    def __call__(self, call: Call) -> None:
        call.on_cancel = self.left.set
        self.calls.append(call)
        self.arrived.release()


def test_messages_of_every_size_pass() -> None:
    with served({PATH: echo}, arguments=[("grpc.max_receive_message_length", -1)]) as there:
        for size in (0, 1, 5, 70_000, 3_000_000):
            content = bytes(range(256)) * (size // 256) + bytes(size % 256)
            assert there.call(PATH)(content) == content


def test_many_at_once_each_get_their_own_answer() -> None:
    with served({PATH: echo}, calls=1000) as there:
        answers = [(number, there.call(PATH).future(b"%d" % number)) for number in range(500)]
        assert all(answer.result() == b"%d" % number for number, answer in answers)


def test_a_call_that_ended_leaves_nothing() -> None:
    seen: list[weakref.ref[Call]] = []

    def handle(call: Call) -> None:
        call.on_cancel = lambda: call.answer(b"")
        seen.append(weakref.ref(call))
        call.answer(call.content)

    gc.disable()
    try:
        with served({PATH: handle}) as there:
            assert [there.call(PATH)(b"x") for _ in range(10)] == [b"x"] * 10
            while there.transport.busy:
                pass
        assert [call() for call in seen] == [None] * 10
    finally:
        gc.enable()


def test_a_method_that_is_not_there() -> None:
    with served({PATH: echo}) as there:
        error = failure(lambda: there.call("/s/Nonsense")(b""))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "The method does not exist.")


def test_a_message_that_is_too_large_is_refused_and_the_connection_stays() -> None:
    with served({PATH: echo}, arguments=[("grpc.max_receive_message_length", 10)]) as there:
        assert failure(lambda: there.call(PATH)(b"x" * 11)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert there.call(PATH)(b"x" * 10) == b"x" * 10


def test_a_call_without_a_message_is_refused() -> None:
    with served({PATH: echo}) as there:
        nothing: Any = there.channel.stream_unary(PATH)
        error = failure(lambda: nothing(iter(())))
        assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "The request does not contain a message.")


def test_more_calls_than_the_limit_are_refused() -> None:
    held = Held()
    with served({PATH: held}, calls=1) as there:
        first = there.call(PATH).future(b"")
        held.arrived.acquire()
        error = failure(lambda: there.call(PATH)(b""))
        assert (error.code(), error.details()) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "The server is busy: it has reached its limit of 1 calls.",
        )
        held.calls.pop().answer(b"first")
        assert first.result() == b"first"


def test_a_handler_learns_that_the_sender_left() -> None:
    held = Held()
    with served({PATH: held}) as there:
        waiting = there.call(PATH).future(b"")
        held.arrived.acquire()
        call = held.calls.pop()
        before = call.cancelled
        waiting.cancel()
        assert held.left.wait(LONG)
        assert (before, call.cancelled) == (False, True)
        call.answer(b"nobody reads this")


def test_a_handler_of_a_stream_learns_that_the_sender_left_while_a_message_was_on_its_way() -> None:
    """The raw peer grants no flow-control window, so the message cannot be sent."""
    arrived, left = threading.Semaphore(0), threading.Semaphore(0)

    def handle(call: Call) -> None:
        def leave() -> None:
            left.release()
            call.refuse(Status.CANCELLED, "")

        call.on_cancel = leave
        call.send(b"x" * 100_000, sent=lambda: None)
        arrived.release()

    with served({PATH: handle}) as there:
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", there.port)) as peer:
                peer.sendall(http2.hello(window=0) + http2.request(PATH))
                arrived.acquire()
            assert left.acquire(timeout=LONG)
            while there.transport.busy:
                pass


def test_a_handler_that_fails_costs_its_own_call_only(caplog: pytest.LogCaptureFixture) -> None:
    lost: list[Call] = []

    def fail(call: Call) -> None:
        lost.append(call)
        raise ValueError("no")

    with caplog.at_level(logging.ERROR, logger="sealserve"), served({PATH: fail, "/s/Echo": echo}) as there:
        failing = there.call(PATH).future(b"")
        assert there.call("/s/Echo")(b"alive") == b"alive"
        while not lost:
            pass
        lost.pop().refuse(Status.INTERNAL, "internal")
        assert failing.code() is grpc.StatusCode.INTERNAL
    assert "handling a call failed" in [record.getMessage() for record in caplog.records]


def test_a_sender_who_stops_half_way_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()

    def nothing() -> Iterator[bytes]:
        gate.wait()
        yield from ()

    with caplog.at_level(logging.WARNING, logger="sealserve"), served({PATH: echo}, patience=0.0) as there:
        send: Any = there.channel.stream_unary(PATH)
        stalled = send.future(nothing())
        try:
            while not stalled.done():
                there.transport.sweep()
            assert stalled.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
        finally:
            gate.set()
    assert "cancelled 1 calls whose message was in transfer for more than 0 s" in caplog.messages


def test_requests_and_answers_take_no_more_memory_than_is_allowed() -> None:
    held = Held()
    allowance = Allowance(1000)
    with served({PATH: held, "/s/Echo": echo}, allowance=allowance) as there:
        first = there.call(PATH).future(bytes(800))
        held.arrived.acquire()
        error = failure(lambda: there.call("/s/Echo")(bytes(201)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == "The server is busy: the memory for messages is full."
        assert there.call("/s/Echo")(bytes(200)) == bytes(200)
        while not allowance.take(200):  # the last call's memory is returned when its answer was sent
            pass
        assert there.call("/s/Echo")(b"") == b""  # like a health probe
        allowance.give_back(200)
        held.calls.pop().answer(bytes(3))
        assert first.result() == bytes(3)
    assert allowance.take(1000)  # all memory was returned


def test_only_so_many_send_at_once_and_the_slow_ones_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "SENDERS", 2)
    monkeypatch.setattr(senders, "MOMENT", 0.0)
    gate = threading.Event()

    def nothing() -> Iterator[bytes]:
        gate.wait()
        yield from ()

    with served({PATH: echo}) as there:
        send: Any = there.channel.stream_unary(PATH)
        slow = [send.future(nothing()) for _ in range(2)]
        while sending(there) < len(slow):
            pass
        honest, leaving = there.call(PATH).future(b"honest"), send.future(nothing())
        while waiting(there) < 2:
            pass
        leaving.cancel()
        while there.transport.busy > len(slow) + 1:
            pass
        assert not honest.done()
        while not honest.done():
            there.transport.sweep()
        assert honest.result() == b"honest"
        gate.set()
        assert [call.code() for call in slow] == [given_up()] * 2


def test_a_peer_with_many_slow_calls_delays_the_others_by_one_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "SENDERS", 2)
    monkeypatch.setattr(senders, "MOMENT", 0.0)
    gate = threading.Event()

    def nothing() -> Iterator[bytes]:
        gate.wait()
        yield from ()

    with (
        served({PATH: echo}) as there,
        grpc.insecure_channel(f"127.0.0.1:{there.port}", [("grpc.use_local_subchannel_pool", 1)]) as other,
    ):
        send: Any = there.channel.stream_unary(PATH)
        slow = [send.future(nothing()) for _ in range(20)]
        while waiting(there) < len(slow) - 2:
            pass
        ask: Any = other.unary_unary(PATH)
        honest = ask.future(b"honest")
        while waiting(there) < len(slow) - 1:
            pass
        there.transport.sweep()  # cancels two calls; of the next two calls, one belongs to the other peer
        assert honest.result(LONG) == b"honest"
        for call in slow:
            call.cancel()
        gate.set()


def test_a_reader_who_stops_half_way_is_given_up() -> None:
    """The raw peer grants no flow-control window, so the answer cannot be sent."""
    held = Held()
    with served({PATH: held}, patience=0.0) as there, socket.create_connection(("127.0.0.1", there.port)) as peer:
        peer.sendall(http2.hello(window=0) + http2.request(PATH))
        held.arrived.acquire()
        held.calls.pop().answer(b"x" * 100_000)
        while there.transport.busy:
            there.transport.sweep()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        bytes(4096),
        http2.hello(window=2**32 - 1),
        http2.hello() + http2.frame(1, 0x4, 1, b"\xff" * 64),
        http2.hello() + http2.frame(0, 0, 7, b"no such stream"),
        http2.hello() + http2.request(PATH)[:-3],
        http2.hello() + http2.frame(9, 0, 1, b"") * 100,
    ],
)
def test_a_peer_that_talks_nonsense_harms_nobody(garbage: bytes) -> None:
    with served({PATH: echo}) as there:
        with socket.create_connection(("127.0.0.1", there.port)) as peer:
            peer.sendall(garbage)
            assert there.call(PATH)(b"fine") == b"fine"
        assert there.call(PATH)(b"fine") == b"fine"


@pytest.mark.parametrize("transport", [QueueTransport], indirect=True, ids=["completion-queue"])
def test_a_message_that_arrives_as_the_call_ends_borrows_nothing() -> None:
    """One thread has taken the message from the queue, and another thread ends the call before it goes on."""
    allowance = Allowance(1000)
    held = Held()
    with served({PATH: held}, allowance=allowance) as there:
        answer = there.call(PATH).future(bytes(100))
        held.arrived.acquire()
        call: Any = held.calls.pop()
        call.answer(b"first")
        assert answer.result() == b"first"
        while there.transport.busy:
            pass
        late = SimpleNamespace(batch_operations=[SimpleNamespace(message=lambda: bytes(800))])
        call._received(late)
        call.content = b"?"
        call._hold(700)
        assert held.calls == []
    assert allowance.take(1000)


def test_a_stop_waits_for_the_calls_that_are_open() -> None:
    held = Held()
    with served({PATH: held}) as there:
        running = there.call(PATH).future(b"")
        held.arrived.acquire()
        stopping = threading.Thread(target=there.transport.stop, args=(LONG,))
        stopping.start()
        held.calls.pop().answer(b"in time")
        assert running.result() == b"in time"
        stopping.join()


def test_a_stop_tells_what_it_could_not_wait_for() -> None:
    held = Held()
    server = transports.choose()(make_settings({PATH: held}))
    port = server.listen("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary(PATH)
        running = call.future(b"")
        held.arrived.acquire()
        assert not server.stop(0)
        assert running.exception() is not None
        held.calls.pop().refuse(Status.CANCELLED, "")
    assert server.stop(LONG)


def _ping_answers(port: int, count: int) -> tuple[int, bool]:
    """Send pings, each after the previous ping's answer; return the answers, and whether pings were rejected."""
    with socket.create_connection(("127.0.0.1", port), timeout=LONG) as peer:
        peer.sendall(http2.hello() + http2.request(PATH))
        content, answered = b"", 0
        for number in range(count):
            ping = number.to_bytes(8, "big")
            peer.sendall(http2.frame(http2.PING, 0, 0, ping))
            while http2.frame(http2.PING, 1, 0, ping) not in content:
                received = peer.recv(65_536)
                content += received
                if not received or b"too_many_pings" in content:
                    return answered, True
            answered += 1
            time.sleep(0.02)  # twenty times the interval that the second server requires
        return answered, False


def test_pings_that_come_too_fast_end_the_connection_unless_the_command_line_allows_them() -> None:
    held = Held()
    with served({PATH: held}) as there:
        answered, too_many = _ping_answers(there.port, 20)
        assert too_many
        assert answered >= 2
        held.calls.pop().refuse(Status.CANCELLED, "")
    allowed = [("grpc.http2.min_ping_interval_without_data_ms", 1)]
    with served({PATH: held}, arguments=allowed) as there:
        assert _ping_answers(there.port, 20) == (20, False)
        held.calls.pop().refuse(Status.CANCELLED, "")


def test_a_client_may_ping_each_ten_seconds_with_and_without_a_call() -> None:
    """gRPC's clients ping at most every ten seconds, regardless of their settings."""
    assert dict(KEEPALIVE) == {
        "grpc.http2.min_ping_interval_without_data_ms": 5000,
        "grpc.keepalive_permit_without_calls": 1,
    }


def test_a_peer_that_is_not_accepted_is_refused_before_its_handler() -> None:
    held = Held()
    seen: list[dict[bytes, list[bytes]]] = []

    def fault(properties: dict[bytes, list[bytes]]) -> str | None:
        seen.append(properties)
        return "a weak key" if len(seen) == 1 else None

    with served({PATH: echo, "/s/Held": held}, peer_fault=fault) as there:
        error = failure(lambda: there.call("/s/Held")(b""))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAUTHENTICATED, "a weak key")
        assert held.calls == []
        assert there.call(PATH)(b"x") == b"x"
        assert b"transport_security_type" in seen[0]


@pytest.mark.parametrize(
    ("version", "is_fast"), [("1.85.1", True), ("1.85.0", True), ("1.86.0", False), ("2.0.0", False)]
)
def test_the_fast_transport_serves_with_versions_of_grpcio_that_it_was_tested_with(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: str, is_fast: bool
) -> None:
    monkeypatch.undo()  # the transport that the fixture chose
    transports.choose.cache_clear()
    with monkeypatch.context() as changed, caplog.at_level(logging.WARNING, logger="sealserve"):
        changed.setattr(grpc, "__version__", version)
        assert [transports.choose() is QueueTransport for _ in range(2)] == [is_fast] * 2
    transports.choose.cache_clear()
    warned = f"the fast gRPC transport was not tested with grpcio {version} (tested: 1.85.x)"
    assert [message.startswith(warned) for message in caplog.messages] == [True] * (not is_fast)


def test_the_locked_version_of_grpcio_is_one_that_the_fast_transport_was_tested_with() -> None:
    locked = re.search(r"^grpcio==(\d+\.\d+)\.", Path("requirements/server.lock").read_text(), re.MULTILINE)
    assert locked is not None
    assert locked[1] in transports.TESTED


def test_only_the_fast_transport_uses_what_is_private_to_grpcio() -> None:
    private = re.compile(r"^\s*(?:from|import) grpc\._", re.MULTILINE)
    users = {path.name for path in Path("src/sealserve").rglob("*.py") if private.search(path.read_text())}
    assert users == {"completion_queue.py"}


def test_the_public_transport_has_a_thread_for_each_open_call_and_so_fewer_idle_calls() -> None:
    assert (QueueTransport.idle_calls, PublicTransport.idle_calls) == (1024, 64)
    before = set(threading.enumerate())
    server = PublicTransport(make_settings({PATH: echo}, calls=20))
    server.listen("127.0.0.1:0")
    server.start()
    assert len(set(threading.enumerate()) - before) == 20 + 8 + 1  # for calls that are refused, and gRPC's own
    assert server.stop(LONG)


def test_an_error_of_the_transport_itself_reaches_neither_the_client_nor_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transports, "choose", lambda: PublicTransport)

    def fail(_properties: object) -> str | None:
        raise ValueError("canary-771177")

    with caplog.at_level(logging.ERROR), served({PATH: echo}, peer_fault=fail) as there:
        error = failure(lambda: there.call(PATH)(b""))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal")
    assert "canary" not in caplog.messages[0]


def test_a_call_that_is_never_answered_does_not_keep_the_process_from_ending() -> None:
    program = """
import grpc, threading
from tests.harness.served import make_settings
from sealserve.serving.wire.public_server import PublicTransport
arrived = threading.Event()
server = PublicTransport(make_settings({"/s/Method": lambda call: arrived.set()}))
port = server.listen("127.0.0.1:0")
server.start()
channel = grpc.insecure_channel(f"127.0.0.1:{port}")
answer = channel.unary_unary("/s/Method").future(b"")
arrived.wait()
print(server.stop(0))
channel.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG, check=True)
    assert done.stdout == "False\n"


def test_a_system_that_allows_too_few_threads_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    started = threading.Thread.start
    count = itertools.count()

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("grpc") and next(count) >= 3:
            raise RuntimeError("can't start new thread")
        started(thread)

    server = PublicTransport(make_settings({PATH: echo}, calls=10))
    server.listen("127.0.0.1:0")
    monkeypatch.setattr(threading.Thread, "start", start)
    with raises(
        ServingCode.SERVER_THREADS, match=r"cannot start its threads: expected 18, got 3: can't start new thread"
    ):
        server.start()
    monkeypatch.undo()
    assert server.stop(0)
