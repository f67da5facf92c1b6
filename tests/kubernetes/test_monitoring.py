"""A real Prometheus in the cluster scrapes the replicas, over TLS that ends in them, through the NetworkPolicies."""

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
import yaml
from testbed.kubernetes import layout
from testbed.kubernetes.cluster import Cluster
from testbed.kubernetes.images import write_image
from tests.harness.container_images import ROOT, Images
from tests.harness.pages import console_blocks
from tests.harness.promtool import prometheus
from tests.harness.running import run
from tests.kubernetes.conftest import OURS, Kubectl, follow
from tests.kubernetes.service import Service, find_place, make_deployment, store, wait

from sealserve.cluster.kubernetes.monitoring_templates import dashboard_text
from sealserve.deployment import Deployment

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

SPACE: Final = "sealserve"
MONITORING: Final = "monitoring"
STRANGERS: Final = "strangers"
METRICS_PORT: Final = 9464
IMAGE: Final = "localhost/sealserve-test/prometheus:1"
CRDS: Final = ROOT / "tests" / "unit" / "cluster" / "kubernetes" / "crds"
PAGE: Final = ROOT / "docs" / "how-to" / "kubernetes.md"


@pytest.fixture(scope="module")
def service(
    testbed: Cluster | None, images: Images, kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A monitored deployment of one replica, on a cluster with the kinds of the Prometheus operator."""
    if testbed is None:
        pytest.skip("this adds kinds to the cluster and puts an image on the testbed's own nodes")
    folder, place = tmp_path_factory.mktemp("site"), find_place(kubectl)
    kinds = [custom_kind(CRDS / f"{name}.json") for name in ("podmonitor", "prometheusrule")]
    kubectl("apply", "--server-side", "-f", "-", given=several(kinds))
    names = [kind["metadata"]["name"] for kind in kinds]
    # A new kind without any condition is an error of `kubectl wait`.
    kubectl("wait", "--for=jsonpath={.status.conditions}", "crd", *names, "--timeout=60s")
    kubectl("wait", "--for=condition=Established", "crd", *names, "--timeout=60s")
    site = make_deployment(
        folder, images, place=place, server={"metrics_port": METRICS_PORT}, tables={"monitoring": {"enabled": True}}
    )
    deployed = Service(site)
    with store(place.here, folder / "store"):
        try:
            deployed.up(deployed.build_release(), 1)
            yield deployed
        finally:
            deployed.down_without_draining(kubectl)
            kubectl("delete", "crd", *names)


@pytest.fixture(scope="module")
def watching(
    testbed: Cluster, service: Service, kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The same deployment, with a Prometheus that has the files of `sealserve render monitoring`."""
    folder = tmp_path_factory.mktemp("prometheus")
    write_image(folder / "image.tar", IMAGE, with_libraries(prometheus()), command=["/bin/prometheus"])
    testbed.load([folder / "image.tar"])
    rendered = run("render", "monitoring", "--output", folder / "rendered", "--directory", service.site.directory)
    assert rendered.status == 0, rendered.err
    texts = {path.name: path.read_text() for path in (folder / "rendered").glob("*.yaml")}
    often = {"scrape_interval": "2s", "evaluation_interval": "2s"}
    settings = yaml.safe_load(texts.pop("prometheus.yaml"))
    (job,) = settings["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod", "namespaces": {"names": [SPACE]}}]
    job["static_configs"] = discovered(kubectl)
    texts["prometheus.yml"] = yaml.safe_dump({"global": often, **settings})
    kubectl("apply", "-f", "-", given=several(prometheus_objects(texts, certificates(service))))
    try:
        kubectl("-n", MONITORING, "wait", "--for=condition=Ready", "pod/prometheus", "--timeout=60s")
        yield service
    finally:
        kubectl("delete", "namespace", MONITORING, STRANGERS, "--wait=false")


def test_the_cluster_accepts_the_operators_objects(service: Service, kubectl: Kubectl) -> None:
    assert service.site
    made = kubectl("-n", SPACE, "get", "podmonitors,prometheusrules", "-o", "name").split()
    assert [name.partition(".")[0] for name in made] == ["podmonitor", "prometheusrule"]


def test_prometheus_sees_each_replica_and_what_it_answered(watching: Service, kubectl: Kubectl) -> None:
    wait(lambda: [row["value"][1] for row in query(kubectl, 'up{job="sealserve-replicas"}')] == ["1"])
    (seen,) = query(kubectl, 'up{job="sealserve-replicas"}')
    (pod,) = [part.instance for part in watching.target.status() if part.role.startswith("replica-")]
    assert (seen["metric"]["pod"], seen["metric"]["namespace"]) == (pod, SPACE)
    counted = 'sum(:tensorflow:serving:request_count{status="OK"})'
    with watching.load() as load:
        wait(lambda: load.answered > 100)
    assert load.errors == []
    wait(lambda: [float(row["value"][1]) for row in query(kubectl, counted)] == [load.answered])


def test_rules_and_graphs_are_evaluated(watching: Service, kubectl: Kubectl) -> None:
    described = watching.site.deployment
    groups = ask(kubectl, "rules")["groups"]
    wait(lambda: all(rule["health"] == "ok" for group in ask(kubectl, "rules")["groups"] for rule in group["rules"]))
    assert sum(len(group["rules"]) for group in groups) > 4
    assert ask(kubectl, "alerts")["alerts"] == []
    expected = {
        "Requests",
        "Requests of each replica",
        "Latency (inside the enclave)",
        "Certificate of the service ends in",
    }
    wait(lambda: expected <= shown(kubectl, described))  # a rate requires two samples


