"""`sealserve demo` in a separate process, with a small model instead of the example."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.demo import Demo
from tests.harness.running import run
from tests.harness.tiny_model import frozen_graph, saved_model
from tests.harness.workspaces import make_site

from sealserve.cli.demo.screen import NUMBERS

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow]


def test_the_twelve_steps_as_json(demo: Demo) -> None:
    ended = demo.run("--model", demo.model, "--json")
    assert (ended.status, ended.err) == (0, "")
    demo.nothing_left.check(wait=0)
    shown = ended.json
    steps = shown["steps"]
    assert [step["number"] for step in steps if step["number"]] == list(range(1, 13))
    assert shown["workspace"] == str(demo.workspace / ".sealserve")
    assert all(step["seconds"] >= 0 for step in steps)
    evidence = {step["number"]: step["evidence"] for step in steps}
    assert "two-way TLS" in steps[[step["number"] for step in steps].index(9)]["title"]
    assert all(step["explanation"] for step in steps)
    assert evidence[12][0].startswith("answers: 50 of 50 equal TensorFlow's own")
    by_replica = re.fullmatch(r"per replica: (\d+), (\d+)", evidence[12][1])
    assert by_replica is not None
    assert sum(map(int, by_replica.groups())) == 50
    proof, stopped = steps[-2], steps[-1]
    assert proof["title"] == "The proof: the host saw ciphertext only"
    assert any(line.strip().endswith("tls/ssl.cfg") for line in proof["evidence"])
    assert stopped["evidence"] == ["stopped: nginx, replica-0, replica-1, broker, platform, pcs"]

    # The workspace stays and can be inspected.
    log = run("broker", "log", "--verify", "--json", "--directory", demo.workspace)
    decisions = [row["decision"] for row in json.loads(log.out)]
    assert decisions == ["allowed", "allowed", "floor-raised", "released", "released"]
    assert run("release", "verify", "--host", "--directory", demo.workspace).status == 0


def test_the_twelve_steps_as_text_with_a_service_that_keeps_running(demo: Demo) -> None:
    graph = frozen_graph(demo.folder / "My Graph.pb")
    nodes = ("--inputs", "x", "--outputs", "y")
    ended = demo.run("--model", graph, *nodes, "--tls", "one-way", "--keep")
    assert (ended.status, ended.err) == (0, "")
    places = [ended.out.find(f"\n{number}  ") for number in NUMBERS]
    assert -1 not in places
    assert places == sorted(places)
    assert "SIMULATED" in ended.out
    assert "A user connects with one-way TLS that ends inside the enclave" in ended.out
    assert "client certificate" not in ended.out
    assert "Everything is stopped" not in ended.out
    assert "The service is still running. Next:\n  sealserve predict -C " in ended.out

    here = ("--directory", demo.workspace, "--json")
    status = run("status", *here)
    assert (status.status, status.json["problems"]) == (0, []), status.out
    states = {part["role"]: part["state"] for part in status.json["parts"]}
    assert states["nginx"] == states["replica-0"] == states["replica-1"] == "serving"
    answer = run("predict", "--input", "x=[1, 2]", *here).json
    assert (answer["model"], answer["outputs"]["y"]) == ("My-Graph", [2.5, 3.0])

    stopped = run("down", "--yes", "--directory", demo.workspace)
    assert stopped.out == "Stopped supervisor, nginx, replica-0, replica-1, broker, platform, pcs.\n"
    demo.nothing_left.check(wait=0)


def test_seven_attacks_are_refused(demo: Demo) -> None:
    ended = demo.run("--attack", "--model", demo.model, tensorflow=False)
    assert (ended.status, ended.err) == (0, "")
    titles = re.findall(r"^(\d)  The host tries to .*: refused  [\d.]+ s$", ended.out, re.MULTILINE)
    assert titles == list("1234567")
    assert re.findall(r"^     error       (\S+):", ended.out, re.MULTILINE) == [
        "sealed-file.wrong-key",  # the tiny model is a single node
        "sealed-file.path-mismatch",
        "servable.file-missing",
        "policy.mr-enclave-unknown",
        "quote.debug",
        "policy.tcb-status",
        "collateral.signer-not-tcb-signing",
    ]
    assert ended.out.count("     refused by  the broker\n") == 4
    assert ended.out.count("     refused by  the enclave\n") == 3
    assert "All 7 attacks were refused.\n" in ended.out
    demo.nothing_left.check(wait=0)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], demo: Demo) -> Callable[..., dict[str, Any]]:
    """Run a demo that fails before it starts anything, and return its error."""
    cli = CommandLine(capsys, demo.workspace)

    def run_demo(*arguments: str | Path) -> dict[str, Any]:
        error = cli.error("demo", *arguments)
        assert error["status"] == 2
        demo.nothing_left.check(wait=0)
        return error

    return run_demo


def test_a_model_whose_answers_do_not_depend_on_its_input_is_refused(
    demo: Demo, refused: Callable[..., dict[str, Any]]
) -> None:
    error = refused("--model", saved_model(demo.folder / "constant", constant=True))
    assert error["code"] == "demo.not-comparable"


def test_a_model_that_does_not_exist(demo: Demo, refused: Callable[..., dict[str, Any]]) -> None:
    error = refused("--model", demo.folder / "missing.pb")
    assert error["code"] == "model.missing"
    assert error["message"] == (
        "The model missing does not exist: expected a frozen graph or SavedModel folder at "
        f"{demo.folder / 'missing.pb'}."
    )


@pytest.mark.parametrize(
    ("nodes", "named"),
    [(["--inputs", "image", "--outputs", "y"], "'image'"), (["--inputs", "x", "--outputs", "y,predict"], "'predict'")],
)
def test_nodes_that_the_graph_does_not_have(
    demo: Demo, refused: Callable[..., dict[str, Any]], nodes: list[str], named: str
) -> None:
    error = refused("--model", frozen_graph(demo.folder / "graph.pb"), *nodes)
    assert error["code"] == "model.unknown-node"
    assert named in error["message"]
    assert list((demo.workspace / ".sealserve/owner/models").iterdir()) == []


def test_the_workspace_of_another_deployment_is_not_changed(demo: Demo, refused: Callable[..., dict[str, Any]]) -> None:
    make_site(demo.workspace, source=demo.model).certify()
    before = sorted(demo.workspace.rglob("*"))
    assert refused("--model", demo.model)["code"] == "demo.workspace-in-use"
    assert sorted(demo.workspace.rglob("*")) == before
