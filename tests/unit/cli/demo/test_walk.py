import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.harness.errors import raises
from tests.harness.tiny_model import saved_model
from tests.harness.workspaces import Site

from sealserve.cli.codes import CliCode
from sealserve.cli.console import quietly
from sealserve.cli.demo import walk as module
from sealserve.cli.demo.comparison import Reference
from sealserve.cli.demo.screen import Screen
from sealserve.cli.demo.walk import Walk
from sealserve.client.load import LoadReport
from sealserve.errors import UnavailableError
from sealserve.model.saved_model import check_servable
from sealserve.owner.models import planned_folder

REFERENCE = Reference(
    signature="serving_default", inputs=[{"x": np.zeros(1)}] * 50, answers=[{"y": np.zeros(1)}] * 50,
    smallest_difference=1.0, rate=100.0, threads=2,
)  # fmt: skip

POLICY: Any = None  # the channels of these tests verify nothing


def report(instances: dict[str, int], error: UnavailableError | None = None) -> LoadReport:
    return LoadReport(requests=50, answered=50, errors={}, first_error=error, seconds=1.0, latency=None,
                      channels=[13, 13, 12, 12], instances=instances)  # fmt: skip


@pytest.fixture
def walk(site: Site, monkeypatch: pytest.MonkeyPatch) -> Walk:
    """A demo for the test of `use`: its target lists two replicas, but runs none."""

    class Fake(Walk):
        target: Any = SimpleNamespace(replicas=lambda: ["replica-0", "replica-1"])

    @contextlib.contextmanager
    def channels(*_: object, **__: object) -> Iterator[list[object]]:
        yield []

    made = Fake(site.workspace, Screen(as_json=False), tell=quietly)
    made._deployment = site.deployment
    site.certify()
    monkeypatch.setattr("sealserve.cli.connection.channels", channels)
    monkeypatch.setattr(module, "tell_front", lambda *_args, **_options: None)
    return made


def answered(monkeypatch: pytest.MonkeyPatch, found: LoadReport) -> None:
    def run_load(
        _channels: object, make_request: Any, *, requests: int, on_answer: Any = None, **_: object
    ) -> LoadReport:
        for number in range(requests):
            assert make_request(number).model == "half-plus-two"
            if on_answer is not None:  # the demo does not compare the answers to the warm-up calls
                on_answer(number, SimpleNamespace(outputs={"y": np.zeros(1)}))
        return found

    monkeypatch.setattr(module, "run_load", run_load)


def test_all_replicas_answered(walk: Walk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answered(monkeypatch, report({"a": 30, "b": 20}))
    walk.use(REFERENCE, POLICY)
    out = capsys.readouterr().out
    assert "⑨" in out
    assert "50 of 50 equal TensorFlow's own (largest difference 0, allowed 0.01)" in out
    assert "per replica       30, 20" in out


def test_a_silent_replica_is_told(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, report({"a": 50}))
    silent = "1 of 2 replicas did not answer any of the 50 requests"
    with raises(CliCode.DEMO_REPLICA_SILENT, match=silent) as caught:
        walk.use(REFERENCE, POLICY)
    assert caught.value.code == "demo.replica-silent"


def test_a_request_that_failed_ends_the_demo(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, report({"a": 49}, UnavailableError("down")))
    with pytest.raises(UnavailableError, match="down"):
        walk.use(REFERENCE, POLICY)


def test_nothing_is_stopped_before_anything_was_prepared(site: Site) -> None:
    walk = Walk(site.workspace, Screen(as_json=False), tell=quietly)
    walk.stop()
    with pytest.raises(RuntimeError, match="nothing is prepared yet"):
        _ = walk.deployment


@pytest.mark.parametrize("is_example", [True, False])
def test_only_the_example_is_kept_for_the_next_run(
    is_example: bool, walk: Walk, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "graph.pb").write_bytes(b"graph")
    folder = planned_folder(site.workspace, site.deployment.model)
    converted = []

    def bring_in(*_: object) -> Any:
        converted.append(saved_model(folder))
        return SimpleNamespace(folder=folder, info=check_servable(folder))

    monkeypatch.setattr("sealserve.owner.models.bring_in", bring_in)
    found = []
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)
        found.append(walk._convert(tmp_path / "graph.pb", is_example=is_example))
    assert found[0][:2] == found[1][:2]
    assert [reused for _, _, reused in found] == [False, is_example]
    assert len(converted) == (1 if is_example else 2)
    assert (tmp_path / "cache").exists() == is_example
