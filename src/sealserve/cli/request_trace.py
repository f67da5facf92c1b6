"""The trace of ``sealserve predict``: the context that the request carries, and the client's own span."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from sealserve import __version__
from sealserve.cli import console
from sealserve.cli.codes import CliCode
from sealserve.cli.deferred_imports import deferred
from sealserve.tracing.trace_context import TraceContext

with deferred:
    from sealserve.pki.certificate import parse_chain
    from sealserve.regular_file import read_regular
    from sealserve.tracing.codes import TracingCode
    from sealserve.tracing.collector import Collector
    from sealserve.tracing.collector_link import CollectorLink
    from sealserve.tracing.exporter import SpanExporter
    from sealserve.tracing.span import Kind, Span, SpanName

Trace = Annotated[
    bool,
    typer.Option(
        "--trace", help="Send a trace context (W3C) and print the trace's id; continues the trace in TRACEPARENT"
    ),
]
TraceCollector = Annotated[
    str | None,
    typer.Option(
        "--trace-collector",
        metavar="URL",
        help="OpenTelemetry collector for the client's own span, such as https://HOST:4317; implies --trace",
        show_default="none: export no span",
    ),
]
TraceCa = Annotated[
    Path | None,
    typer.Option("--trace-ca", help="CA certificate of the collector (PEM)", show_default="the CAs in gRPC's package"),
]
SERVICE_NAME: Final = "sealserve-client"
PARENT_VARIABLE: Final = "TRACEPARENT"
"""The environment variable with the context of the calling program.

Source: OpenTelemetry specification, "Environment Variables as Context Propagation Carriers".
"""


class ClientSpans:
    """The spans of a client.

    Args:
        parent: The context of the calling program, or None.
        exporter: Gets the spans, or None if only the context is sent.
        on: Whether the request is traced.
    """

    def __init__(self, *, on: bool, parent: TraceContext | None = None, exporter: "SpanExporter | None" = None) -> None:
        self._parent = parent
        self._exporter = exporter
        self._root = TraceContext.start(parent) if on else None

    @property
    def trace(self) -> str | None:
        """The id of the trace, 32 hexadecimal digits, or None if the request is not traced."""
        return None if self._root is None else self._root.trace

    @contextmanager
    def request(self) -> Iterator[str | None]:
        """Record the block as the span of one request. Yield its context, or None."""
        if self._root is None:
            yield None
            return
        context = TraceContext.start(self._root)
        started, failed = time.monotonic(), True
        try:
            yield str(context)
            failed = False
        finally:
            if self._exporter is not None:
                above = 0 if self._parent is None else self._parent.span_id
                self._exporter.add([
                    Span(
                        SpanName.PREDICT, context.trace_id, context.span_id, above, started, time.monotonic(),
                        Kind.CLIENT, failed,
                    )
                ])  # fmt: skip

    def report(self) -> None:
        """Print the id of the trace."""
        if self.trace is not None:
            console.out.print(f"trace {self.trace}")


@contextmanager
def traced(trace: bool, *, collector: str | None, ca: Path | None) -> Iterator[ClientSpans]:
    """Yield the spans of a command, and export them at its end.

    Args:
        trace: Whether to send a trace context.
        collector: The address of a collector for the client's own spans, or None.
        ca: The file with the collector's CA certificate, or None.

    Raises:
        InputError: `client.options`: ``ca`` was given without a collector.
        InputError: `traces.endpoint`: The address of the collector is invalid, or not encrypted.
    """
    if collector is None:
        if ca is not None:
            raise CliCode.CLIENT_OPTIONS.error(
                "--trace-ca was given without --trace-collector.", hint="Add --trace-collector, or omit --trace-ca."
            )
        yield ClientSpans(on=trace, parent=_parent())
        return
    link = CollectorLink(*_checked(collector, ca))
    exporter = SpanExporter()
    exporter.start(link, {"service.name": SERVICE_NAME, "service.version": __version__})
    try:
        yield ClientSpans(on=True, parent=_parent(), exporter=exporter)
    finally:
        exporter.close()
        if exporter.dropped:
            console.warn(f"The trace collector {collector} did not accept the client's span.")


def _checked(text: str, ca: Path | None) -> "tuple[Collector, bytes | None]":
    collector = Collector.parse(text)
    if not collector.tls and not collector.is_on_this_machine:
        raise TracingCode.TRACES_ENDPOINT.error(
            f"The trace collector at {collector.address} has no TLS, and is not on this machine.",
            hint="Use an https:// address.",
        )
    content = None if ca is None else read_regular(ca)
    if content is not None:
        parse_chain(content, source=str(ca))
    return collector, content


def _parent() -> TraceContext | None:
    return TraceContext.parse(os.environ.get(PARENT_VARIABLE, ""))
