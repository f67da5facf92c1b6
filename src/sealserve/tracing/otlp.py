"""Encodes spans as an OTLP message.

Source: open-telemetry/opentelemetry-proto 1.10.0, ``trace/v1/trace.proto``.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from sealserve import __version__
from sealserve.tracing.otlp_pb2 import ExportTraceServiceRequest, KeyValue
from sealserve.tracing.span import Span

_SCOPE: Final = "sealserve"
_ERROR: Final = 2  # Status.StatusCode.STATUS_CODE_ERROR


def encode(spans: Iterable[Span], *, resource: Mapping[str, str], epoch: int) -> bytes:
    """Return an ``ExportTraceServiceRequest`` with the spans.

    Args:
        spans: The spans.
        resource: The attributes of this process.
        epoch: The nanoseconds between 1970 and the zero of the clock of `time.monotonic`.
    """
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.extend(_pair(name, value) for name, value in resource.items())
    scope = group.scope_spans.add()
    scope.scope.name, scope.scope.version = _SCOPE, __version__
    for span in spans:
        encoded = scope.spans.add(
            trace_id=span.trace_id.to_bytes(16),
            span_id=span.span_id.to_bytes(8),
            parent_span_id=span.parent_id.to_bytes(8) if span.parent_id else b"",
            name=span.name,
            kind=span.kind,
            start_time_unix_nano=epoch + int(span.started * 1e9),
            end_time_unix_nano=epoch + int(span.ended * 1e9),
        )
        for name, value in span.attributes.items():
            encoded.attributes.append(_pair(name, value))
        if span.failed:
            encoded.status.code = _ERROR
    return request.SerializeToString()


def _pair(name: str, value: str | int) -> KeyValue:
    pair = KeyValue(key=name)
    if isinstance(value, int):
        pair.value.int_value = value
    else:
        pair.value.string_value = value
    return pair
