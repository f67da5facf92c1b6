"""Alert rules and the dashboard, judged by Prometheus' promtool: they parse, and fire when they should alone."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.harness.promtool import promtool
from tests.unit.cluster.kubernetes.conftest import TOML

from sealserve import deployment
from sealserve.broker.metrics import Decisions, Fetched, Observed, Outcome
from sealserve.cluster.kubernetes.monitoring import prometheus_files
from sealserve.cluster.kubernetes.monitoring_templates import broker_rules, replica_rules
from sealserve.deployment import Deployment
from sealserve.serving.metrics import Metrics
from sealserve.serving.request_errors import Status

DAY = 86400
REPLICAS = 'namespace="sealserve",deployment="sealserve-replicas"'
POD = 'namespace="sealserve",pod="sealserve-replicas-7d9-x2"'
SERVED = ":tensorflow:serving:request_count"
DECISIONS = "sealserve_broker_decisions_total"


@dataclass(frozen=True)
class Case:
    """An alert, series on which it fires at 30 minutes, series on which it does not, and the labels that it bears."""

    alert: str
    fires: dict[str, str]
    quiet: dict[str, str]
    labels: dict[str, str] = field(default_factory=dict)
    eval_time: str = "30m"


def end(name: str, days: float, **labels: str) -> dict[str, str]:
    joined = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {f"{name}{{{joined}}}": f"{round(days * DAY)}+0x60"}


SPACE = {"namespace": "sealserve"}
OF_POD = {**SPACE, "pod": "sealserve-replicas-7d9-x2"}
EXPIRY = "sealserve_broker_certificate_expiry_timestamp_seconds"
NEXT, FETCHED = (f"sealserve_broker_collateral_{what}_timestamp_seconds" for what in ("next_update", "fetched"))
TCB = {"vendor": "sgx", "document": "tcb?fmspc=00906ED50000"}
RESTARTS = f'kube_pod_container_status_restarts_total{{{POD},container="server"}}'
RENEWALS = f"sealserve_server_failed_renewals_total{{{POD}}}"
SERVER_EXPIRY = "sealserve_server_certificate_expiry_timestamp_seconds"
INIT_RESTARTS = f'kube_pod_init_container_status_restarts_total{{{POD},container="fetch"}}'

CASES = (
    Case("SealserveReplicaNotAttested",
         {f"kube_deployment_status_replicas_unavailable{{{REPLICAS}}}": "1+0x60"},
         {f"kube_deployment_status_replicas_unavailable{{{REPLICAS}}}": "1+0x10 0+0x50"},  # a slow start
         {**SPACE, "deployment": "sealserve-replicas"}),
    Case("SealserveNothingServes",
         {f"kube_deployment_status_replicas_available{{{REPLICAS}}}": "2+0x5 0+0x60"},
         {f"kube_deployment_status_replicas_available{{{REPLICAS}}}": "1+0x60"},
         {**SPACE, "deployment": "sealserve-replicas"}),
    Case("SealserveEnclaveRefused", {RESTARTS: "0+1x60"}, {RESTARTS: "0+0x20 1+0x60"},
         {**OF_POD, "container": "server"}),
    Case("SealserveReleaseDoesNotVerify", {INIT_RESTARTS: "0+1x60"}, {INIT_RESTARTS: "0+0x60"},
         {**OF_POD, "container": "fetch"}),
    Case("SealserveRequestsFail",
         {f'{SERVED}{{{POD},model_name="m",status="OK"}}': "0+90x60",
          f'{SERVED}{{{POD},model_name="m",status="INTERNAL"}}': "0+10x60"},
         {f'{SERVED}{{{POD},model_name="m",status="OK"}}': "0+98x60",
          f'{SERVED}{{{POD},model_name="m",status="UNAVAILABLE"}}': "0+2x60",
          f'{SERVED}{{{POD},model_name="m",status="INVALID_ARGUMENT"}}': "0+900x60"}),  # clients' own
    Case("SealserveReplicaNotScraped", {f"up{{{POD}}}": "0+0x60"}, {f"up{{{POD}}}": "1+0x60"}, OF_POD),
    Case("SealserveBrokerAway", {'up{job="sealserve-broker",instance="a"}': "1+0x5 0+0x60"},
         {'up{job="sealserve-broker",instance="a"}': "1+0x60"}),
    Case("SealserveBrokerRefuses",
         {f'{DECISIONS}{{outcome="refused",code="policy.mr-enclave"}}': "_x20 1+0x60"},
         {f'{DECISIONS}{{outcome="released",code=""}}': "0+1x60",
          f'{DECISIONS}{{outcome="refused",code="policy.mr-enclave"}}': "7+0x60",
          f'{DECISIONS}{{outcome="turned-away",code="tls.handshake"}}': "0+1x60"},
         {"code": "policy.mr-enclave"}),
    Case("SealserveBrokerTurnsAway", {f'{DECISIONS}{{outcome="turned-away",code="tls.handshake"}}': "0+120x60"},
         {f'{DECISIONS}{{outcome="turned-away",code="tls.handshake"}}': "0+30x60"}),
    Case("SealserveCertificateExpires", end(EXPIRY, 13, certificate="broker"), end(EXPIRY, 15, certificate="broker"),
         {"certificate": "broker"}),
    Case("SealserveBrokerReloadFails",
         {'sealserve_broker_last_reload_successful{file="certificate"}': "1+0x5 0+0x60"},
         {'sealserve_broker_last_reload_successful{file="certificate"}': "0+0x3 1+0x60"},
         {"file": "certificate"}),
    Case("SealserveCollateralExpires",
         {**end(NEXT, 2, **TCB), **end(FETCHED, 0, **TCB)},
         {**end(NEXT, 30, **TCB), **end(FETCHED, 0, **TCB)}, TCB),
    Case("SealserveCollateralFails",
         {f'{DECISIONS}{{outcome="refused",code="collateral.expired"}}': "2+0x10 3+0x60"},
         {f'{DECISIONS}{{outcome="refused",code="policy.mr-enclave"}}': "0+1x60"}, {"code": "collateral.expired"}),
)  # fmt: skip
# Enclaves create their TLS keys, and renew their certificates.
ATTESTED_CASES = (
    Case("SealserveRenewalsFail",
         {RENEWALS: "0+0x2 1+0x9 2+0x9 3+0x40"},  # with the longest pause between attempts
         {RENEWALS: "0+0x4 1+0x60"},  # the next attempt succeeded
         OF_POD),
    Case("SealserveEnclaveCertificateExpires", end(SERVER_EXPIRY, 5.5 / 24, **OF_POD),
         end(SERVER_EXPIRY, 7 / 24, **OF_POD), OF_POD),  # a quarter of 24 hours
)  # fmt: skip
# The TLS key is in the release (server.dangerous_owner_tls_key).
OWNER_KEY_CASES = (
    Case("SealserveServiceCertificateExpires", end(SERVER_EXPIRY, 13, **OF_POD), end(SERVER_EXPIRY, 15, **OF_POD),
         OF_POD),
)  # fmt: skip
BOTH_KINDS = pytest.mark.parametrize("attested", [True, False], ids=["attested", "owner-key"])


@pytest.fixture
def attested() -> bool:
    """Whether the deployment's enclaves create their TLS keys, as by default."""
    return True


