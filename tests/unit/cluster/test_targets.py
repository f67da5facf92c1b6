"""The target that a workspace's deployment runs on."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from tests.harness.errors import raises
from tests.harness.workspaces import Site, make_site

from sealserve.cluster import targets
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.local import target as local
from sealserve.cluster.local.processes import Process, Registry
from sealserve.cluster.local.supervision.state_files import RECORD
from sealserve.process_signal import start_time


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path / "site")


@pytest.fixture
def moon(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a second target, called "moon". The list contains its running parts."""
    runs: list[str] = []
    module = ModuleType("moon")

    def stop_all(*_: object, **__: object) -> Sequence[str]:
        stopped = list(runs)
        runs.clear()
        return stopped

    module.running = lambda _workspace: runs  # type: ignore[attr-defined]
    module.stop_all = stop_all  # type: ignore[attr-defined]
    module.open_target = lambda *_, **__: "a target on the moon"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "moon", module)
    monkeypatch.setitem(targets.MODULES, "moon", "moon")
    return runs


def test_the_target_in_use_is_found_again(site: Site, moon: list[str]) -> None:
    assert targets.in_use(site.workspace) is None
    assert isinstance(targets.open_target(site.workspace, site.deployment), local.LocalTarget)
    targets.claim(site.workspace, "moon")
    moon.append("crater")
    assert targets.in_use(site.workspace) == "moon"
    found: object = targets.open_target(site.workspace, site.deployment)
    assert found == "a target on the moon"
    assert targets.running(site.workspace) == ["crater"]
    assert targets.stop_all(site.workspace) == ["crater"]
    assert targets.in_use(site.workspace) is None


def test_a_deployment_runs_on_one_target(site: Site, moon: list[str]) -> None:
    targets.claim(site.workspace, "moon")
    moon.append("crater")
    with raises(ClusterCode.TARGET_BUSY, match="already runs on the target 'moon'") as caught:
        targets.claim(site.workspace, "local")
    assert "sealserve down" in str(caught.value.hint)
    moon.clear()  # a target without running parts does not prevent the change
    targets.claim(site.workspace, "local")
    assert targets.in_use(site.workspace) == "local"


def test_local_parts_are_listed(site: Site) -> None:
    own = start_time(os.getpid()) or 0
    registry = Registry(site.workspace.host.run / RECORD)
    registry.add(Process(role="replica-0", pid=os.getpid(), started=own, port=None, log=os.devnull))
    assert targets.running(site.workspace) == ["replica-0"]


def test_an_invalid_record_counts_as_missing(site: Site) -> None:
    for content in (b"\xff\xfe", b"mars", b""):
        (site.workspace.host.run / "target").write_bytes(content)
        assert targets.in_use(site.workspace) is None
