"""Alert rules and the Grafana dashboard: files in ``monitoring_files/`` with a few placeholders (``@name@``).

Source: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/,
https://github.com/kubernetes/kube-state-metrics, ``internal/store/utils.go`` (``SanitizeLabelName``: resources as label
values).
"""

import json
import re
from importlib import resources
from typing import Any, Final

import yaml

from sealserve.clouds.catalog import epc_unit
from sealserve.cluster.kubernetes.render_context import Manifest
from sealserve.deployment import Deployment

_FOLDER: Final = "monitoring_files"
_SEALED_CERTIFICATE: Final = "SealserveServiceCertificateExpires"
_PLACEHOLDER: Final = re.compile("@([a-z_]+)@")


def replica_rules(deployment: Deployment) -> Manifest:
    """Return the alert rules about replicas, in the form of a Prometheus rule file."""
    settings = deployment.kubernetes
    values = {
        "namespace": settings.namespace,
        "start_minutes": str(settings.start_seconds // 60 + 1),
        "late_seconds": str(deployment.broker.certificate_hours * 3600 // 4),
    }
    rules: Manifest = _filled(yaml.safe_load(_text("replica_rules.yaml")), values)
    if deployment.server.metrics_port is not None:
        rules["groups"][0]["rules"] += _filled(_served_rules(deployment), values)
    return rules


def _served_rules(deployment: Deployment) -> list[Manifest]:
    """Return the rules based on the server's metrics. In attested serving, enclaves renew their certificates."""
    served: list[Manifest] = yaml.safe_load(_text("served_rules.yaml"))
    if not deployment.server.attested:
        return served
    renewed: list[Manifest] = yaml.safe_load(_text("attested_rules.yaml"))
    return [rule for rule in served if rule["alert"] != _SEALED_CERTIFICATE] + renewed


def broker_rules() -> Manifest:
    """Return the alert rules about the broker, for the Prometheus that scrapes it."""
    rules: Manifest = yaml.safe_load(_text("broker_rules.yaml"))
    return rules


def dashboard_text(deployment: Deployment) -> str:
    """Return the dashboard in Grafana's import format."""
    resource = deployment.kubernetes.resources.epc_resource
    unit = epc_unit(deployment.target.cloud, resource)  # bytes; the graph's axis is in bytes too
    values = {
        "epc_resource": re.sub("[^A-Za-z0-9_]", "_", resource),
        "epc_scale": "" if unit == 1 else f" * {unit}",
    }
    return json.dumps(_filled(json.loads(_text("dashboard.json")), values), indent=1, ensure_ascii=False) + "\n"


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(_FOLDER, name).read_text("utf-8")


def _filled(value: Any, values: dict[str, str]) -> Any:
    """Return a template with its placeholders replaced. A missing value is a KeyError."""
    match value:
        case dict():
            return {key: _filled(item, values) for key, item in value.items()}
        case list():
            return [_filled(item, values) for item in value]
        case str():
            return _PLACEHOLDER.sub(lambda found: values[found[1]], value)
    return value
