"""The W3C trace context: the header ``traceparent``, which continues a trace of the caller.

A header comes from an untrusted peer. An invalid header is ignored, as the specification requires. ``tracestate`` and
``baggage`` are never read, stored or forwarded.

Source: W3C Recommendation "Trace Context", 23 November 2021, section 3.2 (``traceparent``) and 4.3 (processing).
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

TRACEPARENT: Final = "traceparent"
"""The name of the header, and of the metadata in gRPC."""
_LONGEST: Final = 512
"""Maximum characters of a header. Version 00 has 55; a later version may append fields."""
_FORM: Final = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?",
    re.DOTALL,
)
_FIRST_VERSION: Final = "00"
_INVALID_VERSION: Final = "ff"
_SAMPLED: Final = 0x01


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The position of a span in a trace.

    Args:
        trace_id: The id of the trace, 128 bits, not 0.
        span_id: The id of the span, 64 bits, not 0.
        sampled: Whether the caller records the trace.
    """

    trace_id: int
    span_id: int
    sampled: bool

    @classmethod
    def parse(cls, header: str) -> Self | None:
        """Return the context of a header's value, or None if it is invalid."""
        found = _FORM.fullmatch(header) if len(header) <= _LONGEST else None
        if found is None or found["version"] == _INVALID_VERSION:
            return None
        if found["version"] == _FIRST_VERSION and found["more"] is not None:
            return None
        trace_id, span_id = int(found["trace"], 16), int(found["span"], 16)
        if not trace_id or not span_id:
            return None
        return cls(trace_id, span_id, bool(int(found["flags"], 16) & _SAMPLED))

    @classmethod
    def find(cls, headers: Iterable[tuple[str, str | bytes]]) -> Self | None:
        """Return the context in headers with lower-case names.

        A header that is repeated is invalid. If one of its values asks for no trace, this value is still respected.
        """
        values = [value for name, value in headers if name == TRACEPARENT]
        contexts = [cls.parse(value) if isinstance(value, str) else None for value in values]
        if len(contexts) == 1:
            return contexts[0]
        return next((context for context in contexts if context is not None and not context.sampled), None)

    @classmethod
    def start(cls, parent: "TraceContext | None" = None) -> Self:
        """Return the context of a new sampled span, in the trace of ``parent`` or in a new trace."""
        return cls(random_id(128) if parent is None else parent.trace_id, random_id(64), sampled=True)

    @property
    def trace(self) -> str:
        """The id of the trace as viewers show it: 32 hexadecimal digits."""
        return f"{self.trace_id:032x}"

    def __str__(self) -> str:
        """Return the value of the header."""
        return f"{_FIRST_VERSION}-{self.trace}-{self.span_id:016x}-{int(self.sampled):02x}"


def random_id(bits: int) -> int:
    """Return a random id that is not 0. Ids identify spans and are not secret."""
    return random.getrandbits(bits) or 1
