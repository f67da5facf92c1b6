"""The queue of spans, with collectors that are slow, dead or hostile."""

import contextlib
import gzip
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from tests.harness.trace_collector import Collector as Running
from tests.harness.trace_collector import collecting, wait_until

from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.tracing import exporter as module
from sealserve.tracing.collector import Collector
from sealserve.tracing.collector_link import CollectorLink
from sealserve.tracing.exporter import LARGEST_MESSAGE, NotExportedError, SpanExporter
from sealserve.tracing.span import Span, SpanName

SPAN = Span(SpanName.QUEUE, 1, 2, 3, 4.0, 5.0)


@dataclass
class FakeLink:
    """A link that calls ``act`` with each message."""

    act: Callable[[bytes], None] = lambda _: None
    sizes: list[int] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)

    def send(self, message: bytes, *, seconds: float) -> None:
        assert 0 < seconds <= module.CALL_LIMIT
        self.sizes.append(len(message))
        self.act(message)

    def close(self) -> None:
        self.closed.set()


def fail(_: bytes) -> None:
    raise NotExportedError("UNAVAILABLE")


def test_spans_from_before_the_start_are_sent_and_counted() -> None:
    spans, link = SpanExporter(interval=0.01), FakeLink()
    spans.add([SPAN] * 3)
    spans.start(link, {})
    wait_until(lambda: spans.exported == 3)
    spans.add([SPAN])
    spans.close()
    assert (spans.exported, spans.dropped, len(link.sizes)) == (4, 0, 2)
    assert link.closed.is_set()


def test_a_full_queue_drops_whole_requests_and_counts_them() -> None:
    spans = SpanExporter(longest=10)
    for _ in range(4):
        spans.add([SPAN] * 3)
    assert spans.dropped == 3
    spans.close()  # it was never started, so the rest is dropped too
    assert (spans.exported, spans.dropped) == (0, 12)
    spans.add([SPAN])
    assert spans.dropped == 13


def test_many_spans_are_sent_at_once_in_messages_of_limited_size() -> None:
    spans, link = SpanExporter(interval=3600), FakeLink()
    spans.start(link, {})
    spans.add([SPAN] * (LARGEST_MESSAGE - 1))
    spans.add([SPAN] * 700)  # this wakes the thread
    wait_until(lambda: spans.exported == LARGEST_MESSAGE + 699)
    assert len(link.sizes) == 3
    spans.close()


def test_a_failing_collector_is_reported_once_and_asked_less_and_less(caplog: pytest.LogCaptureFixture) -> None:
    link = FakeLink(fail)
    spans = SpanExporter(interval=0.001)
    with caplog.at_level(logging.INFO):
        spans.start(link, {})
        for number in range(1, 5):
            spans.add([SPAN])
            wait_until(lambda number=number: spans.dropped == number)  # type: ignore[misc]
        link.act = lambda _: None
        spans.add([SPAN])
        wait_until(lambda: spans.exported == 1)
        spans.close()
    assert [record.getMessage() for record in caplog.records] == [
        "the trace collector does not accept spans (UNAVAILABLE); they are dropped",
        "the trace collector accepts spans again",
    ]


def test_an_unexpected_error_drops_the_spans_and_the_thread_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    link = FakeLink(lambda _: 1 / 0)  # type: ignore[arg-type]
    spans = SpanExporter(interval=0.001)
    spans.start(link, {})
    spans.add([SPAN])
    wait_until(lambda: spans.dropped == 1)
    link.act = lambda _: None
    spans.add([SPAN])
    wait_until(lambda: spans.exported == 1)
    spans.close()
    assert "unexpected error" in caplog.text


