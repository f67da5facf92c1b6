"""The header ``traceparent``, which any client can send: what is accepted is a valid context, and is written back."""

from collections.abc import Iterator

from sealserve.tracing.trace_context import TraceContext

_VALID = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def seeds() -> Iterator[bytes]:
    yield _VALID
    yield b"cc" + _VALID[2:] + b"-what the future brings"
    yield _VALID.upper()


def fuzz(data: bytes) -> None:
    text = data.decode("latin-1")
    if (context := TraceContext.parse(text)) is not None:
        assert str(context)[3:53] == text[3:53]
        assert TraceContext.parse(str(context)) == context
        assert context.trace_id
        assert context.span_id
