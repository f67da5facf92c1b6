"""Objects for Prometheus and Grafana: scrape targets, alert rules, and a dashboard.

With ``kubernetes.monitoring.enabled``, they are part of a deployment's objects, where the Prometheus operator and
Grafana's sidecar find them. The broker runs outside the cluster, so a different Prometheus monitors it
(`sealserve render monitoring`).

Source: https://prometheus-operator.dev/docs/api-reference/api/ (PodMonitor, PrometheusRule),
https://github.com/grafana/helm-charts/tree/main/charts/grafana ("Sidecar for dashboards": the label).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from sealserve.cluster.kubernetes import replicas
from sealserve.cluster.kubernetes.monitoring_templates import broker_rules, dashboard_text, replica_rules
from sealserve.cluster.kubernetes.render_context import APPLICATION, Manifest, RenderContext
from sealserve.cluster.replica import METRICS_PORT
from sealserve.deployment import Deployment
from sealserve.serving_interface import METRICS_PATH
from sealserve.terms import TlsMode

PART: Final = "monitoring"
BROKER_JOB: Final = "sealserve-broker"
REPLICA_JOB: Final = "sealserve-replicas"
_FOLDER: Final = "/etc/prometheus/sealserve"


def monitoring(context: RenderContext) -> Sequence[Manifest]:
    """Return the monitoring objects if ``kubernetes.monitoring.enabled`` is set, or else no objects."""
    if not context.settings.monitoring.enabled:
        return []
    scraped = [_pod_monitor(context)] if context.deployment.server.metrics_port is not None else []
    return [_rules(context), *scraped, _dashboard(context)]


def prometheus_files(deployment: Deployment) -> Mapping[str, str]:
    """Return files for a Prometheus and a Grafana without operators, by name."""
    return {
        "replicas.rules.yaml": _yaml(replica_rules(deployment)),
        "broker.rules.yaml": _yaml(broker_rules()),
        "prometheus.yaml": _yaml(_configuration(deployment)),
        "dashboard.json": dashboard_text(deployment),
    }


def _configuration(deployment: Deployment) -> Manifest:
    """Return the content for ``prometheus.yml``.

    Source: https://prometheus.io/docs/prometheus/latest/configuration/configuration/.
    """
    rules, jobs = ["replicas.rules.yaml"], list[Manifest]()
    if (port := deployment.broker.metrics_port) is not None:
        rules.append("broker.rules.yaml")  # without a scrape job, the broker would always seem to be down
        jobs.append({"job_name": BROKER_JOB, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]})
    if deployment.server.metrics_port is not None:
        settings = deployment.kubernetes
        jobs.append({
            "job_name": REPLICA_JOB,
            "scheme": "https",
            "metrics_path": METRICS_PATH,
            "tls_config": {"server_name": deployment.service.name, "ca_file": f"{_FOLDER}/ca.crt", **(
                {"cert_file": f"{_FOLDER}/tls.crt", "key_file": f"{_FOLDER}/tls.key"} if _two_way(deployment) else {})},
            "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": [settings.namespace]}}],
            "relabel_configs": [
                {"source_labels": ["__meta_kubernetes_pod_label_app_kubernetes_io_component",
                                   "__meta_kubernetes_pod_container_port_name"],
                 "regex": f"{replicas.PART};{METRICS_PORT}", "action": "keep"},
                {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
                {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
            ],
        })  # fmt: skip
    return {"rule_files": rules, "scrape_configs": jobs}


def _rules(context: RenderContext) -> Manifest:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": context.metadata(PART),
        "spec": replica_rules(context.deployment),
    }


def _pod_monitor(context: RenderContext) -> Manifest:
    """Return the object that makes Prometheus scrape each replica, over TLS that ends in the enclave."""
    secret = context.settings.monitoring.scrape_secret
    tls: dict[str, Any] = {
        "serverName": context.deployment.service.name,
        "ca": {"secret": {"name": secret, "key": "ca.crt"}},
    }
    if _two_way(context.deployment):
        tls |= {
            "cert": {"secret": {"name": secret, "key": "tls.crt"}},
            "keySecret": {"name": secret, "key": "tls.key"},
        }
    endpoint = {"port": METRICS_PORT, "scheme": "https", "path": METRICS_PATH, "tlsConfig": tls}
    spec = {"selector": {"matchLabels": context.labels(replicas.PART)}, "podMetricsEndpoints": [endpoint]}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": context.metadata(PART),
        "spec": spec,
    }


def _dashboard(context: RenderContext) -> Manifest:
    metadata = context.metadata(PART, labels={"grafana_dashboard": "1"})
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata,
            "data": {f"{APPLICATION}.json": dashboard_text(context.deployment)}}  # fmt: skip


def _two_way(deployment: Deployment) -> bool:
    return deployment.service.tls is TlsMode.TWO_WAY


def _yaml(value: Manifest) -> str:
    return "# Written by `sealserve render monitoring`.\n" + yaml.safe_dump(value, sort_keys=False, width=120)
