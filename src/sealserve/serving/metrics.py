"""Counters and histograms, and the metrics page in Prometheus' text format.

The names, labels, buckets and the form of the page are TensorFlow Serving's, so that its dashboards and alerts work
unchanged. The usual client library is not used, because it would add ``_total`` to each counter's name.

Source: tensorflow/serving, ``util/prometheus_exporter.cc`` (the page), ``servables/tensorflow/util.cc``,
``saved_model_warmup_util.cc`` and ``batching/batching_session.cc`` (the metrics); tensorflow/tensorflow,
``tensorflow/core/kernels/batching_util/batch_scheduler_utils.h``, ``tensorflow/cc/saved_model/loader.cc``.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from sealserve.serving.request_errors import RequestError, Status
from sealserve.serving_interface import METRICS_PREFIX as _PREFIX

_LOADER: Final = ":tensorflow:cc:saved_model:"
_OWN_PREFIX: Final = "sealserve_server_"  # for metrics that TensorFlow Serving does not have


class Counter:
    """A number that only increases, for each combination of labels.

    Args:
        name: Its name on the page.
        labels: The labels' names.
    """

    def __init__(self, name: str, *labels: str) -> None:
        self.name = name
        self._labels = labels
        self._values: dict[tuple[str, ...], int] = {}
        self._lock = threading.Lock()

    def add(self, *labels: str, by: int = 1) -> None:
        """Increase the number for these labels' values."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + by

    def set(self, *labels: str, to: int) -> None:
        """Set the number, which is counted elsewhere."""
        with self._lock:
            self._values[labels] = to

    def first(self) -> int:
        """Return the number of the first combination of labels, or 0."""
        with self._lock:
            return next(iter(self._values.values()), 0)

    def lines(self) -> Iterable[str]:
        """Return the metric's part of the page."""
        with self._lock:
            values = dict(self._values)
        yield f"# TYPE {self.name} counter"
        for labels, value in sorted(values.items()):
            yield f"{self.name}{{{_join(self._labels, labels)}}} {value}"


class Histogram:
    """The number of values in each bucket, for each combination of labels.

    Args:
        name: Its name on the page.
        labels: The labels' names.
        scale: The first bucket's limit.
        growth: The ratio between each limit and the previous one.
        buckets: The number of limits. A last bucket without a limit is added.
    """

    def __init__(self, name: str, *labels: str, scale: float, growth: float, buckets: int) -> None:
        self.name = name
        self._labels = labels
        self._limits = [scale * growth**index for index in range(buckets)]
        self._values: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}
        self._lock = threading.Lock()

    def add(self, *labels: str, value: float) -> None:
        """Add a value to its bucket."""
        index = bisect_left(self._limits, value)
        with self._lock:
            counts, total = self._values.setdefault(labels, ([0] * (len(self._limits) + 1), [0.0]))
            counts[index] += 1
            total[0] += value

    def lines(self) -> Iterable[str]:
        """Return the metric's part of the page."""
        with self._lock:
            values = {labels: (list(counts), total[0]) for labels, (counts, total) in self._values.items()}
        yield f"# TYPE {self.name} histogram"
        for labels, (counts, total) in sorted(values.items()):
            joined = _join(self._labels, labels)
            before = f"{joined}," if joined else ""
            count = 0
            for limit, number in zip([*self._limits, None], counts, strict=True):
                count += number
                shown = "+Inf" if limit is None else f"{limit:g}"
                yield f'{self.name}_bucket{{{before}le="{shown}"}} {count}'
            yield f"{self.name}_sum{{{joined}}} {total:g}"
            yield f"{self.name}_count{{{joined}}} {count}"


def _join(names: Iterable[str], values: Iterable[str]) -> str:
    return ",".join(f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True))


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Gauge:
    """A current value. It is omitted from the page until it is set.

    Args:
        name: Its name on the page.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._value: float | None = None

    def set(self, value: float) -> None:
        """Set the value."""
        self._value = value

    def lines(self) -> Iterable[str]:
        """Return the metric's part of the page."""
        if self._value is not None:
            yield f"# TYPE {self.name} gauge"
            yield f"{self.name} {self._value:.0f}"


