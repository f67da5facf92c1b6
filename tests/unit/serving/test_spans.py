"""The spans of requests and of the start, without a server and a collector."""

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from sealserve.serving.request_errors import RequestCode, Status
from sealserve.serving.spans import NO_STAGES, RequestTrace, Stages, active, working_for
from sealserve.tracing.span import Attribute, Kind, Span, SpanName
from sealserve.tracing.trace_context import TraceContext

ATTRIBUTES = {Attribute.RPC_SYSTEM: "grpc"}


@dataclass
class Sink:
    spans: list[Span] = field(default_factory=list)

    def add(self, spans: Sequence[Span]) -> None:
        self.spans += spans

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]


@pytest.fixture
def sink() -> Sink:
    return Sink()


def test_a_method_runs_with_its_trace_and_ends_it(sink: Sink) -> None:
    caller = TraceContext.start()
    trace = RequestTrace(sink, caller, ATTRIBUTES)

    def method(content: bytes, deadline: float | None) -> bytes:
        assert active() == (trace,)
        assert deadline == 7.0
        return content * 2

    assert trace.watched(method)(b"a", 7.0) == b"aa"
    assert active() == ()
    queue, request = sink.spans
    assert (queue.name, queue.parent_id, queue.attributes) == (SpanName.QUEUE, request.span_id, {})
    assert (request.trace_id, request.parent_id, request.kind) == (caller.trace_id, caller.span_id, Kind.SERVER)
    assert request.attributes == {**ATTRIBUTES, Attribute.RPC_STATUS: "OK"}
    assert request.started <= queue.started <= queue.ended <= request.ended


@pytest.mark.parametrize(
    ("error", "status", "failed"),
    [
        (RequestCode.INPUT_SHAPE.error("canary"), "INVALID_ARGUMENT", False),
        (RequestCode.DEADLINE_EXCEEDED.error("canary"), "DEADLINE_EXCEEDED", True),
        (ValueError("canary"), "INTERNAL", True),
    ],
)
def test_an_error_ends_the_trace_with_its_status_alone(
    sink: Sink, error: Exception, status: str, *, failed: bool
) -> None:
    def method(_content: bytes, _deadline: float | None) -> bytes:
        raise error

    with pytest.raises(type(error)):
        RequestTrace(sink, None, ATTRIBUTES).watched(method)(b"", None)
    assert active() == ()
    assert sink.spans[-1].attributes[Attribute.RPC_STATUS] == status
    assert sink.spans[-1].failed is failed
    assert "canary" not in repr(sink.spans)


def test_a_request_over_http_that_raises_has_the_status_500(sink: Sink) -> None:
    with pytest.raises(ValueError, match="x"), RequestTrace(sink, None, ATTRIBUTES).answering():
        raise ValueError("x")
    assert (sink.spans[-1].attributes[Attribute.HTTP_STATUS], sink.spans[-1].failed) == (500, True)
    with RequestTrace(sink, None, ATTRIBUTES).answering() as end:
        end(404)
    assert (sink.spans[-1].attributes[Attribute.HTTP_STATUS], sink.spans[-1].failed) == (404, False)


def test_the_number_of_batches_is_not_in_a_trace(sink: Sink) -> None:
    trace = RequestTrace(sink, None, ATTRIBUTES)
    threads = [
        threading.Thread(target=trace.add, args=(SpanName.TENSORFLOW, 100.0 + number, 101.0 + number))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trace.end(Status.OK)
    (run,) = [span for span in sink.spans if span.name == SpanName.TENSORFLOW]
    assert (run.started, run.ended) == (100.0, 120.0)


def test_a_trace_ends_once(sink: Sink) -> None:
    trace = RequestTrace(sink, None, ATTRIBUTES)
    trace.end(Status.CANCELLED)
    trace.add(SpanName.BATCH, 1.0, 2.0)
    trace.end(Status.OK)
    assert sink.names == ["request"]
    assert sink.spans[0].attributes[Attribute.RPC_STATUS] == "CANCELLED"


def test_a_thread_that_runs_a_batch_works_for_all_of_its_requests(sink: Sink) -> None:
    first, second = (RequestTrace(sink, None, ATTRIBUTES) for _ in range(2))
    with working_for((first,)):
        with working_for((first, second)):
            assert active() == (first, second)
        assert active() == (first,)
    assert active() == ()


def test_stages_of_the_start_are_one_trace_and_later_stages_begin_their_own(sink: Sink) -> None:
    stages = Stages(sink)
    with stages.stage(SpanName.ATTEST), stages.stage(SpanName.KEY):
        pass
    with pytest.raises(ValueError, match="x"), stages.stage(SpanName.LOAD):
        raise ValueError("x")
    stages.end_start(failed=False)
    stages.end_start(failed=True)  # no effect
    with stages.stage(SpanName.LOAD), stages.stage(SpanName.WARM_UP):
        pass
    assert sink.names == ["key", "attest", "load", "start", "warm-up", "load"]
    key, attest, failed, start, warm_up, load = sink.spans
    assert (key.parent_id, attest.parent_id, failed.parent_id) == (attest.span_id, start.span_id, start.span_id)
    assert (start.parent_id, load.parent_id, warm_up.parent_id) == (0, 0, load.span_id)
    assert len({key.trace_id, attest.trace_id, failed.trace_id, start.trace_id}) == 1
    assert load.trace_id == warm_up.trace_id != start.trace_id
    assert [span.name for span in sink.spans if span.failed] == ["load"]


def test_a_server_without_traces_records_nothing() -> None:
    with NO_STAGES.stage(SpanName.LOAD):
        pass
    NO_STAGES.end_start(failed=True)
    assert active() == ()


def test_a_server_without_traces_imports_no_exporter() -> None:
    program = (
        "import sys, sealserve.serving.program, sealserve.serving.server, sealserve.serving.http.http_server\n"
        "import json\n"
        "ours = ('sealserve.tracing.', 'sealserve.serving.tracing')\n"
        "print(json.dumps([name for name in sys.modules if name.startswith(ours)]))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    loaded = set(json.loads(found.stdout))
    assert loaded == {
        "sealserve.tracing.codes", "sealserve.tracing.collector", "sealserve.tracing.span",
        "sealserve.tracing.trace_context",
    }  # fmt: skip
