"""The states that raise an alarm, as rules of Prometheus; each metric is one that somebody exposes, and tests check it.

Source: https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/,
https://github.com/kubernetes/kube-state-metrics/tree/main/docs/metrics/workload (``kube_*``),
`sealserve.broker.metrics` and `sealserve.serving.metrics` (ours).
"""

from typing import Final

from sealserve.cluster.kubernetes import replicas
from sealserve.cluster.kubernetes.plan import APPLICATION, Manifest
from sealserve.deployment import Deployment

REPLICAS: Final = f"{APPLICATION}-{replicas.PART}"
OWN_FAULTS: Final = "UNKNOWN|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED|INTERNAL|UNAVAILABLE|DATA_LOSS"
"""How a request ends that the server, not its client, did wrong (google/rpc/code.proto)."""

_ERROR_SHARE: Final = 0.05
_DAY: Final = 86400
_CERTIFICATE_DAYS: Final = 14
_COLLATERAL_DAYS: Final = 3  # Intel's next update comes after 30 days, a PCCS fetches it once a day


def replica_rules(deployment: Deployment) -> Manifest:
    """Return the rules about replicas, as a rule file of Prometheus has them."""
    space = deployment.kubernetes.namespace
    which = f'namespace="{space}",deployment="{REPLICAS}"'
    pods = f'namespace="{space}",pod=~"{REPLICAS}-.+"'
    minutes = deployment.kubernetes.start_seconds // 60 + 1
    rules = [
        _rule(
            "SealserveReplicaNotAttested",
            f"kube_deployment_status_replicas_unavailable{{{which}}} > 0", f"{minutes}m",
            "A replica is not attested, or does not serve: `sealserve status` shows why.", "warning",
        ),
        _rule(
            "SealserveNothingServes", f"kube_deployment_status_replicas_available{{{which}}} == 0", "1m",
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
    if deployment.server.metrics_port is not None:
        rules += _served_rules(pods)
    return {"groups": [{"name": "sealserve-replicas", "rules": rules}]}


def broker_rules() -> Manifest:
    """Return the rules about the broker, for the Prometheus that scrapes it."""
    decisions = "sealserve_broker_decisions_total"
    rules = [
        _rule(
            "SealserveBrokerAway", 'absent(up{job="sealserve-broker"} == 1)', "5m",
            "The broker is away: what serves goes on, and no replica can start.", "critical",
        ),
        _rule(
            "SealserveBrokerRefuses", _grew(f'{decisions}{{outcome="refused"}}', "15m"), "0m",
            "The broker refused an enclave ({{ $labels.code }}): `sealserve broker log` shows which, and why.",
            "warning",
        ),
        _rule(
            "SealserveBrokerTurnsAway", f'sum(rate({decisions}{{outcome="turned-away"}}[15m])) > 1', "15m",
            "Strangers connect to the broker again and again, with nothing to show.", "warning",
        ),
        _rule(
            "SealserveCertificateExpires",
            f"sealserve_broker_certificate_expiry_timestamp_seconds - time() < {_CERTIFICATE_DAYS * _DAY}", "0m",
            f"The certificate of {{{{ $labels.certificate }}}} ends within {_CERTIFICATE_DAYS} days: "
            "`sealserve certs renew`, and start the broker again.", "warning",
        ),
        _rule(
            # What is left when it is fetched: later it is fetched anew, at the latest after an hour, when it is needed.
            "SealserveCollateralExpires",
            "sealserve_broker_collateral_next_update_timestamp_seconds"
            f" - sealserve_broker_collateral_fetched_timestamp_seconds < {_COLLATERAL_DAYS * _DAY}", "0m",
            f"Collateral ({{{{ $labels.document }}}}) was due for an update within {_COLLATERAL_DAYS} days when it was "
            "fetched: is the PCCS being refreshed?", "warning",
        ),
        _rule(
            "SealserveCollateralFails",
            _grew(f'{decisions}{{code=~"(collateral|pcs)[.].+"}}', "1h"), "0m",
            "Enclaves are refused since collateral cannot be had or does not verify ({{ $labels.code }}).", "critical",
        ),
    ]  # fmt: skip
    return {"groups": [{"name": "sealserve-broker", "rules": rules}]}


def _served_rules(pods: str) -> list[Manifest]:
    requests = ":tensorflow:serving:request_count"
    share = (
        f'sum(rate({requests}{{{pods},status=~"{OWN_FAULTS}"}}[5m])) / sum(rate({requests}{{{pods}}}[5m]))'
        f" > {_ERROR_SHARE}"
    )
    return [
        _rule(
            "SealserveRequestsFail", share, "5m",
            f"More than {_ERROR_SHARE:.0%} of the requests fail by the server's fault: `sealserve logs`.", "critical",
        ),
        _rule(
            "SealserveReplicaNotScraped", f"up{{{pods}}} == 0", "5m",
            "A replica's metrics cannot be read: does the scrape secret still fit its certificate?", "warning",
        ),
        _rule(
            "SealserveServiceCertificateExpires",
            f"sealserve_server_certificate_expiry_timestamp_seconds{{{pods}}} - time() < {_CERTIFICATE_DAYS * _DAY}",
            "0m",
            f"The service's certificate ends within {_CERTIFICATE_DAYS} days: each release has its own, so build and "
            "roll out a new one.", "warning",
        ),
    ]  # fmt: skip


def _grew(series: str, window: str) -> str:
    """Return what asks whether a counter grew, by code; one that was not there before grew from nothing."""
    return f"sum by (code) (increase({series}[{window}]) > 0 or ({series} > 0 unless {series} offset {window}))"


def _rule(name: str, expression: str, duration: str, summary: str, severity: str) -> Manifest:
    return {
        "alert": name,
        "expr": expression,
        "for": duration,
        "labels": {"severity": severity},
        "annotations": {"summary": summary},
    }