@pytest.fixture
def cases(attested: bool) -> tuple[Case, ...]:  # a fixture
    return CASES + (ATTESTED_CASES if attested else OWNER_KEY_CASES)


@pytest.fixture
def described(request: pytest.FixtureRequest, attested: bool) -> Deployment:  # a fixture
    cloud = getattr(request, "param", None)
    old = "" if attested else "dangerous_owner_tls_key = true\n"
    text = f"{TOML}\n[server]\nmetrics_port = 9464\n{old}[broker]\nmetrics_port = 9465\n"
    if cloud is not None:
        text += f'[target]\ncloud = "{cloud}"\n'
        text = text.replace("[kubernetes]", '[kubernetes]\nresources.epc_resource = "alibabacloud.com/sgx_epc_MiB"')
    return deployment.parse(text)


@pytest.fixture
def files(described: Deployment, tmp_path: Path) -> Path:
    for name, text in prometheus_files(described).items():
        (tmp_path / name).write_text(text)
    return tmp_path


def rules_of(described: Deployment) -> dict[str, Any]:
    groups = [*replica_rules(described)["groups"], *broker_rules()["groups"]]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


@BOTH_KINDS
def test_every_alert_has_a_case(described: Deployment, cases: tuple[Case, ...]) -> None:
    assert {case.alert for case in cases} == set(rules_of(described))