def test_other_pods_do_not_reach_the_metrics(watching: Service, kubectl: Kubectl) -> None:
    assert watching.site
    field = "-o=jsonpath={.items[0].status.podIP}"
    address = kubectl("-n", SPACE, "get", "pods", "-l", "app.kubernetes.io/component=replicas", field)
    for space, reached in ((MONITORING, True), (STRANGERS, False)):
        connect = f"nc -w 3 {address} {METRICS_PORT} < /dev/null && echo connected || true"
        said = kubectl("-n", space, "exec", "visitor", "--", "sh", "-c", connect)
        assert ("connected" in said) is reached, said


def test_the_guides_commands_show_the_same_output(service: Service, kubectl: Kubectl) -> None:
    looked, made = (block for block in console_blocks(PAGE) if block.skipped == OURS)
    assert any("cluster API" in line for line in follow(looked, folder=service.site.directory))
    follow(made, folder=service.site.directory)
    secret = json.loads(kubectl("-n", SPACE, "get", "secret", "sealserve-scrape", "-o", "json"))["data"]
    assert secret == certificates(service)


def shown(kubectl: Kubectl, described: Deployment) -> set[str]:
    """Return the titles of the graphs that show data. Prometheus accepts all of their queries."""
    return {
        panel["title"]
        for panel in json.loads(dashboard_text(described))["panels"]
        for target in panel["targets"]
        if query(kubectl, target["expr"].replace("$namespace", SPACE).replace("$__rate_interval", "2m"))
    }


def discovered(kubectl: Kubectl) -> list[dict[str, Any]]:
    """Return each port of each pod as Prometheus' discovery does. Debian's build lacks the discovery for clusters.

    Source: https://prometheus.io/docs/prometheus/latest/configuration/configuration/#kubernetes_sd_config (``pod``).
    """
    meta = "__meta_kubernetes"
    return [
        {
            "targets": [f"{pod['status']['podIP']}:{port['containerPort']}"],
            "labels": {
                f"{meta}_namespace": pod["metadata"]["namespace"],
                f"{meta}_pod_name": pod["metadata"]["name"],
                f"{meta}_pod_container_port_name": port["name"],
                **{
                    f"{meta}_pod_label_{re.sub(r'[^a-zA-Z0-9_]', '_', label)}": value
                    for label, value in pod["metadata"]["labels"].items()
                },
            },
        }
        for pod in json.loads(kubectl("-n", SPACE, "get", "pods", "-o", "json"))["items"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports", ())
    ]


def query(kubectl: Kubectl, text: str) -> list[Any]:
    """Return the result of an instant query."""
    result = ask(kubectl, f"query?query={quote(text)}")["result"]
    assert isinstance(result, list)
    return result


def ask(kubectl: Kubectl, path: str) -> dict[str, Any]:
    """Return the data of an answer from Prometheus' API, which is reached through the API server."""
    answer = kubectl("get", "--raw", f"/api/v1/namespaces/{MONITORING}/pods/prometheus:9090/proxy/api/v1/{path}")
    data = json.loads(answer)["data"]
    assert isinstance(data, dict)
    return data


def several(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "List", "items": items}


def custom_kind(path: Path) -> dict[str, Any]:
    """Return the CustomResourceDefinition of a published schema."""
    crd = json.loads(path.read_text(encoding="utf-8"))
    versions = [
        {"name": name, "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object", **schema}}}
        for name, schema in crd["versions"].items()
    ]
    names = {"kind": crd["kind"], "plural": crd["plural"], "singular": crd["kind"].lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{crd['plural']}.{crd['group']}",
            "annotations": {"api-approved.kubernetes.io": crd["source"]},
        },
        "spec": {"group": crd["group"], "scope": "Namespaced", "names": names, "versions": versions},
    }


def with_libraries(program: Path) -> dict[str, Path]:
    """Return the files of an image that runs a program of this machine."""
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
    libraries = re.findall(r"(/\S+) \(0x", listed)
    return {f"bin/{program.name}": program, **{path.removeprefix("/"): Path(path) for path in libraries}}


def certificates(service: Service) -> dict[str, str]:
    """Return the certificates of the scrape Secret: the CA, and the client certificate with its key, in base64."""
    user = service.site.workspace.user
    found = {"ca.crt": user.service_ca, "tls.crt": user.certificate, "tls.key": user.key}
    return {name: base64.b64encode(path.read_bytes()).decode() for name, path in found.items()}


def prometheus_objects(texts: dict[str, str], secret: dict[str, str]) -> list[dict[str, Any]]:
    """Return a Prometheus, and client pods in its namespace and in an unrelated namespace."""

    def made(kind: str, name: str, space: str = MONITORING, **rest: Any) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": space}, **rest}

    files = [
        {"configMap": {"name": "prometheus"}},
        {"secret": {"name": "prometheus", "items": [{"key": key, "path": f"sealserve/{key}"} for key in secret]}},
    ]
    pod = {
        "automountServiceAccountToken": False,
        "containers": [{
            "name": "prometheus",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "args": ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/tmp/data"],
            "readinessProbe": {"httpGet": {"path": "/-/ready", "port": 9090}, "periodSeconds": 1},
            "volumeMounts": [{"name": "files", "mountPath": "/etc/prometheus"}],
        }],
        "volumes": [{"name": "files", "projected": {"sources": files}}],
    }  # fmt: skip
    visitor = {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "visitor", "image": layout.BUSYBOX_IMAGE, "imagePullPolicy": "Never"}],
    }
    return [
        *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in (MONITORING, STRANGERS)),
        made("ConfigMap", "prometheus", data=texts),
        made("Secret", "prometheus", data=secret),
        made("Pod", "prometheus", spec=pod),
        made("Pod", "visitor", spec=visitor),
        made("Pod", "visitor", STRANGERS, spec=visitor),
    ]
