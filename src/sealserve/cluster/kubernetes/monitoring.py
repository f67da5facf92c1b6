"""For the Prometheus operator: what is scraped, and which states raise an alarm.

Source: https://prometheus-operator.dev/docs/api-reference/api/ (PodMonitor, PrometheusRule), https://github.com/
kubernetes/kube-state-metrics/tree/main/docs/metrics/workload (``kube_*`` metrics).
"""

from collections.abc import Sequence
from typing import Final

from sealserve.cluster.kubernetes import replicas
from sealserve.cluster.kubernetes.plan import Manifest, Plan

PART: Final = "monitoring"


def monitoring(plan: Plan) -> Sequence[Manifest]:
    """Return the monitoring objects, if ``kubernetes.monitoring`` asks for them."""
    return [_rules(plan)] if plan.settings.monitoring else []


def rule_groups(plan: Plan) -> Manifest:
    """Return the alert rules, as a rule file of Prometheus has them."""
    where = f'namespace="{plan.settings.namespace}"'
    deployment = f'{where},deployment="{plan.name(replicas.PART)}"'
    pods = f'{where},pod=~"{plan.name(replicas.PART)}-.+"'
    minutes = plan.settings.start_seconds // 60 + 1
    rules = [
        _rule(
            "SealserveReplicaNotServing",
            f"kube_deployment_status_replicas_unavailable{{{deployment}}} > 0", f"{minutes}m",
            "A replica is not attested, or does not serve: `sealserve status` shows why.", "warning",
        ),
        _rule(
            "SealserveNothingServes", f"kube_deployment_status_replicas_available{{{deployment}}} == 0", "1m",
            "No replica serves.", "critical",
        ),
        _rule(
            "SealserveEnclaveRefused",
            f'increase(kube_pod_container_status_restarts_total{{{pods},container="server"}}[15m]) > 2', "0m",
            "An enclave starts again and again: the broker may refuse it (`sealserve broker log`).", "critical",
        ),
        _rule(
            "SealserveReleaseDoesNotVerify",
            f"increase(kube_pod_init_container_status_restarts_total{{{pods}}}[15m]) > 2", "0m",
            "A pod cannot fetch or verify its release: `sealserve status` shows why.", "critical",
        ),
    ]  # fmt: skip
    return {"groups": [{"name": "sealserve", "rules": rules}]}


def _rule(name: str, expression: str, duration: str, summary: str, severity: str) -> Manifest:
    return {
        "alert": name,
        "expr": expression,
        "for": duration,
        "labels": {"severity": severity},
        "annotations": {"summary": summary},
    }


def _rules(plan: Plan) -> Manifest:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": plan.metadata(PART),
        "spec": rule_groups(plan),
    }