@BOTH_KINDS
def test_rules_and_configuration_are_prometheus_own(files: Path) -> None:
    promtool("check", "rules", files / "replicas.rules.yaml", files / "broker.rules.yaml")
    configuration = yaml.safe_load((files / "prometheus.yaml").read_text())
    pods = configuration["scrape_configs"][1]
    assert pods.pop("kubernetes_sd_configs") == [{"role": "pod", "namespaces": {"names": ["sealserve"]}}]
    (files / "prometheus.yaml").write_text(yaml.safe_dump(configuration))  # Debian's is built without Kubernetes
    promtool("check", "config", "--syntax-only", files / "prometheus.yaml")


@BOTH_KINDS
def test_each_alert_fires_when_it_should_and_else_does_not(
    described: Deployment, files: Path, cases: tuple[Case, ...]
) -> None:
    rules = rules_of(described)
    tests = []
    for case in cases:
        summary = rules[case.alert]["annotations"]["summary"]
        for name, value in case.labels.items():
            summary = summary.replace(f"{{{{ $labels.{name} }}}}", value)
        expected = {
            "exp_labels": {**case.labels, "severity": rules[case.alert]["labels"]["severity"]},
            "exp_annotations": {"summary": summary},
        }
        for series, alerts in ((case.fires, [expected]), (case.quiet, [])):
            tests.append({
                "name": f"{case.alert} {'fires' if alerts else 'is quiet'}",
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [{"eval_time": case.eval_time, "alertname": case.alert, "exp_alerts": alerts}],
            })  # fmt: skip
    given = {"rule_files": ["replicas.rules.yaml", "broker.rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (files / "cases.yaml").write_text(yaml.safe_dump(given))
    assert "SUCCESS" in promtool("test", "rules", files / "cases.yaml")


@pytest.mark.parametrize("described", ["alibaba-g7t", None], indirect=True)
def test_every_query_of_the_dashboard_parses(files: Path) -> None:
    queries = [
        target["expr"]
        for panel in json.loads((files / "dashboard.json").read_text())["panels"]
        for target in panel["targets"]
    ]
    assert len(queries) > 12
    rules = [
        {
            "record": f"query:{number}",
            "expr": query.replace("$__rate_interval", "5m").replace("$namespace", "sealserve"),
        }
        for number, query in enumerate(queries)
    ]
    (files / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", files / "queries.yaml")


def test_the_pages_are_prometheus_own() -> None:
    metrics = Metrics()
    metrics.serve(["m"])
    metrics.request("m", Status.OK)
    metrics.certificate_ends(datetime(2027, 1, 1, tzinfo=UTC))
    metrics.failed_renewals(2)
    now = datetime(2026, 11, 25, tzinfo=UTC)
    decisions = Decisions()
    decisions.count(Outcome.REFUSED, 'a"b\\c\n')
    observed = Observed(
        decisions=decisions,
        certificates=lambda: {"broker": now},
        collateral=lambda: {("sgx", "tcb?fmspc=00906ED50000"): Fetched(now, now + timedelta(days=30))},
        ready=lambda: None,
    )
    assert promtool("check", "metrics", given=observed.page()) == ""
    names = {line.split()[2] for line in metrics.page().splitlines() if line.startswith("# TYPE")}
    assert {SERVER_EXPIRY, "sealserve_server_failed_renewals_total"} <= names
