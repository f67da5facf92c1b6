"""The W3C trace context, with the examples and rules of the recommendation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.tracing.trace_context import TRACEPARENT, TraceContext

EXAMPLE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_the_example_of_the_recommendation() -> None:
    context = TraceContext.parse(EXAMPLE)
    assert context == TraceContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, sampled=True)
    assert str(context) == EXAMPLE
    assert context.trace == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("03", True), ("fe", False), ("ff", True)])
def test_only_the_sampled_flag_counts(flags: str, sampled: bool) -> None:
    context = TraceContext.parse(EXAMPLE[:-2] + flags)
    assert context is not None
    assert context.sampled is sampled


@pytest.mark.parametrize(
    "header",
    [
        "",
        EXAMPLE.upper(),
        f" {EXAMPLE}",
        f"{EXAMPLE}\n",
        f"{EXAMPLE}-",
        f"{EXAMPLE}-more",
        EXAMPLE[:-1],
        EXAMPLE.replace("-", "_"),
        "ff" + EXAMPLE[2:],
        "ff" + EXAMPLE[2:] + "-more",
        "0x" + EXAMPLE[2:],
        EXAMPLE.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        EXAMPLE.replace("b7ad6b7169203331", "0" * 16),
        EXAMPLE.replace("0af7651916cd43dd", "0af7651916cd43d\u0665"),
        f"01{EXAMPLE[2:]}.more",
        f"01{EXAMPLE[2:]}-" + "x" * 1000,
        "0" * 1_000_000,
    ],
)
def test_an_invalid_header_is_ignored(header: str) -> None:
    assert TraceContext.parse(header) is None


def test_a_later_version_may_append_fields() -> None:
    assert TraceContext.parse(f"01{EXAMPLE[2:]}") == TraceContext.parse(EXAMPLE)
    assert TraceContext.parse(f"cc{EXAMPLE[2:]}-what the future brings") == TraceContext.parse(EXAMPLE)


def test_a_header_counts_only_once_and_as_text() -> None:
    other = [("tracestate", "a=b"), ("baggage", "c=d")]
    assert TraceContext.find([*other, (TRACEPARENT, EXAMPLE)]) == TraceContext.parse(EXAMPLE)
    assert TraceContext.find(other) is None
    assert TraceContext.find([(TRACEPARENT, EXAMPLE), (TRACEPARENT, EXAMPLE)]) is None
    unsampled = TraceContext.find([(TRACEPARENT, EXAMPLE), (TRACEPARENT, f"{EXAMPLE[:-2]}00")])
    assert unsampled is not None
    assert not unsampled.sampled
    assert TraceContext.find([(TRACEPARENT, EXAMPLE.encode())]) is None


def test_a_new_span_is_in_the_trace_of_its_parent() -> None:
    parent = TraceContext.start()
    child = TraceContext.start(parent)
    assert child.trace_id == parent.trace_id
    assert child.span_id != parent.span_id
    assert TraceContext.start().trace_id != parent.trace_id


@given(trace=st.integers(1, 2**128 - 1), span=st.integers(1, 2**64 - 1), sampled=st.booleans())
def test_a_context_survives_the_header(trace: int, span: int, *, sampled: bool) -> None:
    context = TraceContext(trace, span, sampled)
    assert TraceContext.parse(str(context)) == context
