import itertools
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from sealserve.serving.request_errors import Status
from sealserve.serving.wire.lanes import Job, Lane, OverloadedError


def nothing() -> None:
    pass


def never(error: OverloadedError) -> None:
    raise error


class Log:
    """Records which jobs ran, and which were refused."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.refused: list[str] = []
        self.errors: list[OverloadedError] = []

    def job(self, word: str, client: bytes = b"") -> Job:
        """Return a job that records a word."""

        def work() -> Callable[[], None]:
            self.ran.append(word)
            return nothing

        def refuse(error: OverloadedError) -> None:
            self.refused.append(word)
            self.errors.append(error)

        return Job(work=work, refuse=refuse, client=lambda: client)


def of_nobody(work: Callable[[], Callable[[], None]]) -> Job:
    """Return a job that must find a place at once."""
    return Job(work=work, refuse=never, client=lambda: b"")


def occupy(lane: Lane) -> tuple[threading.Thread, threading.Event]:
    """Run a job that ends when the event is set; return when it runs."""
    started, gate = threading.Event(), threading.Event()

    def work() -> Callable[[], None]:
        started.set()
        gate.wait()
        return nothing

    thread = threading.Thread(target=lane.run, args=(of_nobody(work),), daemon=True)
    thread.start()
    started.wait()
    return thread, gate


def test_a_job_runs_on_the_thread_that_brings_it() -> None:
    seen: list[int] = []
    lane = Lane(running=1, waiting=0)
    lane.run(of_nobody(lambda: partial(seen.append, threading.get_ident())))
    assert seen == [threading.get_ident()]
    assert lane.pending == 0


def test_a_job_that_waits_runs_after_the_one_before_on_its_thread() -> None:
    log, lane = Log(), Lane(running=1, waiting=2)
    thread, gate = occupy(lane)
    lane.run(log.job("second"))
    lane.run(log.job("third"))
    assert (log.ran, lane.pending) == ([], 3)
    gate.set()
    thread.join()
    assert (log.ran, lane.pending) == (["second", "third"], 0)


@pytest.mark.parametrize("waiting", [0, 1])
def test_a_full_queue_refuses_and_recovers(waiting: int) -> None:
    log, lane = Log(), Lane(running=1, waiting=waiting)
    thread, gate = occupy(lane)
    waited = [f"waited {number}" for number in range(waiting)]
    for word in (*waited, "never"):
        lane.run(log.job(word))
    assert log.refused == ["never"]
    assert (log.errors[0].code, log.errors[0].status) == ("request.overloaded", Status.RESOURCE_EXHAUSTED)
    assert f"has reached its limit of {1 + waiting} requests" in log.errors[0].message
    gate.set()
    thread.join()
    lane.run(log.job("later"))
    assert log.ran == [*waited, "later"]


def test_clients_take_turns() -> None:
    log, lane = Log(), Lane(running=1, waiting=100)
    thread, gate = occupy(lane)
    for number in range(50):
        lane.run(log.job(f"crowd {number}", b"crowd"))
    lane.run(log.job("ann", b"ann"))
    lane.run(log.job("bob", b"bob"))
    gate.set()
    thread.join()
    assert log.ran[:4] == ["crowd 0", "ann", "bob", "crowd 1"]
    assert log.ran[4:] == [f"crowd {number}" for number in range(2, 50)]


def test_the_client_with_the_most_waiting_requests_loses_one_when_the_queue_is_full() -> None:
    log, lane = Log(), Lane(running=1, waiting=4)
    thread, gate = occupy(lane)
    for number in range(4):
        lane.run(log.job(f"crowd {number}", b"crowd"))
    lane.run(log.job("crowd 4", b"crowd"))
    assert log.refused == ["crowd 4"]
    lane.run(log.job("ann 0", b"ann"))
    lane.run(log.job("ann 1", b"ann"))
    assert log.refused == ["crowd 4", "crowd 3", "crowd 2"]
    lane.run(log.job("ann 2", b"ann"))  # both have two: neither takes a place from the other
    lane.run(log.job("crowd 5", b"crowd"))
    assert log.refused == ["crowd 4", "crowd 3", "crowd 2", "ann 2", "crowd 5"]
    lane.run(log.job("bob", b"bob"))
    assert log.refused[-1] == "crowd 1" or log.refused[-1] == "ann 1"
    gate.set()
    thread.join()
    assert set(log.ran) == {"crowd 0", "crowd 1", "ann 0", "ann 1", "bob"} - {log.refused[-1]}
    assert lane.pending == 0


def test_no_job_is_lost_or_done_twice() -> None:
    """Jobs of several clients come from several threads; each one either ran, was refused, or was withdrawn."""
    lane = Lane(running=2, waiting=5)
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()
    names = itertools.count()

    def bring(seed: int) -> None:
        choices = random.Random(seed)  # noqa: S311  # no secret
        for _ in range(300):
            name = str(next(names))

            def note(what: str, name: str = name) -> None:
                with lock:
                    outcomes[f"{name} {what}"] += 1

            def work(note: Callable[[str], None] = note) -> Callable[[], None]:
                note("ran")
                time.sleep(0.0001)  # lets other threads bring jobs, so that jobs wait
                return nothing

            job = Job(
                work=work,
                refuse=lambda _error, note=note: note("refused"),  # type: ignore[misc]  # no types for a lambda's defaults
                client=lambda: choices.choice([b"a", b"a", b"a", b"b", b"c"]),
            )
            lane.run(job)
            if choices.random() < 0.2 and lane.withdraw(job):
                note("withdrawn")

    threads = [threading.Thread(target=bring, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lane.pending == 0
    assert Counter(outcome.split()[0] for outcome in outcomes.elements()) == {str(n): 1 for n in range(1200)}


def test_what_is_withdrawn_never_runs_and_leaves_its_place() -> None:
    log, lane = Log(), Lane(running=1, waiting=1)
    thread, gate = occupy(lane)

    job = log.job("withdrawn")
    lane.run(job)
    assert lane.withdraw(job)
    assert not lane.withdraw(job)
    lane.run(log.job("in its place"))
    gate.set()
    thread.join()
    assert (log.ran, log.refused) == (["in its place"], [])


def test_a_job_that_fails_leaves_its_place(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Callable[[], None]:
        raise ValueError("no")

    lane = Lane(running=1, waiting=0)
    with caplog.at_level(logging.ERROR, logger="sealserve"):
        lane.run(of_nobody(fail))
    assert lane.pending == 0
    assert [record.getMessage() for record in caplog.records] == ["handling a request failed"]


def test_who_has_an_answer_finds_a_place() -> None:
    log, lane = Log(), Lane(running=1, waiting=0)
    lane.run(of_nobody(lambda: partial(lane.run, log.job("asked again"))))
    assert (log.ran, log.refused, lane.pending) == (["asked again"], [], 0)
