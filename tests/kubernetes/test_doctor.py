"""`doctor host --target kubernetes` on a real cluster: its findings, and that it leaves no objects."""

import json
from pathlib import Path

import pytest
from tests.harness.container_images import Images
from tests.harness.errors import raises
from tests.harness.running import run
from tests.harness.workspaces import Site
from tests.kubernetes.conftest import Kubectl
from tests.kubernetes.service import make_deployment

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.kubernetes.target import KubernetesTarget
from sealserve.owner.preparation import prepare

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]

READER = "doctor-reader"


@pytest.fixture(scope="module")
def site(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_deployment(tmp_path_factory.mktemp("doctor"), images)


def examine(site: Site, *arguments: str) -> dict[str, dict[str, str]]:
    done = run("doctor", "host", "--target", "kubernetes", "--json", *arguments, "--directory", site.directory)
    found = {row["code"].removeprefix("host.cluster-"): row for row in done.json}
    assert done.status == (4 if "missing" in {row["verdict"] for row in found.values()} else 0), done.err
    return found


def everything(kubectl: Kubectl) -> str:
    return kubectl("get", "pods,namespaces,configmaps", "--all-namespaces", "--output", "name")


def test_a_cluster_that_is_ready(site: Site, kubectl: Kubectl) -> None:
    before = everything(kubectl)
    found = examine(site)
    assert everything(kubectl) == before
    verdicts = {code: row["verdict"] for code, row in found.items()}
    assert verdicts == {
        "api": "ok", "clocks": "ok", "rights": "ok", "device-plugin": "ok", "epc": "ok", "storage": "ok",
        "broker": "note",  # `up` starts a simulated broker later
    }  # fmt: skip
    assert "which `up` adds for 10.199.0.1" in found["broker"]["found"]
    assert "does not answer on port 4433 yet" in found["broker"]["found"]


def test_a_name_that_no_pod_can_resolve(images: Images, tmp_path: Path, kubectl: Kubectl) -> None:
    before = everything(kubectl)
    site = make_deployment(tmp_path, images, broker="nowhere.invalid", tables={"broker": {"naming": "dns"}})
    broker = examine(site)["broker"]
    assert broker["verdict"] == "missing"
    assert "a pod cannot resolve nowhere.invalid" in broker["found"]
    assert everything(kubectl) == before


def test_more_epc_than_there_is(images: Images, tmp_path: Path, kubectl: Kubectl) -> None:
    del kubectl  # the fixture selects the cluster
    site = make_deployment(
        tmp_path,
        images,
        tables={
            "resources": {"epc": "900Gi"},
            "ingress": {"kind": "gateway-api"},
            "store": {"source": "claim:nothing"},
        },
    )
    found = examine(site)
    assert found["epc"]["verdict"] == "missing"
    assert "TLSRoute" in found["kinds"]["found"]
    assert "the claim sealserve/nothing does not exist" in found["storage"]["found"]


def test_a_user_with_few_rights(
    site: Site, kubectl: Kubectl, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl("-n", namespace, "create", "serviceaccount", READER)
    token = kubectl("-n", namespace, "create", "token", READER).strip()
    config = json.loads(kubectl("config", "view", "--raw", "--output", "json"))
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    path.chmod(0o600)
    monkeypatch.setenv("KUBECONFIG", str(path))
    found = examine(site)
    assert "create deployments.apps in sealserve" in found["rights"]["found"]
    assert "patch configmaps in kube-system" in found["rights"]["found"]
    assert found["broker"]["verdict"] == "note"
    assert found["device-plugin"]["verdict"] == "missing"
    target = KubernetesTarget(site.workspace, site.deployment)
    release = site.build_release().folder
    bundle = prepare(site.workspace, release, target.destination(release.name, 1))
    with raises(ClusterCode.KUBERNETES_RIGHTS, match=r"create deployments\.apps in sealserve"):
        target.up(bundle, 1)
    assert target.status() == []  # no part was started, neither in the cluster nor on this machine


def test_a_cluster_that_is_away(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    (found,) = examine(site).values()
    assert found["verdict"] == "missing"
    assert "KUBECONFIG" in found["remedy"]
