"""A gRPC transport on a separate port, and a channel to it.

Tests that use the fixture `transport` run with each implementation.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from sealserve.serving.wire import transports
from sealserve.serving.wire.allowance import Allowance
from sealserve.serving.wire.completion_queue import QueueTransport
from sealserve.serving.wire.public_server import PublicTransport
from sealserve.serving.wire.transport import Handler, Transport, TransportSettings

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


@pytest.fixture(
    params=[pytest.param(QueueTransport, id="completion-queue"), pytest.param(PublicTransport, id="public-api")]
)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Transport]:
    """Make the server choose each transport in turn."""
    found: type[Transport] = request.param
    monkeypatch.setattr(transports, "choose", lambda: found)
    return found


def make_settings(handlers: Mapping[str, Handler], **settings: Any) -> TransportSettings:
    """Return settings of a small server."""
    defaults = {"threads": 4, "calls": 64, "patience": LONG, "allowance": Allowance(2**30)}
    return TransportSettings(handlers=handlers, **{**defaults, **settings})


@contextlib.contextmanager
def served(handlers: Mapping[str, Handler], **settings: Any) -> Iterator[Served]:
    """Yield a transport that serves ``handlers``; it must end in peace."""
    server = transports.choose()(make_settings(handlers, **settings))
    port = server.listen("127.0.0.1:0")
    assert port
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Served(transport=server, port=port, channel=channel)
    finally:
        assert server.stop(0)
