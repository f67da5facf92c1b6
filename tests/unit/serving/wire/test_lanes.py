import logging
import threading
from collections.abc import Callable
from functools import partial

import pytest

from sealserve.serving.request_errors import Status
from sealserve.serving.wire.lanes import Job, Lane, OverloadedError


def nothing() -> None:
    pass


def noting(seen: list[str], word: str) -> Job:
    """Return a job that records a word."""

    def job() -> Callable[[], None]:
        seen.append(word)
        return nothing

    return job


def occupy(lane: Lane) -> tuple[threading.Thread, threading.Event]:
    """Run a job that ends when the event is set; return when it runs."""
    started, gate = threading.Event(), threading.Event()

    def job() -> Callable[[], None]:
        started.set()
        gate.wait()
        return nothing

    thread = threading.Thread(target=lane.run, args=(job,))
    thread.start()
    started.wait()
    return thread, gate


def test_a_job_runs_on_the_thread_that_brings_it() -> None:
    seen: list[int] = []
    lane = Lane(running=1, waiting=0)
    lane.run(lambda: partial(seen.append, threading.get_ident()))
    assert seen == [threading.get_ident()]
    assert lane.pending == 0


def test_a_job_that_waits_runs_after_the_one_before_on_its_thread() -> None:
    seen: list[str] = []
    lane = Lane(running=1, waiting=2)
    thread, gate = occupy(lane)
    lane.run(noting(seen, "second"))
    lane.run(noting(seen, "third"))
    assert (seen, lane.pending) == ([], 3)
    gate.set()
    thread.join()
    assert (seen, lane.pending) == (["second", "third"], 0)


def test_a_full_queue_refuses_and_recovers() -> None:
    seen: list[str] = []
    lane = Lane(running=1, waiting=1)
    thread, gate = occupy(lane)
    lane.run(noting(seen, "waited"))
    with pytest.raises(OverloadedError, match="has reached its limit of 2 requests") as caught:
        lane.run(noting(seen, "never"))
    assert (caught.value.code, caught.value.status) == ("request.overloaded", Status.RESOURCE_EXHAUSTED)
    gate.set()
    thread.join()
    lane.run(noting(seen, "later"))
    assert seen == ["waited", "later"]


def test_what_is_withdrawn_never_runs_and_leaves_its_place() -> None:
    seen: list[str] = []
    lane = Lane(running=1, waiting=1)
    thread, gate = occupy(lane)

    job = noting(seen, "withdrawn")
    lane.run(job)
    assert lane.withdraw(job)
    assert not lane.withdraw(job)
    lane.run(noting(seen, "in its place"))
    gate.set()
    thread.join()
    assert seen == ["in its place"]


def test_a_job_that_fails_leaves_its_place(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Callable[[], None]:
        raise ValueError("no")

    lane = Lane(running=1, waiting=0)
    with caplog.at_level(logging.ERROR, logger="sealserve"):
        lane.run(fail)
    assert lane.pending == 0
    assert [record.getMessage() for record in caplog.records] == ["handling a request failed"]


def test_who_has_an_answer_finds_a_place() -> None:
    seen: list[str] = []
    lane = Lane(running=1, waiting=0)
    lane.run(lambda: partial(lane.run, noting(seen, "asked again")))
    assert (seen, lane.pending) == (["asked again"], 0)