class Timed:
    """A request to the gRPC API. It is counted when the block ends, and its time is recorded if it succeeds.

    Args:
        metrics: The metrics to update.
        api: The name of the method.
    """

    __slots__ = ("_api", "_metrics", "_started", "model")

    def __init__(self, metrics: "Metrics", api: str) -> None:
        self._metrics = metrics
        self._api = api
        self._started = time.monotonic()
        self.model = ""
        """The model that the request names; empty until it is parsed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is None:
            self._metrics.request(self.model, Status.OK)
            self._metrics.request_latency(self.model, self._api, "GRPC", time.monotonic() - self._started)
        else:
            self._metrics.request(self.model, error.status if isinstance(error, RequestError) else Status.INTERNAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanCounts:
    """The numbers of a server with traces.

    Args:
        exported: Spans that the trace collector accepted.
        dropped: Spans that were dropped, because the queue was full or the collector did not accept them.
        untraced_requests: Requests that were not traced because of the limit on traced requests per second.
    """

    exported: int
    dropped: int
    untraced_requests: int


class Metrics:
    """The metrics of one server. Only served models are listed by name; requests for other names are counted as one."""

    def __init__(self) -> None:
        latency = {"scale": 10, "growth": 1.8, "buckets": 33}
        self._requests = Counter(f"{_PREFIX}request_count", "model_name", "status")
        self._request_latency = Histogram(
            f"{_PREFIX}request_latency",
            "model_name",
            "API",
            "entrypoint",
            **latency,  # type: ignore[arg-type]  # an int is a float
        )
        self._runtime_latency = Histogram(
            f"{_PREFIX}runtime_latency",
            "model_name",
            "API",
            "runtime",
            **latency,  # type: ignore[arg-type]  # an int is a float
        )
        self._example_counts = Histogram(f"{_PREFIX}request_example_counts", "model", scale=1, growth=2, buckets=15)
        self._example_total = Counter(f"{_PREFIX}request_example_count_total", "model")
        session = f"{_PREFIX}batching_session:"
        sizes = {"scale": 1, "growth": 2, "buckets": 14}
        self._queueing = Histogram(f"{session}queuing_latency", "thread_pool_name", scale=100, growth=1.2, buckets=52)
        self._runs = Counter(f"{session}wrapped_run_count")
        self._input_sizes = Histogram(f"{session}input_batch_size", **sizes)
        self._batch_sizes = Histogram(f"{session}processed_batch_size", **sizes)
        self._paddings = Histogram(f"{session}padding_size", "execution_batch_size", **sizes)
        self._warmup_latency = Histogram(
            f"{_PREFIX}model_warmup_latency",
            "model_path",
            "status",
            **latency,  # type: ignore[arg-type]  # an int is a float
        )
        self._warmup_records = Counter(f"{_PREFIX}model_warmup_records_read", "model_path", "status")
        self._load_attempts = Counter(f"{_LOADER}load_attempt_count", "model_path", "status")
        self._load_latency = Counter(f"{_LOADER}load_latency", "model_path")
        self._certificate_expiry = Gauge(f"{_OWN_PREFIX}certificate_expiry_timestamp_seconds")
        self._failed_renewals = Counter(f"{_OWN_PREFIX}failed_renewals_total")
        self._spans = Counter(f"{_OWN_PREFIX}spans_total", "outcome")
        self._untraced = Counter(f"{_OWN_PREFIX}untraced_requests_total")
        self._known: frozenset[str] = frozenset()

    def serve(self, models: Iterable[str]) -> None:
        """Set the served models' names, so that unauthenticated clients cannot fill the memory with other names."""
        self._known = frozenset(models) | self._known

    def timed(self, api: str) -> Timed:
        """Return a context manager that counts one request to the gRPC API."""
        return Timed(self, api)

    def request(self, model: str, status: Status) -> None:
        """Count an answered request."""
        self._requests.add(self._name(model), status.name)

    def request_latency(self, model: str, api: str, entrypoint: str, seconds: float) -> None:
        """Record the time in seconds of a request that succeeded."""
        self._request_latency.add(self._name(model), api, entrypoint, value=int(seconds * 1e6))

    def runtime_latency(self, model: str, api: str, seconds: float) -> None:
        """Record the seconds that TensorFlow needed."""
        self._runtime_latency.add(model, api, "TF1", value=int(seconds * 1e6))

    def examples(self, model: str, count: int) -> None:
        """Count the examples of a request."""
        self._example_counts.add(model, value=count)
        self._example_total.add(model, by=count)

    def waited(self, pool: str, seconds: float) -> None:
        """Record the seconds that a request waited for its batch."""
        self._queueing.add(pool, value=int(seconds * 1e6))

    def batch(self, inputs: Iterable[int], size: int, padding: int) -> None:
        """Count a batch: requests of ``inputs`` rows each, run with ``size`` rows, of which ``padding`` were added."""
        self._runs.add()
        for rows in inputs:
            self._input_sizes.add(value=rows)
        self._batch_sizes.add(value=size)
        self._paddings.add(str(size), value=padding)

    def warmed_up(self, folder: Path, status: Status, seconds: float, records: int) -> None:
        """Record the warm-up of the version in ``folder``, and the number of its records."""
        self._warmup_latency.add(str(folder), status.name, value=int(seconds * 1e6))
        self._warmup_records.add(str(folder), status.name, by=records)

    def loaded(self, folder: Path, seconds: float, *, succeeded: bool) -> None:
        """Count an attempt to load the version in ``folder``."""
        self._load_attempts.add(str(folder), "success" if succeeded else "fail")
        self._load_latency.add(str(folder), by=int(seconds * 1e6))

    def certificate_ends(self, when: datetime) -> None:
        """Set the time when the server's certificate expires."""
        self._certificate_expiry.set(when.timestamp())

    def failed_renewals(self, total: int) -> None:
        """Set the number of failed renewals of an attested server's certificate."""
        self._failed_renewals.set(to=total)

    def spans(self, counts: SpanCounts) -> None:
        """Set the numbers of a server with traces."""
        self._spans.set("exported", to=counts.exported)
        self._spans.set("dropped", to=counts.dropped)
        self._untraced.set(to=counts.untraced_requests)

    def value(self, name: str) -> int:
        """Return a counter's first value by TensorFlow Serving's name of it (``/tensorflow/serving/...``), or 0."""
        counters = (self._requests, self._example_total, self._runs)
        return next((counter.first() for counter in counters if counter.name == name.replace("/", ":")), 0)

    def page(self) -> str:
        """Return the metrics page as text."""
        metrics: tuple[Counter | Histogram | Gauge, ...] = (
            self._load_attempts,
            self._load_latency,
            self._input_sizes,
            self._paddings,
            self._batch_sizes,
            self._queueing,
            self._runs,
            self._warmup_latency,
            self._warmup_records,
            self._example_total,
            self._example_counts,
            self._requests,
            self._request_latency,
            self._runtime_latency,
            self._certificate_expiry,
            self._failed_renewals,
            self._spans,
            self._untraced,
        )
        return "".join(f"{line}\n" for metric in metrics for line in metric.lines())

    def _name(self, model: str) -> str:
        return model if model in self._known else ""
