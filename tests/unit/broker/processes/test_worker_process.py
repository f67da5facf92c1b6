"""A worker's process: how its end is explained."""

import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from sealserve.broker.codes import BrokerCode
from sealserve.broker.processes.handover import EndedCounts
from sealserve.broker.processes.worker_process import WorkerProcess

PATIENT = 30.0


@pytest.fixture
def counts() -> Iterator[EndedCounts]:
    with closing(EndedCounts.create()) as made:
        yield made


@pytest.mark.parametrize(
    ("program", "how"),
    [("import os; os.kill(os.getpid(), 9)", "with SIGKILL"), ("raise SystemExit(3)", "with the exit status 3")],
)
def test_an_unexpected_end_names_the_signal_or_the_status(counts: EndedCounts, program: str, how: str) -> None:
    worker = WorkerProcess(1, [sys.executable, "-I", "-c", program], {}, counts=counts, inherited={})
    with closing(worker):
        worker.process.wait(PATIENT)
        assert worker.events.get(timeout=PATIENT) is None
        error = worker.explain_end()
    assert error.code == BrokerCode.PROCESS_ENDED.value
    assert error.message == f"Process 1 of the broker ended unexpectedly {how}."
