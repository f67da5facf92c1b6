"""Spans: what a trace may contain. Names and attributes are closed lists, so no part of a model or a request fits in.

Source: OpenTelemetry semantic conventions 1.44, "RPC" and "HTTP" (names of the attributes).
"""

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple


class SpanName(StrEnum):
    """The names of all spans."""

    START = "start"
    """The start of a replica, from its program to its open ports."""
    ATTEST = "attest"
    """One attestation to a broker: connection, quote, and the broker's answer."""
    KEY = "key"
    """The broker's message with the release's key."""
    UNSEAL = "unseal"
    """The attestation device opens the encrypted mounts with the key."""
    LOAD = "load"
    """One version of a model becomes available: checks, load, warm-up."""
    WARM_UP = "warm-up"
    """The warm-up requests of one version."""
    PREDICT = "predict"
    """A client's request, from the client's view."""
    REQUEST = "request"
    """A request in the server, from its complete arrival to its answer."""
    QUEUE = "queue"
    """The request waits for a thread."""
    BATCH = "batch"
    """The request waits for its batch."""
    TENSORFLOW = "tensorflow"
    """TensorFlow computes the outputs, of the request or of its batch."""


class Attribute(StrEnum):
    """The names of all attributes. Values are names of methods, protocols and statuses."""

    RPC_SYSTEM = "rpc.system.name"
    RPC_METHOD = "rpc.method"
    RPC_STATUS = "rpc.response.status_code"
    HTTP_METHOD = "http.request.method"
    HTTP_ROUTE = "http.route"
    HTTP_STATUS = "http.response.status_code"


class Kind(IntEnum):
    """The kind of a span, with the numbers of OTLP."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3


Attributes = Mapping[Attribute, str | int]
_NONE: Final[Attributes] = MappingProxyType({})


class Span(NamedTuple):
    """A span that has ended.

    Args:
        name: Its name.
        trace_id: The id of its trace.
        span_id: Its id.
        parent_id: The id of its parent, or 0 if it is the root of its trace.
        started: Its start, in seconds on the clock of `time.monotonic`.
        ended: Its end, on the same clock.
        kind: Its kind.
        failed: Whether it ended with an error of this program.
        attributes: Its attributes.
    """

    name: SpanName
    trace_id: int
    span_id: int
    parent_id: int
    started: float
    ended: float
    kind: Kind = Kind.INTERNAL
    failed: bool = False
    attributes: Attributes = _NONE
