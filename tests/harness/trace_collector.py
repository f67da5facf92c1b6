"""A collector of traces: it receives OTLP over gRPC, and parses it with the messages of the OpenTelemetry project."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from sealserve.pki.certificate import CertifiedKey

SERVICE: Final = "opentelemetry.proto.collector.trace.v1.TraceService"
PATIENT: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Received:
    """A span as the collector received it. Ids are in hexadecimal digits, and empty for no parent."""

    name: str
    trace: str
    span: str
    parent: str
    start: int
    end: int
    kind: int
    failed: bool
    attributes: Mapping[str, str | int]
    resource: Mapping[str, str | int]


@dataclass
class Collector:
    """A running collector.

    Args:
        port: Its port on 127.0.0.1.
        spans: The spans that it received.
        messages: The messages that it received.
    """

    port: int = 0
    spans: list[Received] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def plain(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self, message: bytes) -> None:
        """Take one message."""
        with self._changed:
            self.messages.append(message)
            self.spans += _spans(message)
            self._changed.notify_all()

    def wait(self, wanted: Callable[[Sequence[Received]], bool]) -> list[Received]:
        """Wait until the spans so far are the wanted ones, and return them."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: wanted(self.spans), PATIENT)
            assert arrived, [span.name for span in self.spans]
            return list(self.spans)

    def trace(self, trace: str, *names: str) -> list[Received]:
        """Wait until a trace has at least the named spans; return its spans, each after its start."""

        def of_trace(spans: Sequence[Received]) -> list[Received]:
            return [span for span in spans if span.trace == trace]

        found = self.wait(lambda spans: set(names) <= {span.name for span in of_trace(spans)})
        return sorted(of_trace(found), key=lambda span: (span.start, -span.end))


@contextmanager
def collecting(
    *,
    certificate: CertifiedKey | None = None,
    answer: Callable[[bytes], bytes] | None = None,
    compression: grpc.Compression | None = None,
) -> Iterator[Collector]:
    """Run a collector.

    Args:
        certificate: The certificate and key for TLS, or None for plaintext.
        answer: Returns the answer to a message, instead of an honest one.
        compression: The compression of answers.
    """
    collector = Collector()

    def export(message: bytes, _context: Any) -> bytes:
        collector.take(message)
        return answer(message) if answer is not None else ExportTraceServiceResponse().SerializeToString()

    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_send_message_length", -1)], compression=compression)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(SERVICE, {"Export": grpc.unary_unary_rpc_method_handler(export)})]
    )
    if certificate is None:
        collector.port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = (certificate.key_pem.reveal(), certificate.chain_pem)
        collector.port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait(PATIENT)


def _spans(message: bytes) -> Iterator[Received]:
    for group in ExportTraceServiceRequest.FromString(message).resource_spans:
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Received(
                    name=span.name,
                    trace=span.trace_id.hex(),
                    span=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    kind=span.kind,
                    failed=span.status.code == span.status.STATUS_CODE_ERROR,
                    attributes=_values(span.attributes),
                    resource=_values(group.resource.attributes),
                )


def _values(pairs: Any) -> dict[str, str | int]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def unknown_fields(message: bytes) -> bool:
    """Return whether a message has bytes that the OpenTelemetry project's messages do not describe."""
    parsed = ExportTraceServiceRequest.FromString(message)
    size = parsed.ByteSize()
    parsed.DiscardUnknownFields()
    return bool(parsed.ByteSize() != size)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + PATIENT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
