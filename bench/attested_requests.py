"""Requests to an attested service, in four ways that take turns: the measurements of ``attested.py``.

- `tls`: a TLS connection whose server the owner's CA certifies;
- `attested`: the same, after the six steps (``--require-attested``);
- `proxy`: a connection without TLS to ``sealserve proxy``, which has a verified connection;
- `receipt`: as `attested`, with a receipt for each answer.

The messages are the same bytes, and the client is gRPC's for Python. Its own cost is part of each latency, and limits
the rate.
"""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import grpc
from attested_deployments import SECONDS, BenchDeployment
from model_servers import PREDICT

from sealserve.attested.user_policy import UserPolicy
from sealserve.serving_interface import RECEIPT_HEADER

WAYS: Final = ("tls", "attested", "proxy", "receipt")
SLICE: Final = 50
"""Requests until the next way's turn."""
CONNECTIONS: Final = 8
Row = dict[str, Any]
Request = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """How to send requests to a deployment.

    Args:
        deployment: The deployment.
        policy: The user's policy.
        proxy: The address of the proxy.
        message: The request.
    """

    deployment: BenchDeployment
    policy: UserPolicy
    proxy: str
    message: bytes

    @contextlib.contextmanager
    def open(self, way: str) -> Iterator[Request]:
        """Open a connection, and yield a function that sends a request and waits for its answer."""
        metadata = ((RECEIPT_HEADER, "1"),) if way == "receipt" else None
        if way == "proxy":
            with grpc.insecure_channel(self.proxy, [("grpc.use_local_subchannel_pool", 1)]) as plain:
                call: Any = plain.unary_unary(PREDICT)
                yield self._warm(lambda: call(self.message, timeout=SECONDS))
            return
        with self.deployment.channel(attested=None if way == "tls" else self.policy) as channel:
            calls: dict[grpc.Channel, Any] = {}

            def send() -> None:
                current = channel.current(timeout=SECONDS)  # checks whether the evidence has expired
                if current not in calls:
                    calls[current] = current.unary_unary(PREDICT)
                _, ended = calls[current].with_call(self.message, metadata=metadata, timeout=SECONDS)
                assert way != "receipt" or RECEIPT_HEADER in dict(ended.trailing_metadata())

            yield self._warm(send)

    @staticmethod
    def _warm(send: Request) -> Request:
        for _ in range(20):
            send()
        return send

    def connect_seconds(self, way: str) -> float:
        """Return the seconds of a new connection until its first answer. Closing it is not measured."""
        began = time.perf_counter()
        with self.deployment.channel(attested=None if way == "tls" else self.policy) as channel:
            call: Any = channel.grpc.unary_unary(PREDICT)
            call(self.message, timeout=SECONDS)
            return time.perf_counter() - began

    def latencies(self, seconds: float) -> dict[str, list[float]]:
        """Return the latencies in seconds, of one connection for each way, in turns of short slices."""
        seen: dict[str, list[float]] = {way: [] for way in WAYS}
        with contextlib.ExitStack() as stack:
            opened = {way: stack.enter_context(self.open(way)) for way in WAYS}
            stack.callback(gc.enable)
            gc.disable()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for way, send in opened.items():
                    for _ in range(SLICE):
                        began = time.perf_counter()
                        send()
                        seen[way].append(time.perf_counter() - began)
        return seen

    def rate(self, way: str, requests: int) -> float:
        """Return requests per second over several connections, one request at a time on each."""
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(self.open(way)) for _ in range(CONNECTIONS)]
            numbers = count()  # its next() is atomic

            def work(send: Request) -> None:
                while next(numbers) < requests:
                    send()

            with ThreadPoolExecutor(CONNECTIONS) as pool:
                began = time.perf_counter()
                list(pool.map(work, opened))
                return requests / (time.perf_counter() - began)


def measure_requests(requests: Requests, *, quick: bool) -> Row:
    """Measure connections, latencies and rates, in turns."""
    connects: dict[str, list[float]] = {way: [] for way in ("tls", "attested")}
    for _ in range(10 if quick else 50):
        for way, found in connects.items():
            found.append(requests.connect_seconds(way))
    latencies = requests.latencies(8 if quick else 60)
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(3 if quick else 9):
        for way, found in rates.items():
            found.append(requests.rate(way, 1000 if quick else 4000))
    p50 = {way: statistics.median(found) for way, found in latencies.items()}
    rate = {way: statistics.median(found) for way, found in rates.items()}
    return {
        "connect_ms": {
            way: {"median": statistics.median(found) * 1e3, "best": min(found) * 1e3} for way, found in connects.items()
        },
        "one_connection": {
            way: {
                "p50_us": p50[way] * 1e6,
                "best_us": min(latencies[way]) * 1e6,
                "difference_us": (p50[way] - p50["tls"]) * 1e6,
                "requests_per_second": len(latencies[way]) / sum(latencies[way]),
            }
            for way in WAYS
        },
        "rates": {
            way: {
                "requests_per_second": rate[way],
                "best": max(rates[way]),
                # The median of the rounds' ratios: the processor's speed differs between rounds.
                "ratio": statistics.median(a / b for a, b in zip(rates[way], rates["tls"], strict=True)),
            }
            for way in WAYS
        },
    }
