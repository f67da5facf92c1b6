"""Deployments on this machine, from `up` to `down`, each with a tiny model and real parts."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.harness.running import Running, deployment, run

from sealserve import deployment as deployments
from sealserve.broker import admin
from sealserve.cli.access import access
from sealserve.cli.connection import channels
from sealserve.client.channel import ServiceChannel
from sealserve.client.load import LoadReport, Request, run_load
from sealserve.cluster.local.processes import wait_until
from sealserve.model import saved_model_pb2 as pb
from sealserve.owner.certificates import BROKER_CERTIFICATE, BROKER_KEY
from sealserve.owner.owner import Owner
from sealserve.pki.authority import Authority, AuthorityKind

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Iterator[Running]:
    """A deployment that does not run yet."""
    with deployment(capsys) as running:
        yield running


def serving(replicas: int) -> dict[str, str]:
    """Return the states of a deployment that runs."""
    states = dict.fromkeys(("supervisor", "pcs", "platform", "broker"), "running") | {"nginx": "serving"}
    return states | {f"replica-{index}": "serving" for index in range(replicas)}


def predicted(here: Running) -> list[float]:
    answer: dict[str, Any] = here.json("predict", "--input", "x=[1, 2, 5]")
    outputs: list[float] = answer["outputs"]["y"]
    return outputs


def test_from_up_to_down(here: Running) -> None:
    up = here.process("up", "--json")
    assert up.status == 0, up
    assert {part["role"]: part["state"] for part in up.json["parts"]} == serving(2)
    assert here.states() == serving(2)
    assert predicted(here) == [2.5, 3.0, 4.5]
    report = here.json("bench", "-n", "40", "-c", "4", "--connections", "4")
    assert report["answered"] == 40
    assert len(report["instances"]) == 2
    assert all(report["instances"].values())

    # What happened can be read up.
    logs = here.ok("logs", "replica-1", "--last", "1000")
    assert "step=measured enclave=replica-1" in logs
    assert "step=mounts" in logs
    decisions = [(row["decision"], row["code"]) for row in here.json("broker", "log")]
    prepared = ["issuing-rotated", "allowed", "allowed", "stated", "floor-raised"]
    assert decisions == [(decision, "ok") for decision in (*prepared, "released", "released")]

    # The broker issues an attestation result for an enclave. It releases no key.
    token, keys = (here.site.directory / name for name in ("result.jwt", "keys.json"))
    token.write_text(here.process("enclave", "token", "--audience", "a-user").out)
    keys.write_text(here.ok("broker", "token", "keys"))
    expected = ("--jwks", str(keys), "--issuer", "attestation.service.com", "--audience", "a-user")
    refused = run("broker", "token", "verify", token, *expected)
    assert (refused.status, "token.simulated" in refused.err) == (3, True), refused
    shown = run("broker", "token", "verify", token, *expected, "--dangerous-accept-simulated")
    assert here.json("enclave", "show", "--host")[0]["mr_enclave"] in shown.out, shown
    assert here.json("broker", "log")[-1]["decision"] == "attested"

    # Scale down and up: a third enclave has a different measurement.
    scaled = here.json("scale", "1")
    assert {part["role"]: part["state"] for part in scaled["parts"]} == serving(1)
    assert predicted(here) == [2.5, 3.0, 4.5]
    assert {part["role"]: part["state"] for part in here.json("scale", "3")["parts"]} == serving(3)
    assert len({row["mr_enclave"] for row in here.json("enclave", "show", "--host")}) == 3
    assert len(here.json("bench", "-n", "60", "--connections", "9")["instances"]) == 3

    # One that is killed takes its server with it; `up` starts it anew, and nothing else.
    before = here.parts()
    here.kill("replica-1")
    assert predicted(here) == [2.5, 3.0, 4.5]
    here.up("--replicas", "3")
    after = here.parts()
    assert here.states() == serving(3)
    assert {role for role in before if before[role]["pid"] != after[role]["pid"]} == {"replica-1", "supervisor"}
    assert len(here.json("bench", "-n", "60", "--connections", "9")["instances"]) == 3

    stopped = here.process("down", "--yes", "--json").json["stopped"]
    assert stopped[:2] == ["supervisor", "nginx"]
    assert set(stopped) == set(serving(3))
    here.nothing_left.check(wait=0)
    assert here.states() == {}
    assert here.error("predict", "--timeout", "1")["status"] == 4
    assert here.error("scale", "2")["code"] == "target.not-up"


def instances(reports: Sequence[LoadReport]) -> set[str]:
    """Return the processes that answered."""
    return {instance for report in reports for instance in report.instances}


def test_a_replica_leaves_without_a_failed_request(capsys: pytest.CaptureFixture[str]) -> None:
    """Connections are kept, as most clients do: the replica that leaves lets them end by their age first."""
    with deployment(capsys, server={"max_connection_age_seconds": 2}) as here:
        here.up()
        workspace = here.site.workspace
        reach = access(workspace, deployments.read(workspace.deployment_file))
        reports: list[LoadReport] = []
        enough = threading.Event()

        def load(channels: Sequence[ServiceChannel]) -> None:
            request = Request(model="half-plus-two", inputs={"x": np.array([1, 2, 5], np.float32)})
            while not enough.is_set():
                reports.append(run_load(channels, lambda _: request, requests=200, concurrency=24))

        with channels(reach, 6, timeout=60) as kept, ThreadPoolExecutor(1) as pool:
            running = pool.submit(load, kept)
            try:
                # Both replicas answer, then one of them leaves, then the other answers for a while.
                assert wait_until(lambda: running.done() or len(instances(reports)) == 2, seconds=60)
                here.json("scale", "1")
                before = len(reports)
                assert wait_until(lambda: running.done() or len(reports) > before + 3, seconds=60)
            finally:
                enough.set()
            running.result()
        assert [report.errors for report in reports if report.errors] == []
        assert len(instances(reports)) == 2
        assert len(instances(reports[-1:])) == 1


def test_what_ends_a_release_and_what_does_not(here: Running) -> None:
    here.up("--replicas", "1")
    first = Path(here.json("release", "list")[0]["folder"]).name
    run_by_hand = ("enclave", "run", "--name", "replica-0")

    here.ok("release", "build")  # a newer one, for later

    # Draining, it still starts; past the deadline it does not.
    here.ok("broker", "drain", first, "--minutes", "5")
    here.kill("replica-0")
    with Owner.open(here.site.workspace).vault() as vault:
        deadline = datetime.now(UTC) + timedelta(seconds=0.2)
        admin.drain(vault.database, first, deadline=deadline, now=datetime.now(UTC))
    assert wait_until(lambda: datetime.now(UTC) > deadline, seconds=60)
    ended = here.process(*run_by_hand)  # it moves into a namespace for good
    assert ended.status == 3
    assert "error[attest.refused]" in ended.err
    assert last_refusal(here) == "policy.release-draining-ended"

    # `up` does not make it active again, the owner does; revoked, it has ended for good.
    here.error("up", "--replicas", "1", "--release", first)
    assert last_refusal(here) == "policy.release-draining-ended"
    here.ok("broker", "allow", "--reactivate", first)
    here.up("--replicas", "1", "--release", first)
    assert here.states() == serving(1)
    here.ok("broker", "revoke", first, "--yes")
    assert predicted(here) == [2.5, 3.0, 4.5]
    here.kill("replica-0")
    final = here.error("up", "--release", first)
    assert (final["code"], final["status"]) == ("broker.release-final", 2)
    assert here.process(*run_by_hand).status == 3
    assert last_refusal(here) == "policy.release-revoked"

    # The newer release has its own key.
    here.up("--replicas", "1", "--yes")  # the one that served last has ended
    assert predicted(here) == [2.5, 3.0, 4.5]
    here.ok("down", "--yes")
    here.nothing_left.check(wait=0)


def last_refusal(here: Running) -> str:
    (row,) = here.json("broker", "log", "--last", "1")
    assert row["decision"] == "refused"
    code: str = row["code"]
    return code


def test_parts_that_end_are_told_and_started_again(here: Running) -> None:
    here.up("--replicas", "1")

    # Without a broker, no replica starts; a running replica continues.
    here.kill("broker")
    error = here.error("scale", "2")
    assert (error["code"], error["status"]) == ("process.ended", 4)
    assert error["message"].startswith("replica-1 ended before it was ready: error[provisioning.unreachable]: ")
    assert "replica-1.log" in error["hint"]
    assert predicted(here) == [2.5, 3.0, 4.5]

    # NGINX, the platform and the PCS are gone as well: `up` starts the missing parts.
    here.kill("nginx", "platform", "pcs")
    here.up("--replicas", "2")
    assert here.states() == serving(2)
    assert predicted(here) == [2.5, 3.0, 4.5]
    assert set(here.json("down", "--yes")["stopped"]) == set(serving(2))
    here.nothing_left.check(wait=0)


def test_a_broker_whose_certificate_has_expired_does_not_start(here: Running) -> None:
    here.ok("certs", "two-way")
    owner, past = here.site.workspace.owner, datetime.now(UTC) - timedelta(days=400)
    names, addresses = ["attestation.service.com"], [ip_address("127.0.0.1")]
    old = Authority.create(AuthorityKind.BROKER, names=names, addresses=addresses, simulated=True, now=past)
    old.issue_server(names, addresses, now=past, days=3).write(
        certificate=owner.broker_tls / BROKER_CERTIFICATE, key=owner.broker_tls / BROKER_KEY
    )
    error = here.error("up")  # running parts are not started again
    assert (error["code"], error["status"]) == ("process.ended", 4)
    assert error["message"].startswith("broker ended before it was ready: error[certificate.expired]: ")
    assert "certs renew" in here.ok("logs", "broker")
    here.ok("certs", "renew")
    here.up("--replicas", "1")
    assert predicted(here) == [2.5, 3.0, 4.5]


def test_a_model_that_tensorflow_does_not_load_is_told(here: Running) -> None:
    here.ok("model", "convert")
    saved = here.site.workspace.owner.models / "half-plus-two/1/saved_model.pb"
    model = saved.read_bytes()
    saved.write_bytes(model.replace(b"AddV2", b"AddV9"))  # no operation of TensorFlow's
    assert here.error("up", "--replicas", "1")["code"] == "model.refused-operation"
    broken = pb.SavedModel.FromString(model)
    broken.meta_graphs[0].graph_def.node.add(name="half_an_addition", op="AddV2")  # without its inputs
    saved.write_bytes(broken.SerializeToString())
    error = here("up", "--replicas", "1", "--json").error
    assert error["code"] == "process.ended"
    assert error["message"].startswith("replica-0 ended before it was ready: error[servable.load-failed]: ")
    assert "cannot be loaded: NOT_FOUND" in error["message"]
    for log in here.site.workspace.host.logs.glob("*.log"):
        assert "half_an_addition" not in log.read_text(), "the host reads it"
    assert here.states() == {}  # what a failed start left is stopped again
    here.nothing_left.check(wait=0)
