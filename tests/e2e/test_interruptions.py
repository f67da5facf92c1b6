"""Ctrl-C at any moment leaves no process, no port, no mount and no file in shared memory."""

import signal
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM

import pytest
from tests.harness.demo import Demo
from tests.harness.leftovers import processes_of

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow]


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("·  The owner has a model", SIGINT),
        ("·  The owner creates three certificate authorities", SIGTERM),
        ("①", SIGINT),
        ("②", SIGTERM),
        ("⑫", SIGHUP),
    ],
)
def test_after_a_step(demo: Demo, moment: str, number: signal.Signals) -> None:
    with demo.start("--model", demo.model) as started:
        started.wait_for(moment)
        started.signal(number)
        ended = started.end()
    assert (ended.status, ended.err) == (130, "")
    demo.nothing_left.check(wait=0)


@pytest.mark.parametrize(
    ("role", "number"), [("pcs", SIGTERM), ("broker", SIGINT), ("replica-0", SIGTERM), ("replica-1", SIGINT)]
)
def test_as_soon_as_a_part_has_started(demo: Demo, role: str, number: signal.Signals) -> None:
    """Replicas are then anywhere between their first line and the open port."""
    with demo.start("--model", demo.model) as started:
        started.wait_until(lambda: started.has_started(role))
        started.signal(number)
        ended = started.end()
    assert (ended.status, ended.err) == (130, "")
    assert "Everything is stopped" in ended.out
    demo.nothing_left.check(wait=0)


def test_a_second_time_while_it_stops(demo: Demo) -> None:
    with demo.start("--model", demo.model) as started:
        started.wait_for("⑧")
        started.signal(SIGINT)
        started.wait_until(lambda: not started.has_started("nginx"))
        started.signal(SIGINT)
        started.signal(SIGTERM)
        assert started.end().status != 0
    demo.nothing_left.check(wait=0)


def test_on_a_terminal_during_an_attack(demo: Demo) -> None:
    """A terminal's Ctrl-C reaches the demo and the enclave that it has just started."""
    with demo.start("--attack", "--model", demo.model) as started:
        started.wait_for("1  The host tries to")
        started.signal(SIGINT, group=True)
        ended = started.end()
    assert ended.status == 130
    demo.nothing_left.check()


def test_what_a_killed_demo_left_the_next_one_clears_away(demo: Demo) -> None:
    with demo.start("--model", demo.model) as started:
        started.wait_for("⑧")
        started.signal(SIGKILL)
        assert started.end().status == -SIGKILL
    assert processes_of(demo.workspace)
    ended = demo.run("--model", demo.folder / "missing.pb", "--json", tensorflow=False)
    assert ended.json["error"]["code"] == "model.missing"
    demo.nothing_left.check(wait=0)
