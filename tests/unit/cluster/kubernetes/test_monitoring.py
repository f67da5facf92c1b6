"""Scrape targets, and a check that each metric in a rule or a graph exists."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import yaml
from tests.unit.cluster.kubernetes.conftest import TOML, make_context
from tests.unit.cluster.kubernetes.policy_evaluator import Peer, allows

from sealserve.broker.metrics import Decisions, Fetched, Observed
from sealserve.cluster.kubernetes.monitoring import monitoring, prometheus_files
from sealserve.cluster.kubernetes.monitoring_templates import broker_rules, dashboard_text, replica_rules
from sealserve.cluster.kubernetes.policies import policies
from sealserve.cluster.kubernetes.render_context import RenderContext
from sealserve.cluster.kubernetes.replicas import PART, replicas
from sealserve.serving.metrics import Metrics
from sealserve.serving.request_errors import Status

NOW = datetime(2026, 11, 25, tzinfo=UTC)
SCRAPED = TOML.replace("[kubernetes]", "[server]\nmetrics_port = 9464\n[kubernetes]\nmonitoring.enabled = true")
# Source: the repository kubernetes/kube-state-metrics, folder docs/metrics (deployment, pod, node)
KUBE_STATE = {
    "kube_deployment_spec_replicas",
    "kube_deployment_status_replicas_available",
    "kube_deployment_status_replicas_unavailable",
    "kube_node_status_allocatable",
    "kube_pod_container_resource_requests",
    "kube_pod_container_status_restarts_total",
    "kube_pod_init_container_status_restarts_total",
}
OF_PROMETHEUS = {"up"}
# Parts of a query that are not metrics: texts, labels, durations, operators, and functions with their grouping.
BESIDE = re.compile(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)|\b(?:or|unless|offset \w+)\b|[a-z_]+(?=\s*\()')
METRIC = re.compile(r":?[a-z_][a-z_:]*")


@pytest.fixture
def scraped() -> RenderContext:
    return make_context(toml=SCRAPED)


def exposed() -> set[str]:
    """Return the metric names on the pages of a server and of a broker, with the suffixes of histograms."""
    metrics = Metrics()
    metrics.certificate_ends(NOW)
    observed = Observed(
        decisions=Decisions(),
        certificates=lambda: {"broker": NOW},
        collateral=lambda: {("sgx", "x"): Fetched(NOW, NOW)},
        ready=lambda: None,
    )
    names = set()
    for line in (metrics.page() + observed.page()).splitlines():
        if line.startswith("# TYPE"):
            _, _, name, kind = line.split()
            names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


def expressions() -> Iterator[str]:
    for groups in (replica_rules(make_context(toml=SCRAPED).deployment), broker_rules()):
        for group in groups["groups"]:
            yield from (rule["expr"] for rule in group["rules"])
    for panel in json.loads(dashboard_text(make_context(toml=SCRAPED).deployment))["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_every_metric_that_is_asked_for_is_exposed() -> None:
    asked = {name for text in expressions() for name in METRIC.findall(BESIDE.sub("", BESIDE.sub("", text)))}
    assert len(asked) > 12
    assert asked - exposed() - KUBE_STATE - OF_PROMETHEUS == set()
    assert {name for name in asked if name.startswith("sealserve_")} == {
        "sealserve_broker_certificate_expiry_timestamp_seconds",
        "sealserve_broker_collateral_fetched_timestamp_seconds",
        "sealserve_broker_collateral_next_update_timestamp_seconds",
        "sealserve_broker_connections",
        "sealserve_broker_decisions_total",
        "sealserve_broker_last_reload_successful",
        "sealserve_broker_stage_duration_seconds_bucket",
        "sealserve_server_certificate_expiry_timestamp_seconds",
        "sealserve_server_failed_renewals_total",
    }


def test_enclaves_that_renew_their_certificates_have_rules_of_their_own() -> None:
    attested = SCRAPED + "\n[broker]\ncertificate_hours = 8\n"
    (group,) = replica_rules(make_context(toml=attested).deployment)["groups"]
    rules = {rule["alert"]: rule["expr"] for rule in group["rules"]}
    assert "SealserveServiceCertificateExpires" not in rules
    assert rules["SealserveEnclaveCertificateExpires"].endswith("- time() < 7200")
    assert "sealserve_server_failed_renewals_total" in rules["SealserveRenewalsFail"]


def epc_queries(context: RenderContext) -> list[str]:
    panels = json.loads(dashboard_text(context.deployment))["panels"]
    (panel,) = [panel for panel in panels if panel["title"].startswith("EPC")]
    assert panel["fieldConfig"]["defaults"]["unit"] == "bytes"
    return [target["expr"] for target in panel["targets"]]


def test_the_dashboard_shows_the_epc_resource_of_the_deployment() -> None:
    asked = 'sum(kube_pod_container_resource_requests{namespace=~"$namespace",pod=~"sealserve-replicas-.+",'
    assert epc_queries(make_context()) == [
        f'{asked}resource="sgx_intel_com_epc"}})',
        'sum(kube_node_status_allocatable{resource="sgx_intel_com_epc"})',
    ]
    in_alibaba = make_context(
        'resources.epc_resource = "alibabacloud.com/sgx_epc_MiB"\n',
        toml=TOML.replace("[kubernetes]", '[target]\ncloud = "alibaba-g7t"\n[kubernetes]'),
    )
    assert epc_queries(in_alibaba) == [
        f'{asked}resource="alibabacloud_com_sgx_epc_MiB"}}) * 1048576',
        'sum(kube_node_status_allocatable{resource="alibabacloud_com_sgx_epc_MiB"}) * 1048576',
    ]


def test_the_files_refer_to_existing_objects_and_states(scraped: RenderContext) -> None:
    texts = list(expressions())
    named = {name for text in texts for name in re.findall(r'(?:deployment="|pod=~")([a-z-]+[a-z])', text)}
    assert named == {scraped.name(PART)}
    (states,) = {found for text in texts for found in re.findall(r'status=~"([A-Z_|]+)"', text)}
    assert set(states.split("|")) < {status.name for status in Status}
    assert not any("@" in text for text in texts)


def test_nothing_is_monitored_unless_it_is_asked_for(context: RenderContext) -> None:
    assert monitoring(context) == []
    configuration = yaml.safe_load(prometheus_files(context.deployment)["prometheus.yaml"])
    assert configuration == {"rule_files": ["replicas.rules.yaml"], "scrape_configs": []}


def test_alerts_about_the_broker_require_its_metrics() -> None:
    files = prometheus_files(
        make_context(toml=TOML.replace("[kubernetes]", "[broker]\nmetrics_port = 1\n[kubernetes]")).deployment
    )
    configuration = yaml.safe_load(files["prometheus.yaml"])
    assert configuration["rule_files"] == ["replicas.rules.yaml", "broker.rules.yaml"]
    assert [job["job_name"] for job in configuration["scrape_configs"]] == ["sealserve-broker"]
    assert 'job="sealserve-broker"' in files["broker.rules.yaml"]


def test_pods_are_scraped_where_they_have_a_port_for_it(scraped: RenderContext) -> None:
    assert [item["kind"] for item in monitoring(make_context("monitoring.enabled = true\n"))] == [
        "PrometheusRule",
        "ConfigMap",
    ]
    _, monitor, dashboard = monitoring(scraped)
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["serverName"] == "grpc.example.com"
    assert set(endpoint["tlsConfig"]) == {"serverName", "ca", "cert", "keySecret"}
    container = replicas(scraped)[1]["spec"]["template"]["spec"]["containers"][0]
    assert {"name": endpoint["port"], "containerPort": 9464} in container["ports"]
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    one_way = make_context(toml=SCRAPED.replace("[service]", '[service]\ntls = "one-way"'))
    assert set(monitoring(one_way)[1]["spec"]["podMetricsEndpoints"][0]["tlsConfig"]) == {"serverName", "ca"}


def test_prometheus_alone_reaches_the_metrics(scraped: RenderContext) -> None:
    rules = policies(scraped)
    replica = Peer(labels=scraped.labels("replicas"), namespace="sealserve", address="10.1.0.20")
    prometheus = Peer(labels={"app": "prometheus"}, namespace="monitoring", address="10.1.0.30")
    neighbour = Peer(labels={"app": "other"}, namespace="sealserve", address="10.1.0.9")
    front = Peer(labels=scraped.labels("front"), namespace="sealserve", address="10.1.0.8")
    assert allows(rules, prometheus, replica, 9464)
    assert not allows(rules, prometheus, replica, 8500)
    for other in (neighbour, front, Peer(address="198.51.100.7")):
        assert not allows(rules, other, replica, 9464)
    assert not allows(
        policies(make_context(toml=SCRAPED.replace("monitoring.enabled = true", ""))), prometheus, replica, 9464
    )
