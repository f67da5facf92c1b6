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
    # The user verified the six steps before she sent an input, and verified a receipt.
    titles = [step["title"] for step in steps]
    verified = steps[titles.index("A user verifies the service before she sends an input")]
    assert [line[:2] for line in verified["evidence"][:6]] == ["1 ", "2 ", "3 ", "4 ", "5 ", "6 "]
    assert verified["evidence"][6].startswith("replicas: 2 verified")
    assert steps.index(verified) < [step["number"] for step in steps].index(9)
    receipt = steps[titles.index("The user asks for a receipt, and verifies it")]
    assert receipt["evidence"][1] == "model: half-plus-two version 1"
    proof, stopped = steps[-2], steps[-1]
    assert proof["title"] == "The proof: the host saw ciphertext only"
    assert any(line.strip().endswith("tls/clients.cfg") for line in proof["evidence"])
    assert any(re.match(r"TLS keys: none of the \d+ private keys", line) for line in proof["evidence"])
    assert stopped["evidence"] == ["stopped: nginx, replica-0, replica-1, broker, platform, pcs"]

    # The workspace stays and can be inspected.
    log = run("broker", "log", "--verify", "--json", "--directory", demo.workspace)
    decisions = [row["decision"] for row in json.loads(log.out)]
    assert decisions == [
        "issuing-rotated", "allowed", "allowed", "stated", "floor-raised", "released", "released"
    ]  # fmt: skip
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
    assert "signed by the users authority" not in ended.out
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


def test_attacks_of_the_host_and_the_owner_fail(demo: Demo) -> None:
    ended = demo.run("--attack", "--model", demo.model, tensorflow=False)
    assert (ended.status, ended.err) == (0, "")
    titles = re.findall(r"^(\d+)  The (\w+) tries to .*: (.*)  [\d.]+ s$", ended.out, re.MULTILINE)
    assert [int(number) for number, _, _ in titles] == list(range(1, 22))
    assert [attacker for _, attacker, _ in titles] == ["host"] * 17 + ["thief"] + ["owner"] * 3
    assert [verdict for _, _, verdict in titles] == [
        *["refused"] * 19, "she finds no key", "she reads the input"
    ]  # fmt: skip
    assert re.findall(r"^     error       (\S+):", ended.out, re.MULTILINE) == [
        # The host changes the release or the platform.
        "sealed-file.wrong-key",  # the tiny model is a single node
        "sealed-file.path-mismatch",
        "servable.file-missing",
        "policy.mr-enclave-unknown",
        "quote.debug",
        "policy.tcb-status",
        "collateral.signer-not-tcb-signing",
        # The host ends the user's connection itself.
        "evidence.tls-key",  # relayed evidence
        "evidence.tls-key",  # a stolen identity key
        "evidence.nonce-signature",
        "evidence.result-binding",
        "evidence.enclave-unknown",
        "quote.debug",
        "policy.tcb-status",
        "evidence.release-not-pinned",
        "evidence.no-result",
        # The host, and then a thief, in a session with the broker.
        "attest.binding",
        "attest.binding",
        # The owner's second certificate.
        "evidence.tls-key",
    ]
    assert ended.out.count("     refused by  the broker\n") == 6
    assert ended.out.count("     refused by  the enclave\n") == 3
    assert ended.out.count("     refused by  the user, in step ") == 10
    assert "refuses the start: policy.release-revoked" in ended.out
    # The comparison: the same search fits in the old way only.
    assert "     fitting     no private key belongs to the certificate of the connection\n" in ended.out
    assert re.search(r"fitting +1 private key belongs to .*: the sealed file\s+tls/ssl\.cfg", ended.out)
    assert re.findall(r"input read +(\d+) of (\d+) bytes", ended.out) == [("0", "55"), ("55", "55")]
    assert "with a policy  client.evidence-missing: " in ended.out
    assert "All 20 attacks on the attested service failed.\n" in ended.out
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
