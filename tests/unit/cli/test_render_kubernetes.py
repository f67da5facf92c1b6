"""``sealserve render kubernetes``: to standard output, as a kustomization, as a Helm chart."""

import shutil
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site, make_site

from sealserve.owner.keys import public_pem

STORE = "https://store.example.com/{release}.tar"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = make_site(tmp_path / "site", kubernetes={"store": {"source": STORE}})
    site.import_model()
    site.certify()
    return site


@pytest.fixture
def release(site: Site) -> Path:
    folder = site.build_release().folder
    site.build_enclave(folder, name="server", port=8500)
    return folder


def test_the_objects_are_printed(release: Path, cli: CommandLine) -> None:
    documents = list(yaml.safe_load_all(cli.ok("render", "kubernetes", "--replicas", "3")))
    assert documents[0]["kind"] == "Namespace"
    (replicas,) = (
        item for item in documents if item["metadata"]["name"] == "sealserve-replicas" and item["kind"] == "Deployment"
    )
    assert replicas["spec"]["replicas"] == 3
    assert replicas["metadata"]["annotations"] == {"sealserve/release": release.name}


@pytest.mark.parametrize("state", ["another", "removed"])
def test_pods_verify_with_the_owners_key_whatever_is_in_the_hosts_folder(
    site: Site, release: Path, cli: CommandLine, state: str
) -> None:
    assert release.is_dir()
    genuine = site.workspace.host.owner_key.read_bytes()
    if state == "removed":
        shutil.rmtree(site.workspace.host.root)
    else:
        other = Ed25519PrivateKey.generate().public_key()
        site.workspace.host.owner_key.write_bytes(public_pem(other))
    documents = yaml.safe_load_all(cli.ok("render", "kubernetes"))
    keys = [item["data"]["owner.pub"] for item in documents if "owner.pub" in item.get("data", {})]
    assert keys == [genuine.decode()]


def test_a_kustomization_has_a_file_for_each_object(release: Path, cli: CommandLine, tmp_path: Path) -> None:
    result = cli("render", "kubernetes", "--output", tmp_path / "out")
    assert result.status == 0
    assert "Next: `kubectl apply --server-side --kustomize" in result.err
    described = yaml.safe_load((tmp_path / "out" / "kustomization.yaml").read_text())
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert set(described["resources"]) == files - {"kustomization.yaml"}
    texts = [yaml.safe_load((tmp_path / "out" / name).read_text()) for name in described["resources"]]
    assert texts == list(yaml.safe_load_all(cli.ok("render", "kubernetes")))
    assert release.name in (tmp_path / "out" / "sealserve-replicas-deployment.yaml").read_text()


def test_a_folder_with_files_is_left_alone(release: Path, cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    assert release.is_dir()
    result = cli("render", "kubernetes", "--output", tmp_path)
    assert result.status == 2
    assert "error[file.exists]" in result.err
    cli.ok("render", "kubernetes", "--output", tmp_path, "--force")


def test_a_chart_has_values_for_what_differs_between_clusters(release: Path, cli: CommandLine, tmp_path: Path) -> None:
    assert cli("render", "kubernetes", "--as", "helm", "--output", tmp_path / "chart").status == 0
    described = yaml.safe_load((tmp_path / "chart" / "Chart.yaml").read_text())
    assert described["appVersion"] == release.name
    template = (tmp_path / "chart" / "templates" / "sealserve-replicas-deployment.yaml").read_text()
    assert "replicas: {{ .Values.replicas }}" in template
    assert "namespace: {{ .Release.Namespace }}" in template
    assert template.count("image: {{ .Values.serverImage }}") == 3  # and two init containers


def test_a_release_without_an_enclave_for_pods_says_how_to_build_it(site: Site, cli: CommandLine) -> None:
    folder = site.build_release().folder
    site.build_enclave(folder)
    result = cli("render", "kubernetes")
    assert result.status == 2
    assert "error[kubernetes.not-renderable]" in result.err
    assert "enclave build --name server --port 8500" in result.err


def test_an_enclave_with_another_port_is_refused(site: Site, cli: CommandLine) -> None:
    site.build_enclave(site.build_release().folder, name="server", port=8510)
    result = cli("render", "kubernetes")
    assert "listens on port 8510: pods expect 8500" in result.err


def test_files_for_prometheus_and_grafana(cli: CommandLine, tmp_path: Path, site: Site) -> None:
    result = cli("render", "monitoring", "--output", tmp_path / "out")
    assert result.status == 0
    assert "The broker's metrics are off: set broker.metrics_port" in result.err
    assert "The replicas' metrics are off: set server.metrics_port" in result.err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"broker.rules.yaml", "replicas.rules.yaml", "prometheus.yaml", "dashboard.json"}
    assert site.workspace.deployment_file.is_file()
    assert "error[file.exists]" in cli("render", "monitoring", "--output", tmp_path / "out").err
