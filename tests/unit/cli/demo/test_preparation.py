import socket
from pathlib import Path

import pytest
from tests.harness.errors import raises
from tests.harness.workspaces import make_site

from sealserve.cli.codes import CliCode
from sealserve.cli.demo import preparation
from sealserve.cli.demo.preparation import ModelChoice, Ports
from sealserve.terms import TlsMode

PORTS = Ports(service=8501, broker=4434, pcs=8082)


def choice(path: Path | None) -> ModelChoice:
    return ModelChoice(path=path, inputs=("a", "b"), outputs=("c",))


def test_a_new_folder_becomes_a_workspace(tmp_path: Path) -> None:
    workspace = preparation.reset(tmp_path / "new" / "demo")
    assert workspace.directory == tmp_path / "new" / "demo"
    assert workspace.owner.root.is_dir()


def test_an_earlier_demo_is_removed_except_for_its_cache(tmp_path: Path) -> None:
    workspace = preparation.reset(tmp_path)
    preparation.describe(workspace, choice(None), tmp_path / "graph.pb", TlsMode.TWO_WAY, PORTS)
    (workspace.owner.root / "old.key").touch()
    (workspace.root / "file").touch()
    (workspace.root / "cache").mkdir()
    (workspace.root / "cache" / "graph.pb").touch()
    assert preparation.reset(tmp_path) == workspace
    assert not (workspace.owner.root / "old.key").exists()
    assert not (workspace.root / "file").exists()
    assert (workspace.root / "cache" / "graph.pb").exists()


def test_running_parts_are_reported_before_they_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(preparation, "running", lambda _: ["broker", "nginx"])
    monkeypatch.setattr(preparation, "stop_all", lambda _: seen.append("stopped"))
    preparation.reset(tmp_path, on_running=seen.append)
    assert seen == []  # the folder contains no earlier demo
    preparation.reset(tmp_path, on_running=seen.append)
    assert seen == [["broker", "nginx"], "stopped"]
    monkeypatch.setattr(preparation, "running", lambda _: [])
    preparation.reset(tmp_path, on_running=seen.append)
    assert seen[2:] == ["stopped"]


def test_a_demo_can_start_after_an_interrupted_demo(tmp_path: Path) -> None:
    preparation.reset(tmp_path)
    preparation.reset(tmp_path)


def test_another_deployment_is_not_changed(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.certify()
    before = sorted(tmp_path.rglob("*"))
    with raises(CliCode.DEMO_WORKSPACE_IN_USE, match=r"sealserve\.toml was not written by `sealserve demo`") as caught:
        preparation.reset(tmp_path)
    assert caught.value.code == "demo.workspace-in-use"
    assert "sealserve demo --directory DIR" in (caught.value.hint or "")
    assert sorted(tmp_path.rglob("*")) == before


def test_keys_without_a_deployment_file_are_not_changed(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.workspace.deployment_file.unlink()
    with raises(CliCode.DEMO_WORKSPACE_IN_USE, match=r"workspace with keys: .* exists, but no sealserve\.toml next to"):
        preparation.reset(tmp_path)


def test_a_workspace_with_only_a_cache_can_be_used(tmp_path: Path) -> None:
    (tmp_path / ".sealserve" / "cache").mkdir(parents=True)
    (tmp_path / ".sealserve" / ".gitignore").touch()
    preparation.reset(tmp_path)


def test_the_example_is_created_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def build(path: Path, *, seed: int) -> None:
        made.append(seed)
        path.touch()

    monkeypatch.setattr(preparation, "build_frozen_graph", build)
    workspace = preparation.reset(tmp_path)
    path, fresh = preparation.example_graph(workspace, seed=7)
    assert fresh
    assert preparation.example_graph(preparation.reset(tmp_path), seed=7) == (path, False)
    assert preparation.example_graph(workspace, seed=8)[1]
    assert made == [7, 8]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (None, "resnet50-v15-fp32"),
        ("My Net.v2.pb", "My-Net.v2"),
        ("model (1)/", "model-1"),
        ("größe.pb", "gr-e"),
        ("---.pb", "model"),
        ("x" * 80 + ".pb", "x" * 63),
    ],
)
def test_the_deployment_has_the_models_name_and_the_ports(tmp_path: Path, path: str | None, name: str) -> None:
    workspace = preparation.reset(tmp_path)
    model = choice(tmp_path / path if path else None)
    described = preparation.describe(workspace, model, tmp_path / "graph.pb", TlsMode.ONE_WAY, PORTS)
    assert described.model.name == name
    assert described.model.path == tmp_path / (path or "graph.pb")
    assert (described.model.inputs, described.model.outputs) == (("a", "b"), ("c",))
    assert described.service.tls is TlsMode.ONE_WAY
    assert (described.service.port, described.broker.port) == (8501, 4434)
    assert described.broker.collateral_url == "http://127.0.0.1:8082"
    assert described.target.replicas == 2


def test_a_taken_port_is_avoided() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert preparation._free(port) != port
    assert preparation._free(port) == port
