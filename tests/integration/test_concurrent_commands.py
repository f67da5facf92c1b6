"""Several commands at once on one deployment, as real processes: they take turns, and leave nothing behind."""

import signal
import subprocess
from collections.abc import Iterator

import pytest
from tests.harness.running import SECONDS, Running, command, deployment

from sealserve.cluster.deployment_lock import holder
from sealserve.cluster.local.processes import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Iterator[Running]:
    """A deployment of one replica that does not run yet."""
    with deployment(capsys, target={"replicas": 1}) as running:
        yield running


def start(here: Running, *arguments: str) -> subprocess.Popen[str]:
    line = command(*arguments, "--directory", here.directory)
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_ups_at_once_start_one_deployment(here: Running) -> None:
    both = [start(here, "up", "--json") for _ in range(2)]
    for up in both:
        out, err = up.communicate(timeout=SECONDS)
        assert up.returncode == 0, (out, err)
    assert here.states().get("replica-0") == "serving"
    assert len(list(here.site.workspace.owner.releases.iterdir())) == 1
    here.ok("down", "--yes")
    here.nothing_left.check(wait=0)


def test_down_beside_up_waits_and_then_stops_everything(here: Running) -> None:
    up = start(here, "up")
    assert wait_until(lambda: (found := holder(here.site.workspace)) is not None and found.verb == "up", seconds=60)
    down = here.process("down", "--yes")
    out, err = up.communicate(timeout=SECONDS)
    assert up.returncode == 0, (out, err)
    assert down.status == 0, down
    assert f"waiting for `sealserve up` (pid {up.pid}, since " in down.err
    assert here("status", "--json").json["parts"] == []
    here.nothing_left.check(wait=0)


def test_a_killed_up_frees_the_lock_and_down_stops_what_it_started(here: Running) -> None:
    up = start(here, "up")
    assert wait_until(lambda: up.poll() is not None or "replica-0" in here.states(), seconds=SECONDS)
    up.send_signal(signal.SIGKILL)
    up.communicate(timeout=SECONDS)
    assert up.returncode == -signal.SIGKILL
    here.ok("down", "--yes", "--no-wait")
    here.nothing_left.check(wait=0)
