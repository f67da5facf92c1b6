"""A load generator: many requests, a bounded number at a time, and what came of them."""

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
    """How long the answered requests took, in seconds: encoding, both ways through the network, the model, decoding."""

    mean: float
    p50: float
    p90: float
    p99: float
    maximum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What came of a load.

    Attributes:
        requests: How many were sent.
        answered: How many of them were answered.
        errors: How often each error code came instead.
        first_error: The first of these errors, for its message.
        seconds: From the first request to the last answer.
        latency: Of the answered requests; None if there was none.
        channels: How many requests each channel answered.
        instances: How many each server process answered, where the server names itself.
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
    """Send requests, ``concurrency`` at a time, over the channels in turn: so many, or for so long.

    A failed request is counted, and the load goes on. It is not sent again, unless the server never began with it, as
    `Method.call` says. Ctrl-C closes the channels.

    Args:
        channels: Open channels; request ``i`` goes over channel ``i % len(channels)``.
        make_request: Makes request ``i``; called from many threads, before that request's clock starts.
        requests: How many to send; None for as many as ``seconds`` allow.
        seconds: For how long to send; None for as long as ``requests`` take.
        concurrency: How many threads send them.
        timeout: Seconds to wait for each answer.
        on_answer: Gets each answer with its request's number, in a worker's thread, after its clock stopped.

    Raises:
        Exception: Whatever ``make_request`` or ``on_answer`` raises; it ends the load.
    """
    most = sys.maxsize if requests is None else requests
    if most < 1 or concurrency < 1 or (requests is None and seconds is None):
        raise ValueError("a load has an end, and at least one request and one thread")
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
            for channel in channels:  # what is under way would be waited for, up to its time limit
                channel.close()
            raise
        finally:
            stop.set()  # when one raised, the others finish what they are at
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
