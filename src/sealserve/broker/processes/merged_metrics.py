"""Merges the metrics pages of the broker's processes into one page.

Counters and histograms are sums. They include the last known values of workers that have ended, so that a counter
never decreases. Each gauge has a rule:

- The sum: connections, waiting notifications, memory, open files.
- The least value, because the worst process counts: expiry times, the time of a download, whether a reload succeeded,
  the limit of open files, and the time of the start.
- The largest value: the version.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from sealserve.broker.metrics import PREFIX

RULES: Final[Mapping[str, Callable[[float, float], float]]] = {
    f"{PREFIX}certificate_expiry_timestamp_seconds": min,
    f"{PREFIX}collateral_fetched_timestamp_seconds": min,
    f"{PREFIX}collateral_next_update_timestamp_seconds": min,
    f"{PREFIX}connections": float.__add__,
    f"{PREFIX}info": max,
    f"{PREFIX}last_reload_successful": min,
    f"{PREFIX}notifications_waiting": float.__add__,
    f"{PREFIX}processes": float.__add__,
    "process_max_fds": min,
    "process_open_fds": float.__add__,
    "process_resident_memory_bytes": float.__add__,
    "process_start_time_seconds": min,
    "process_virtual_memory_bytes": float.__add__,
}
"""The rule for each gauge."""

_ACCUMULATED: Final = frozenset({"counter", "histogram"})


def merged(pages: Iterable[str], *, accumulated_only: bool = False) -> str:
    """Return the page with the merged metrics of ``pages``, in Prometheus text format.

    Args:
        pages: The pages of the processes. The first page determines the order of the metrics.
        accumulated_only: Return only counters and histograms, for processes that have ended.
    """
    found: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for page in pages:
        for family in text_string_to_metric_families(page):
            if accumulated_only and family.type not in _ACCUMULATED:
                continue
            found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            merge = float.__add__ if family.type in _ACCUMULATED else RULES.get(family.name, max)
            known = values.setdefault(family.name, {})
            for sample in family.samples:
                key = sample.name, tuple(sample.labels.items())
                known[key] = merge(known[key], float(sample.value)) if key in known else float(sample.value)
    for name, metric in found.items():
        for (sample_name, labels), value in values[name].items():
            metric.add_sample(sample_name, dict(labels), value)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed(found.values()))
    return generate_latest(registry).decode()


class _Fixed(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)

    def describe(self) -> Iterator[Metric]:
        return iter(())
