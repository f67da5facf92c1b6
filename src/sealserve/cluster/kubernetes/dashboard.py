"""A dashboard of Grafana: who serves, how fast, and what the broker decides.

Source: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sealserve.cluster.kubernetes.alerts import OWN_FAULTS, REPLICAS

_WIDTH: Final = 24
_HEIGHT: Final = 8
_COLUMNS: Final = 3
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_SPACE: Final = 'namespace=~"$namespace"'
_DEPLOYMENT: Final = f'{_SPACE},deployment="{REPLICAS}"'
_PODS: Final = f'{_SPACE},pod=~"{REPLICAS}-.+"'
_SERVING: Final = ":tensorflow:serving:"


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph.

    Args:
        title: What it shows.
        unit: Grafana's name for the values' unit.
        queries: Each query, with what its line is called.
    """

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


def _latency(quantile: float) -> str:
    buckets = f'{_SERVING}request_latency_bucket{{{_PODS},entrypoint="GRPC"}}'
    return f"histogram_quantile({quantile}, sum by (le, model_name) (rate({buckets}[$__rate_interval])))"


PANELS: Final = (
    Panel("Replicas", "none", (
        (f"kube_deployment_status_replicas_available{{{_DEPLOYMENT}}}", "serve"),
        (f"kube_deployment_status_replicas_unavailable{{{_DEPLOYMENT}}}", "not attested, or still loading"),
        (f"kube_deployment_spec_replicas{{{_DEPLOYMENT}}}", "wanted"),
    )),
    Panel("Enclaves that started again", "none", (
        (f"increase(kube_pod_container_status_restarts_total{{{_PODS}}}[15m])", "{{pod}} {{container}}"),
    )),
    Panel("EPC that replicas ask for, and nodes have", "bytes", (
        (f'sum(kube_pod_container_resource_requests{{{_PODS},resource="sgx_intel_com_epc"}})', "asked for"),
        ('sum(kube_node_status_allocatable{resource="sgx_intel_com_epc"})', "allocatable"),
    )),
    Panel("Requests", "reqps", (
        (f"sum by (model_name, status) (rate({_SERVING}request_count{{{_PODS}}}[$__rate_interval]))",
         "{{model_name}} {{status}}"),
    )),
    Panel("Share of requests that fail by the server's fault", "percentunit", (
        ((f'sum(rate({_SERVING}request_count{{{_PODS},status=~"{OWN_FAULTS}"}}[$__rate_interval]))'
         f" / sum(rate({_SERVING}request_count{{{_PODS}}}[$__rate_interval]))"), "failed"),
    )),
    Panel("Requests of each replica", "reqps", (
        (f"sum by (pod) (rate({_SERVING}request_count{{{_PODS}}}[$__rate_interval]))", "{{pod}}"),
    )),
    Panel("Latency (inside the enclave)", "µs", (
        (_latency(0.5), "{{model_name}} median"),
        (_latency(0.99), "{{model_name}} 99 %"),
    )),
    Panel("Rows in a batch", "none", (
        ((f"sum(rate({_SERVING}batching_session:processed_batch_size_sum{{{_PODS}}}[$__rate_interval]))"
         f" / sum(rate({_SERVING}batching_session:processed_batch_size_count{{{_PODS}}}[$__rate_interval]))"), "mean"),
    )),
    Panel("Certificate of the service ends in", "s", (
        (f"min(sealserve_server_certificate_expiry_timestamp_seconds{{{_PODS}}}) - time()", "service"),
    )),
    Panel("Broker: decisions", "none", (
        ("sum by (outcome, code) (increase(sealserve_broker_decisions_total[$__rate_interval]))",
         "{{outcome}} {{code}}"),
    )),
    Panel("Broker: certificates end in", "s", (
        ("sealserve_broker_certificate_expiry_timestamp_seconds - time()", "{{certificate}}"),
    )),
    Panel("Broker: collateral is replaced in", "s", (
        ("sealserve_broker_collateral_next_update_timestamp_seconds - time()", "{{vendor}} {{document}}"),
    )),
)  # fmt: skip


def dashboard_text() -> str:
    """Return the dashboard, as Grafana imports it."""
    return json.dumps(_dashboard(), indent=1, ensure_ascii=False) + "\n"


def _dashboard() -> dict[str, Any]:
    variables = [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {"name": "namespace", "label": "Namespace", "type": "query", "datasource": _SOURCE, "includeAll": False,
         "query": f'label_values(kube_deployment_spec_replicas{{deployment="{REPLICAS}"}}, namespace)', "refresh": 2},
    ]  # fmt: skip
    return {
        "title": "sealserve",
        "uid": "sealserve",
        "tags": ["sealserve"],
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": variables},
        "panels": list(_panels()),
    }


def _panels() -> Iterator[dict[str, Any]]:
    width = _WIDTH // _COLUMNS
    for number, panel in enumerate(PANELS):
        row, column = divmod(number, _COLUMNS)
        yield {
            "id": number + 1,
            "type": "timeseries",
            "title": panel.title,
            "datasource": _SOURCE,
            "gridPos": {"x": column * width, "y": row * _HEIGHT, "w": width, "h": _HEIGHT},
            "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
                for index, (expression, legend) in enumerate(panel.queries)
            ],
        }
