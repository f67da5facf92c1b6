import asyncio
import socket

import pytest

from sealserve.cluster.ports import find_free
from sealserve.serving.http.http_server import HttpLimits, HttpServer
from sealserve.serving.metrics import Metrics
from sealserve.serving.wire.allowance import Allowance

LIMITS = HttpLimits(threads=1, waiting=1, body=4096, timeout=30.0, patience=30.0)


def reaches(host: str, port: int) -> bool:
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return connection.recv(8) == b"HTTP/1.1"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_every_address_is_of_both_kinds(host: str) -> None:
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")

    async def scenario() -> None:
        server = HttpServer(
            rest=None, metrics_path="/metrics", metrics=Metrics(), limits=LIMITS, allowance=Allowance(2**20)
        )
        port = await server.start(f"[::]:{find_free()}", None)
        try:
            assert await asyncio.to_thread(reaches, host, port)
        finally:
            await server.stop(0)

    asyncio.run(scenario())
