"""The broker's Prometheus metrics.

The metrics contain no secrets, and no label value is chosen by an unauthenticated client. The number of series is
limited: error codes, stages, states of connections and certificates are fixed sets. The collateral documents depend on
the platforms that connect, so only a limited number of them is shown.

Source: https://prometheus.io/docs/instrumenting/writing_exporters/, https://prometheus.io/docs/practices/naming/.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sealserve import __version__
from sealserve.broker.stage_times import StageTimes

PREFIX: Final = "sealserve_broker_"
_MOST_CODES: Final = 500
_MOST_DOCUMENTS: Final = 200
_OTHER: Final = "other"

# The creation time of a series is only useful with OpenMetrics, which this page does not use.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class Outcome(StrEnum):
    """The outcome of a request for a key or for an attestation result."""

    RELEASED = "released"
    ATTESTED = "attested"
    """The broker issued an attestation result and released no key."""
    REFUSED = "refused"
    """The peer presented a quote, and the broker refused it."""
    TURNED_AWAY = "turned-away"
    """The peer presented no evidence that could be appraised. Any client can cause this outcome."""


class Decisions:
    """Counts of the broker's decisions. Several threads may count at the same time."""

    def __init__(self) -> None:
        self._counts: dict[tuple[Outcome, str], int] = {(outcome, ""): 0 for outcome in Outcome}
        self._lock = threading.Lock()

    def count(self, outcome: Outcome, code: str = "") -> None:
        """Count a decision.

        Args:
            outcome: The outcome of the request.
            code: The code of the error, from the fixed set of error codes. Empty for a released key.
        """
        with self._lock:
            if len(self._counts) >= _MOST_CODES and (outcome, code) not in self._counts:
                code = _OTHER  # more codes than sealserve has: the memory and the page stay bounded
            self._counts[outcome, code] = self._counts.get((outcome, code), 0) + 1

    def all(self) -> Mapping[tuple[Outcome, str], int]:
        """Return the counts by outcome and code."""
        with self._lock:
            return dict(self._counts)


@dataclass(frozen=True, slots=True)
class Fetched:
    """The times of a collateral document: the time of its last download and its next-update time."""

    at: datetime
    next_update: datetime


def new_stage_times() -> StageTimes:
    """Return an empty histogram of the stages of requests."""
    return StageTimes(f"{PREFIX}stage_duration_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The sources of the metrics. The functions are called for each page.

    Args:
        decisions: The counts of the broker's decisions.
        certificates: Returns the expiry time of each certificate, by the certificate's role.
        collateral: Returns the downloaded collateral documents, by vendor and document name.
        ready: Returns if the broker can release keys. Otherwise it raises a `SealserveError`.
        stages: The histogram of the stages of requests.
        connections: Returns the number of open connections, by their state.
        reloads: Returns whether the last attempt to load each replaceable file succeeded, by the file's name.
        notifications: Returns the numbers of notifications so far, by their outcome.
        waiting: Returns the number of waiting notifications. `None` without a receiver of notifications.
        processes: 1 for a process that serves connections, and 0 for a supervisor.
        restarts: Returns how often a process of the broker was started again.
    """

    decisions: Decisions
    certificates: Callable[[], Mapping[str, datetime]]
    collateral: Callable[[], Mapping[tuple[str, str], Fetched]]
    ready: Callable[[], None]
    stages: StageTimes = field(default_factory=new_stage_times)
    connections: Callable[[], Mapping[str, int]] = dict
    reloads: Callable[[], Mapping[str, bool]] = dict
    notifications: Callable[[], Mapping[str, int]] = dict
    waiting: Callable[[], int] | None = None
    processes: int = 1
    restarts: Callable[[], int] = lambda: 0

    def registry(self) -> CollectorRegistry:
        """Return a registry with the broker's metrics and the metrics of its process."""
        registry = CollectorRegistry()
        registry.register(_Described(self))
        registry.register(self.stages.histogram)
        ProcessCollector(registry=registry)
        return registry

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics that are read when the page is requested."""
        decisions = CounterMetricFamily(
            f"{PREFIX}decisions",
            "Requests for release keys and attestation results, by outcome and error code.",
            labels=["outcome", "code"],
        )
        for (outcome, code), count in sorted(self.decisions.all().items()):
            decisions.add_metric([outcome.value, code], count)
        yield decisions
        yield _gauge(
            "certificate_expiry_timestamp_seconds",
            "Expiry time of a certificate.",
            ["certificate"],
            {(role,): ends.timestamp() for role, ends in self.certificates().items()},
        )
        yield from self._collateral()
        yield _gauge(
            "connections",
            "Open connections, by state: silent, waiting or busy.",
            ["state"],
            {(state,): count for state, count in self.connections().items()},
        )
        yield _gauge(
            "last_reload_successful",
            "1 if the last attempt to load the file succeeded, or 0 if it failed and the former file is still in use.",
            ["file"],
            {(name,): int(succeeded) for name, succeeded in self.reloads().items()},
        )
        yield from self._notifications()
        yield _gauge("processes", "Processes that serve connections.", [], {(): self.processes})
        restarts = CounterMetricFamily(
            f"{PREFIX}process_restarts", "Processes that ended unexpectedly and were started again.", labels=[]
        )
        restarts.add_metric([], self.restarts())
        yield restarts
        yield _gauge(
            "info",
            "The version of sealserve; the value is always 1.",
            ["version"],
            {(__version__,): 1},
        )

    def page(self) -> str:
        """Return the metrics page in Prometheus text format, version 0.0.4."""
        return generate_latest(self.registry()).decode()

    def _notifications(self) -> Iterator[Metric]:
        totals = CounterMetricFamily(
            f"{PREFIX}notifications",
            "Notifications that the receiver accepted (sent), that were given up (failed), or that did not fit into "
            "the queue (dropped).",
            labels=["outcome"],
        )
        for outcome, count in sorted(self.notifications().items()):
            totals.add_metric([outcome], count)
        yield totals
        waiting: dict[tuple[str, ...], float] = {} if self.waiting is None else {(): self.waiting()}
        yield _gauge("notifications_waiting", "Notifications in the queue.", [], waiting)

    def _collateral(self) -> Iterator[Metric]:
        # If there are too many documents, the first ones to expire are shown.
        found = sorted(self.collateral().items(), key=lambda item: item[1].next_update)[:_MOST_DOCUMENTS]
        yield _gauge(
            "collateral_next_update_timestamp_seconds",
            "Next-update time of a collateral document, after which it is expired.",
            ["vendor", "document"],
            {names: fetched.next_update.timestamp() for names, fetched in found},
        )
        yield _gauge(
            "collateral_fetched_timestamp_seconds",
            "Time of the last download of a collateral document.",
            ["vendor", "document"],
            {names: fetched.at.timestamp() for names, fetched in found},
        )


class _Described(Collector):
    """Calls the sources for a page only, and not at the registration, where the library asks for the metrics' names."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def collect(self) -> Iterator[Metric]:
        return self._observed.collect()

    def describe(self) -> Iterator[Metric]:
        return iter(())


def _gauge(name: str, meaning: str, labels: list[str], values: Mapping[tuple[str, ...], float]) -> Metric:
    metric = GaugeMetricFamily(f"{PREFIX}{name}", meaning, labels=labels)
    for key, value in sorted(values.items()):
        metric.add_metric(key, value)
    return metric
