"""The encoded spans, as the messages of the OpenTelemetry project describe them."""

import time

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OfficialSpan
from tests.harness.trace_collector import unknown_fields

from sealserve import __version__
from sealserve.tracing.otlp import encode
from sealserve.tracing.span import Attribute, Kind, Span, SpanName


def test_a_span_has_the_official_form() -> None:
    attributes: dict[Attribute, str | int] = {Attribute.RPC_SYSTEM: "grpc", Attribute.HTTP_STATUS: 503}
    spans = [
        Span(SpanName.REQUEST, 1, 2, 3, 10.0, 10.5, Kind.SERVER, failed=True, attributes=attributes),
        Span(SpanName.QUEUE, 2**128 - 1, 2**64 - 1, 0, 11.0, 11.25),
    ]
    message = encode(spans, resource={"service.name": "s"}, epoch=1_000_000_000)
    assert not unknown_fields(message)
    (group,) = ExportTraceServiceRequest.FromString(message).resource_spans
    assert [(pair.key, pair.value.string_value) for pair in group.resource.attributes] == [("service.name", "s")]
    (scope,) = group.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("sealserve", __version__)
    first, second = scope.spans
    assert (first.trace_id, first.span_id, first.parent_span_id) == (
        bytes(15) + b"\1",
        bytes(7) + b"\2",
        bytes(7) + b"\3",
    )
    assert (first.start_time_unix_nano, first.end_time_unix_nano) == (11_000_000_000, 11_500_000_000)
    assert first.kind == OfficialSpan.SPAN_KIND_SERVER
    assert first.status.code == first.status.STATUS_CODE_ERROR
    assert [(pair.key, pair.value.WhichOneof("value")) for pair in first.attributes] == [
        ("rpc.system.name", "string_value"), ("http.response.status_code", "int_value"),
    ]  # fmt: skip
    assert (second.name, second.parent_span_id, second.kind) == ("queue", b"", OfficialSpan.SPAN_KIND_INTERNAL)
    assert (len(second.trace_id), len(second.span_id)) == (16, 8)
    assert not second.HasField("status")


@given(
    name=st.sampled_from(SpanName),
    trace=st.integers(1, 2**128 - 1),
    span=st.integers(1, 2**64 - 1),
    parent=st.integers(0, 2**64 - 1),
    started=st.floats(0, 1e9),
    seconds=st.floats(0, 1e6),
    kind=st.sampled_from(Kind),
)
def test_every_span_can_be_read(
    *, name: SpanName, trace: int, span: int, parent: int, started: float, seconds: float, kind: Kind
) -> None:
    epoch = time.time_ns()
    message = encode([Span(name, trace, span, parent, started, started + seconds, kind)], resource={}, epoch=epoch)
    found = ExportTraceServiceRequest.FromString(message).resource_spans[0].scope_spans[0].spans[0]
    assert found.name == name.value
    assert int(found.kind) == kind
    assert int.from_bytes(found.trace_id) == trace
    assert int.from_bytes(found.parent_span_id) == parent
    assert epoch <= found.start_time_unix_nano <= found.end_time_unix_nano
