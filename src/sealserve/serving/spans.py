"""The spans of a request and of the start, and the traces that a thread works for.

A trace contains times, names from closed lists, and statuses. It contains no part of a model, an input or an output:
see `sealserve.tracing.span`.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from sealserve.serving.request_errors import RequestError, Status
from sealserve.tracing.span import Attribute, Attributes, Kind, Span, SpanName
from sealserve.tracing.trace_context import TraceContext, random_id

Headers = Iterable[tuple[str, str | bytes]]
"""Metadata or headers, with names in lower case."""
Begin = Callable[[Headers], "RequestTrace | None"]
"""Decides about a request with these headers: its trace, or None if it is not traced."""

_FAILED: Final = frozenset({
    Status.UNKNOWN, Status.DEADLINE_EXCEEDED, Status.UNIMPLEMENTED, Status.INTERNAL, Status.UNAVAILABLE,
    Status.DATA_LOSS,
})  # fmt: skip
"""The statuses that are errors of the server. Source: OpenTelemetry semantic conventions 1.44, "gRPC"."""
_FIRST_SERVER_ERROR: Final = 500


class SpanSink(Protocol):
    """Takes spans that have ended, as `sealserve.tracing.exporter.SpanExporter`."""

    def add(self, spans: Sequence[Span]) -> None:
        """Take spans without waiting."""


class _Active(threading.local):
    traces: "tuple[RequestTrace, ...]" = ()


_ACTIVE: Final = _Active()


def active() -> "tuple[RequestTrace, ...]":
    """Return the traces of the requests that this thread works on: several if it runs a batch, usually none."""
    return _ACTIVE.traces


@contextmanager
def working_for(traces: "tuple[RequestTrace, ...]") -> Iterator[None]:
    """Make ``traces`` the active traces of this thread in the block."""
    before, _ACTIVE.traces = _ACTIVE.traces, traces
    try:
        yield
    finally:
        _ACTIVE.traces = before


class RequestTrace:
    """The spans of one request. It begins when the request has arrived.

    Below the request, each name has at most one span, from the first start to the last end. A request with many rows
    runs in several batches, and their number would reveal the number of rows.

    Args:
        sink: Gets the spans when the request ends.
        parent: The span of the client, or None.
        attributes: The attributes of the request's span, without its status.
    """

    __slots__ = ("_attributes", "_children", "_context", "_lock", "_open", "_parent", "_sink", "_started")

    def __init__(self, sink: SpanSink, parent: TraceContext | None, attributes: Attributes) -> None:
        self._sink = sink
        self._parent = 0 if parent is None else parent.span_id
        self._context = TraceContext.start(parent)
        self._attributes = attributes
        self._children: dict[SpanName, tuple[float, float]] = {}
        self._lock = threading.Lock()
        self._open = True
        self._started = time.monotonic()

    def add(self, name: SpanName, started: float, ended: float) -> None:
        """Add a time to the span ``name`` below the request's span. Any thread may call this.

        After the end, it has no effect.

        Args:
            name: The name.
            started: The start, on the clock of `time.monotonic`.
            ended: The end, on the same clock.
        """
        with self._lock:
            first, last = self._children.get(name, (started, ended))
            self._children[name] = (min(first, started), max(last, ended))

    def watched(self, method: Callable[[bytes, float | None], bytes]) -> Callable[[bytes, float | None], bytes]:
        """Return a gRPC method that does the same, with this trace as the active one, and then ends the trace."""

        def watch(content: bytes, deadline: float | None) -> bytes:
            self.add(SpanName.QUEUE, self._started, time.monotonic())
            status = Status.INTERNAL
            try:
                with working_for((self,)):
                    answer = method(content, deadline)
                status = Status.OK
            except RequestError as error:
                status = error.status
                raise
            finally:
                self.end(status)
            return answer

        return watch

    def end(self, status: Status) -> None:
        """End the trace of a gRPC request. Ending it twice has no effect."""
        self._end(Attribute.RPC_STATUS, status.name, failed=status in _FAILED)

    @contextmanager
    def answering(self) -> Iterator[Callable[[int], None]]:
        """Make this trace the active one while an HTTP request is answered. The yielded function ends the trace.

        Its argument is the HTTP status. If the block raises, the status is 500.
        """
        self.add(SpanName.QUEUE, self._started, time.monotonic())
        try:
            with working_for((self,)):
                yield self.end_http
        finally:
            self.end_http(_FIRST_SERVER_ERROR)

    def end_http(self, status: int) -> None:
        """End the trace of an HTTP request. Ending it twice has no effect."""
        self._end(Attribute.HTTP_STATUS, status, failed=status >= _FIRST_SERVER_ERROR)

    def _end(self, attribute: Attribute, status: str | int, *, failed: bool) -> None:
        with self._lock:
            if not self._open:
                return
            self._open = False
            children = dict(self._children)
        trace_id, span_id = self._context.trace_id, self._context.span_id
        spans = [
            Span(name, trace_id, random_id(64), span_id, started, ended) for name, (started, ended) in children.items()
        ]
        spans.append(
            Span(
                SpanName.REQUEST, trace_id, span_id, self._parent, self._started, time.monotonic(),
                Kind.SERVER, failed, {**self._attributes, attribute: status},
            )
        )  # fmt: skip
        self._sink.add(spans)


class Stages:
    """The spans of the start, and of what the server does later without a request, such as a load.

    Stages of the start have the span `SpanName.START` as their parent. A later stage begins its own trace.

    Args:
        sink: Gets the spans, or None if the server has no traces.
    """

    def __init__(self, sink: SpanSink | None) -> None:
        self._sink = sink
        self._start: TraceContext | None = TraceContext.start()
        self._started = time.monotonic()
        self._local = threading.local()

    @contextmanager
    def stage(self, name: SpanName) -> Iterator[None]:
        """Record the block as a span. Its parent is the stage that runs on this thread, or the start."""
        if self._sink is None:
            yield
            return
        parent: TraceContext | None = getattr(self._local, "stage", None) or self._start
        outer, context = getattr(self._local, "stage", None), TraceContext.start(parent)
        self._local.stage = context
        started, failed = time.monotonic(), True
        try:
            yield
            failed = False
        finally:
            self._local.stage = outer
            self._record(name, context, parent, started, failed=failed)

    def end_start(self, *, failed: bool) -> None:
        """End the span of the start. Ending it twice has no effect."""
        context, self._start = self._start, None
        if context is not None and self._sink is not None:
            self._record(SpanName.START, context, None, self._started, failed=failed)

    def _record(
        self, name: SpanName, context: TraceContext, parent: TraceContext | None, started: float, *, failed: bool
    ) -> None:
        if self._sink is not None:
            ended, above = time.monotonic(), 0 if parent is None else parent.span_id
            self._sink.add(
                [Span(name, context.trace_id, context.span_id, above, started, ended, Kind.INTERNAL, failed)]
            )


NO_STAGES: Final = Stages(None)
