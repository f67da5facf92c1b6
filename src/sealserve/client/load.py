"""A load generator: send many requests with limited concurrency, and measure the answers."""

import itertools
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np

from sealserve.client.channel import ServiceChannel
from sealserve.client.predict import DEFAULT_TIMEOUT, Prediction, Predictor
from sealserve.client.tensors import Array
from sealserve.errors import SealserveError
from sealserve.serving_interface import DEFAULT_SIGNATURE


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request of a load: the arguments of `Predictor.predict`."""

    model: str
    inputs: Mapping[str, Array]
    signature: str = DEFAULT_SIGNATURE
    version: int | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Latency of the answered requests in seconds: encoding, network in both directions, model, decoding.

    Attributes:
        mean: Mean.
        p50: 50th percentile.
        p90: 90th percentile.
        p99: 99th percentile.
        maximum: Maximum.
    """

    mean: float
    p50: float
    p90: float
    p99: float
    maximum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """The result of a load.

    Attributes:
        requests: Number of requests that were sent.
        answered: Number of requests that were answered.
        errors: Number of failed requests by error code.
        first_error: The first error, or None.
        seconds: Time from the first request to the last answer.
        latency: Latency of the answered requests, or None without answers.
        channels: Number of answers for each channel.
        instances: Number of answers for each server process that reports its name.
    """

    requests: int
    answered: int
    errors: Mapping[str, int]
    first_error: SealserveError | None
    seconds: float
    latency: Latency | None
    channels: Sequence[int]
    instances: Mapping[str, int]

    @property
    def rate(self) -> float:
        """Answered requests per second."""
        return self.answered / self.seconds if self.seconds > 0 else 0.0


@dataclass(slots=True)
class _Tally:
    lock: threading.Lock = field(default_factory=threading.Lock)
    seconds: list[float] = field(default_factory=list)
    channels: Counter[int] = field(default_factory=Counter)
    instances: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    first_error: SealserveError | None = None

    def answer(self, prediction: Prediction, seconds: float) -> None:
        with self.lock:
            self.seconds.append(seconds)
            self.channels[prediction.channel] += 1
            if prediction.instance is not None:
                self.instances[prediction.instance] += 1

    def error(self, error: SealserveError) -> None:
        with self.lock:
            self.errors[error.code] += 1
            self.first_error = self.first_error or error


def run_load(
    channels: Sequence[ServiceChannel],
    make_request: Callable[[int], Request],
    *,
    requests: int | None = None,
    seconds: float | None = None,
    concurrency: int,
    timeout: float = DEFAULT_TIMEOUT,
    on_answer: Callable[[int, Prediction], None] | None = None,
) -> LoadReport:
    """Send a number of requests, or send requests for some time, over the channels in turn.

    A failed request is counted, and the load continues. A request is retried only if the server never started to
    process it; see `Method.call`. Ctrl-C closes the channels.

    Args:
        channels: Open channels. Request ``i`` uses channel ``i % len(channels)``.
        make_request: Returns request ``i``. It is called from several threads, before the request's time starts.
        requests: Number of requests; None means that only ``seconds`` limits the load.
        seconds: Duration of the load; None means that only ``requests`` limits the load.
        concurrency: Number of requests at the same time, each in its own thread.
        timeout: Seconds to wait for each answer.
        on_answer: Called with the request's number and the answer, in the request's thread, after its time has stopped.

    Raises:
        ValueError: The load is not limited, or a number is smaller than 1.
        Exception: An exception of ``make_request`` or ``on_answer``, which ends the load.
    """
    most = sys.maxsize if requests is None else requests
    if most < 1 or concurrency < 1 or (requests is None and seconds is None):
        raise ValueError("a load needs a limit (requests or seconds), at least one request and at least one thread")
    predictor = Predictor(channels)
    numbers = itertools.count()  # its next() is atomic
    tally = _Tally()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set() and time.monotonic() < end and (number := next(numbers)) < most:
            request = make_request(number)
            started = time.monotonic()
            try:
                prediction = predictor.predict(
                    request.model,
                    request.inputs,
                    signature=request.signature,
                    version=request.version,
                    label=request.label,
                    timeout=timeout,
                    channel=number % len(channels),
                )
            except SealserveError as error:
                tally.error(error)
                continue
            tally.answer(prediction, time.monotonic() - started)
            if on_answer is not None:
                on_answer(number, prediction)

    started = time.monotonic()
    end = math.inf if seconds is None else started + seconds
    with ThreadPoolExecutor(min(concurrency, most), thread_name_prefix="load") as pool:
        try:
            workers = [pool.submit(work) for _ in range(min(concurrency, most))]
            done, _ = wait(workers, return_when=FIRST_EXCEPTION)
        except KeyboardInterrupt:
            stop.set()
            for channel in channels:  # cancel requests in progress, which would otherwise run until their timeout
                channel.close()
            raise
        finally:
            stop.set()  # after an exception, the other threads finish their current request
    took = time.monotonic() - started
    for worker in done:
        worker.result()
    return LoadReport(
        requests=len(tally.seconds) + sum(tally.errors.values()),
        answered=len(tally.seconds),
        errors=dict(tally.errors),
        first_error=tally.first_error,
        seconds=took,
        latency=_latency(tally.seconds),
        channels=[tally.channels[index] for index in range(len(channels))],
        instances=dict(tally.instances),
    )


def _latency(seconds: Sequence[float]) -> Latency | None:
    if not seconds:
        return None
    p50, p90, p99 = np.percentile(seconds, [50, 90, 99])
    return Latency(mean=float(np.mean(seconds)), p50=float(p50), p90=float(p90), p99=float(p99), maximum=max(seconds))
