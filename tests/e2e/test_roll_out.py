"""From one release to the next on this machine, and back, while users send requests."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from tests.harness.running import Running, command, deployment

from sealserve import deployment as deployments
from sealserve.broker import admin
from sealserve.cli.access import access
from sealserve.cli.connection import channels
from sealserve.client.load import LoadReport, Request, run_load
from sealserve.cluster.local.owner_services import registry
from sealserve.cluster.local.processes import Phase, Process, wait_until
from sealserve.cluster.local.target import LocalTarget
from sealserve.owner.owner import Owner

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow]

CONNECTIONS = 4
SECONDS = 280
SERVING = dict.fromkeys(("supervisor", "pcs", "platform", "broker"), "running")
SERVING |= dict.fromkeys(("nginx", "replica-0", "replica-1"), "serving")


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Iterator[Running]:
    """A deployment that runs. Its connections end after two seconds, and clients open new ones."""
    with deployment(capsys, server={"max_connection_age_seconds": 2}) as running:
        running.up()
        yield running


@contextlib.contextmanager
def under_load(here: Running) -> Iterator[list[LoadReport]]:
    """Send requests without a pause during the block, and yield the growing list of reports."""
    workspace = here.site.workspace
    reach = access(workspace, deployments.read(workspace.deployment_file))
    reports: list[LoadReport] = []
    enough = threading.Event()
    request = Request(model="half-plus-two", inputs={"x": np.array([1, 2, 5], np.float32)})
    with channels(reach, CONNECTIONS, timeout=60) as kept, ThreadPoolExecutor(1) as pool:

        def send() -> None:
            while not enough.is_set():
                reports.append(run_load(kept, lambda _: request, requests=50, concurrency=CONNECTIONS))

        sending = pool.submit(send)
        try:
            assert wait_until(lambda: sending.done() or bool(reports), seconds=SECONDS)
            yield reports
            before = len(reports)
            assert wait_until(lambda: sending.done() or len(reports) > before + 1, seconds=SECONDS)
        finally:
            enough.set()
        sending.result()


def failed(reports: list[LoadReport]) -> dict[str, int]:
    """Return how many requests failed, by their code."""
    return {str(code): count for report in reports for code, count in report.errors.items()}


def served(here: Running) -> str:
    """Return the name of the release that runs."""
    return LocalTarget(here.site.workspace, here.site.deployment).release()


def replicas(here: Running, phase: Phase) -> list[Process]:
    """Return the replicas of a phase that run."""
    found = registry(here.site.workspace).all().values()
    return [process for process in found if process.role.startswith("replica-") and process.phase is phase
            and process.is_alive()]  # fmt: skip


def processes(here: Running) -> dict[str, int]:
    """Return the process of each part."""
    return {role: part["pid"] for role, part in here.parts().items()}


def build(here: Running) -> str:
    """Build a further release, and return its name."""
    return Path(here.json("release", "build")["folder"]).name


def states(here: Running) -> dict[str, str]:
    """Return the state of each release at the broker."""
    return {row["name"]: row["state"] for row in here.json("broker", "releases")}


def test_to_a_new_release_and_back_without_a_failed_request(here: Running) -> None:
    first, second = served(here), build(here)
    none = here.error("up", "--rollback")
    assert (none["code"], none["message"]) == (
        "target.not-up",
        "The roll-back is not possible: no other release was served before.",
    )
    old = processes(here)
    with under_load(here) as reports:
        up = here.process("up")
        assert up.status == 0, up
        assert "starting pcs" not in up.err
        assert served(here) == second
        assert here.states() == SERVING
        assert states(here) == {first: "draining", second: "active"}
        new = processes(here)
        assert {role for role in old if old[role] != new[role]} == {"replica-0", "replica-1"}

        back = here.process("up", "--rollback")
        assert back.status == 0, back
        assert f"{first} was draining, and is active again." in back.err
        assert served(here) == first
        assert here.states() == SERVING
        assert states(here) == {first: "active", second: "draining"}
    assert failed(reports) == {}
    assert len({instance for report in reports for instance in report.instances}) == 6
    assert len(replicas(here, Phase.CURRENT)) == 2
    here.ok("down", "--yes")
    here.nothing_left.check(wait=0)


def test_a_release_that_does_not_start_leaves_what_serves(here: Running) -> None:
    first, bad = served(here), build(here)
    before = processes(here)
    # The release is registered, but the broker now refuses its key.
    for role, port in (("replica-0", 21001), ("replica-1", 21002)):
        here.ok("enclave", "build", "--name", role, "--port", str(port), "--release", bad)
    here.ok("broker", "allow", bad)
    with Owner.open(here.site.workspace).database() as database:
        past = datetime.now(UTC) - timedelta(hours=1)
        admin.drain(database, bad, deadline=past + timedelta(seconds=1), now=past)
    with under_load(here) as reports:
        refused = here.process("up", "--release", bad, "--json")
        assert refused.status == 4, refused
        error = refused.json["error"]
        assert error["code"] == "process.ended"
        assert error["message"].startswith("replica-")
        assert "error[attest.refused]" in error["message"]
    assert failed(reports) == {}
    assert processes(here) == before
    assert served(here) == first
    assert replicas(here, Phase.NEXT) == []
    here.ok("down", "--yes")
    here.nothing_left.check(wait=0)


@pytest.mark.parametrize("phase", [Phase.NEXT, Phase.LEAVING])
def test_a_roll_out_that_is_killed_is_completed_by_the_next_one(here: Running, phase: Phase) -> None:
    first, second = served(here), build(here)
    with under_load(here) as reports:
        line = command("up", "--directory", here.directory)
        with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as started:
            assert wait_until(lambda: len(replicas(here, phase)) == 2, seconds=SECONDS, interval=0.01)
            os.kill(started.pid, signal.SIGKILL)
        assert started.returncode == -signal.SIGKILL
        assert served(here) == (first if phase is Phase.NEXT else second)
        left = {process.pid for process in replicas(here, Phase.NEXT)}
        up = here.process("up")
        assert up.status == 0, up
        assert served(here) == second
        assert here.states() == SERVING
        assert states(here) == {first: "draining", second: "active"}
        # What had started already is not started again.
        assert left <= {process.pid for process in replicas(here, Phase.CURRENT)}
    assert failed(reports) == {}
    assert replicas(here, Phase.NEXT) == replicas(here, Phase.LEAVING) == []
    here.ok("down", "--yes")
    here.nothing_left.check(wait=0)


def test_an_interrupted_roll_out_is_undone(here: Running) -> None:
    before = processes(here)
    build(here)
    line = command("up", "--directory", here.directory)
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as started:
        assert wait_until(lambda: bool(replicas(here, Phase.NEXT)), seconds=SECONDS, interval=0.01)
        os.kill(started.pid, signal.SIGINT)
        _, err = started.communicate(timeout=SECONDS)
    assert started.returncode == 130, err
    assert "Parts that ran before still run" in err
    assert processes(here) == before
    assert replicas(here, Phase.NEXT) == []