def test_the_end_does_not_wait_for_a_collector_that_never_answers() -> None:
    link, asked = FakeLink(), threading.Event()

    def hang(_: bytes) -> None:
        asked.set()
        assert link.closed.wait(60)
        raise NotExportedError("CANCELLED")

    link.act = hang
    spans = SpanExporter(interval=0.001)
    spans.start(link, {})
    spans.add([SPAN])
    assert asked.wait(60)
    spans.add([SPAN] * 2)
    spans.close(seconds=0.05)
    wait_until(lambda: spans.dropped == 3)
    assert spans.exported == 0


# A real connection


def send(running: Running, message: bytes = b"", seconds: float = 10) -> None:
    link = CollectorLink(Collector.parse(running.plain))
    try:
        link.send(message, seconds=seconds)
    finally:
        link.close()


def test_an_honest_collector() -> None:
    with collecting() as running:
        send(running)
        assert running.messages == [b""]


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # without listen, connections are refused
        with pytest.raises(NotExportedError, match=r"^UNAVAILABLE$"):
            send(Running(port=taken.getsockname()[1]))


def test_a_collector_that_accepts_and_says_nothing() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(NotExportedError, match=r"^DEADLINE_EXCEEDED$"),
    ):
        send(Running(port=silent.getsockname()[1]), seconds=0.2)


def test_an_answer_that_is_too_large() -> None:
    with collecting(answer=lambda _: bytes(1 << 20)) as running, pytest.raises(NotExportedError, match=r"^RESOURCE"):
        send(running)


def test_a_compressed_answer_is_not_decompressed() -> None:
    huge = bytes(50 << 20)
    assert len(gzip.compress(huge)) < 64 * 1024
    with collecting(answer=lambda _: huge, compression=grpc.Compression.Gzip) as running:
        send(running)  # decompressed, it would exceed the limit


def test_an_answer_that_is_no_message_is_ignored() -> None:
    with collecting(answer=lambda _: b"\xff\xff\xff") as running:
        send(running)


def test_the_text_of_a_collectors_error_is_not_used() -> None:
    def refuse(_: bytes) -> bytes:
        raise ValueError("canary\ninjected line")

    with collecting(answer=refuse) as running, pytest.raises(NotExportedError) as caught:
        send(running)
    assert str(caught.value) == "UNKNOWN"
    assert caught.value.__cause__ is None


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with collecting() as running:
        send(running)
        assert running.messages == [b""]


def test_a_closed_link_is_an_error_of_its_own() -> None:
    with collecting() as running:
        link = CollectorLink(Collector.parse(running.plain))
        link.close()
        with pytest.raises(NotExportedError, match=r"^CLOSED$"):
            link.send(b"", seconds=1)


def test_a_redirect_of_an_http_server_is_not_followed() -> None:
    with collecting() as other, socket.create_server(("127.0.0.1", 0)) as server:

        def redirect() -> None:
            with server.accept()[0] as connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: %s/\r\n\r\n" % other.plain.encode())

        thread = threading.Thread(target=redirect)
        thread.start()
        with pytest.raises(NotExportedError):
            send(Running(port=server.getsockname()[1]))
        thread.join()
        assert other.messages == []


@pytest.mark.parametrize(("name", "trusted", "accepted"), [
    ("localhost", True, True), ("other.example.com", True, False), ("localhost", False, False),
])  # fmt: skip
def test_the_certificate_must_be_for_the_collectors_name(name: str, *, trusted: bool, accepted: bool) -> None:
    now = datetime.now(UTC)
    names = ["localhost", "other.example.com"]
    ours, others = (Authority.create(AuthorityKind.SERVICE, names=names, simulated=True, now=now) for _ in range(2))
    with collecting(certificate=ours.issue_server([name], now=now)) as running:
        ca = (ours if trusted else others).certificate_pem
        link = CollectorLink(Collector(host="localhost", port=running.port), ca)
        outcome: Any = contextlib.nullcontext() if accepted else pytest.raises(NotExportedError)
        with outcome:
            link.send(b"", seconds=10)
        link.close()
        assert running.messages == ([b""] if accepted else [])
