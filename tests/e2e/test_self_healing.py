"""A deployment on this machine survives the killing of its parts: the supervisor starts them again."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.harness.running import Running, deployment

from sealserve import deployment as deployments
from sealserve.cli.access import access
from sealserve.cli.connection import channels
from sealserve.client.channel import ServiceChannel
from sealserve.client.load import LoadReport, Request, run_load
from sealserve.cluster.local import owner_services
from sealserve.cluster.local.processes import Process, wait_until
from sealserve.cluster.local.supervision.restarts import Restarts, Supervised, read_restarts

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow]

_SECONDS = 240
_CONCURRENCY = 4


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Iterator[Running]:
    with deployment(capsys) as running:
        running.up("--replicas", "2")
        yield running


def process_of(here: Running, role: str) -> Process:
    return owner_services.registry(here.site.workspace).all()[role]


def restarts_of(here: Running, role: str) -> Restarts | None:
    return read_restarts(here.site.workspace, process_of(here, role))


def kill(here: Running, role: str) -> Process:
    """Kill a part, and wait until the supervisor has started it again and it answers."""
    before = process_of(here, role)
    answers = here.states()[role]
    os.kill(before.pid, signal.SIGKILL)
    assert wait_until(lambda: process_of(here, role) != before, seconds=_SECONDS), role
    assert wait_until(lambda: here.states()[role] == answers, seconds=_SECONDS), role
    return process_of(here, role)


def predicted(here: Running) -> object:
    return here.json("predict", "--input", "x=[1, 2, 5]", "--timeout", "60")["outputs"]["y"]


def test_each_part_that_is_killed_serves_again(here: Running) -> None:
    for role in ("pcs", "platform", "broker", "nginx", "replica-0", "replica-1"):
        kill(here, role)
        assert predicted(here) == [2.5, 3.0, 4.5]
        told = restarts_of(here, role)
        assert told is not None
        assert (told.state, told.restarts) == (Supervised.RUNNING, 1)
        assert told.last_exit == "ended by signal 9 (SIGKILL)"
    # The replicas were attested again, by the broker that was started again.
    log = here.json("broker", "log", "--last", "100")
    assert [row["decision"] for row in log].count("released") == 4
    # Parts that were stopped by a command stay down, even if other parts are started again.
    here.json("scale", "1")
    kill(here, "broker")
    assert set(here.states()) == {"supervisor", "pcs", "platform", "broker", "replica-0", "nginx"}
    here.ok("down", "--yes")
    here.nothing_left.check(wait=0)


def test_users_of_the_other_replica_notice_nothing(here: Running) -> None:
    workspace = here.site.workspace
    reach = access(workspace, deployments.read(workspace.deployment_file))
    reports: list[LoadReport] = []
    enough = threading.Event()

    def load(kept: Sequence[ServiceChannel]) -> None:
        request = Request(model="half-plus-two", inputs={"x": np.array([1, 2, 5], np.float32)})
        while not enough.is_set():
            reports.append(run_load(kept, lambda _: request, requests=50, concurrency=_CONCURRENCY))

    with channels(reach, _CONCURRENCY, timeout=60) as kept, ThreadPoolExecutor(1) as pool:
        running = pool.submit(load, kept)
        try:
            assert wait_until(lambda: running.done() or len(reports) > 2, seconds=_SECONDS)
            kill(here, "replica-0")
            before = len(reports)
            assert wait_until(lambda: running.done() or len(reports) > before + 2, seconds=_SECONDS)
        finally:
            enough.set()
        running.result()
    # Only requests that the killed replica had may have failed.
    failed = sum(count for report in reports for count in report.errors.values())
    assert failed <= _CONCURRENCY, [report.errors for report in reports]


def test_a_supervisor_that_is_killed_is_seen_and_started_again_by_up(here: Running) -> None:
    parts = here.parts()
    os.kill(process_of(here, "supervisor").pid, signal.SIGKILL)
    assert wait_until(lambda: here.states()["supervisor"] == "ended", seconds=_SECONDS)
    assert predicted(here) == [2.5, 3.0, 4.5]
    here.up("--replicas", "2")
    after = here.parts()
    assert {role for role in parts if parts[role]["pid"] != after[role]["pid"]} == {"supervisor"}
    kill(here, "broker")
    assert (told := restarts_of(here, "broker")) is not None
    assert "an earlier supervisor started it" in told.last_exit


def test_down_finds_what_the_record_has_lost(here: Running) -> None:
    (here.site.workspace.host.run / "local.json").write_text("{")
    error = here.error("up", "--replicas", "2")
    assert (error["code"], error["status"]) == ("process.orphans", 4)
    assert "sealserve down" in error["hint"]
    stopped = here.json("down", "--yes")["stopped"]
    assert len(stopped) == 7
    assert all(words.endswith(", of an earlier run)") for words in stopped)
    here.nothing_left.check(wait=0)
