"""A gRPC transport on a port of its own, and a channel to it."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from sealserve.serving.wire.allowance import Allowance
from sealserve.serving.wire.completion_queue import Handler, Transport

LONG = 60.0
"""Seconds after which a call that should have ended is a failure; no test waits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A transport and a client of it."""

    transport: Transport
    port: int
    channel: grpc.Channel

    def call(self, method: str) -> Any:
        """Return what sends bytes to a method and returns its answer."""
        return self.channel.unary_unary(method)


@contextlib.contextmanager
def served(handlers: Mapping[str, Handler], **settings: Any) -> Iterator[Served]:
    """Yield a transport that serves ``handlers``; it must end in peace."""
    transport = Transport(
        handlers, **{"threads": 4, "calls": 64, "patience": LONG, "allowance": Allowance(2**30), **settings}
    )
    port = transport.listen("127.0.0.1:0")
    assert port
    transport.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Served(transport=transport, port=port, channel=channel)
    finally:
        assert transport.stop(0)
