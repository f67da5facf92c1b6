from datetime import datetime
from pathlib import Path

import pytest

from sealserve.cluster.logs.launch_log import Restarts, is_refused, read_restarts, read_steps

FIRST = """2026-11-23 19:00:00,001 WARNING simulated enclave replica-0
2026-11-23 19:00:00,100 INFO step=measured enclave=replica-0 debug=False
2026-11-23 19:00:00,350 INFO step=key key_name=release bytes=16
error[something.else]: x=1
"""
SECOND = """2026-11-23 20:00:00,100 INFO step=measured enclave=replica-0 debug=True
2026-11-23 20:00:02,100 INFO step=ended
2026-11-23 20:00:02,200 INFO not a step=broker connected=x
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "replica-0.log"
    path.write_text(FIRST)
    return path


def test_a_final_refusal_of_an_enclave_that_attests_itself_is_permanent() -> None:
    assert is_refused("error[attest.refused]: The broker rejects this enclave.")
    assert not is_refused("error[attest.unavailable]: The broker was not able to decide about this enclave.")
    assert not is_refused("error[attester.quote]: The attestation device returned no usable quote.")


def test_steps_have_time_and_evidence(log: Path) -> None:
    measured, key = read_steps(log)
    assert (measured.name, dict(measured.evidence)) == ("measured", {"enclave": "replica-0", "debug": "False"})
    assert (key.name, dict(key.evidence)) == ("key", {"key_name": "release", "bytes": "16"})
    assert (key.time - measured.time).total_seconds() == 0.25


def test_only_the_last_start_counts(log: Path) -> None:
    log.write_text(FIRST + SECOND)
    steps = read_steps(log)
    assert [step.name for step in steps] == ["measured", "ended"]
    assert steps[0].evidence["debug"] == "True"
    assert steps[1].evidence == {}


def test_no_log_has_no_steps(tmp_path: Path) -> None:
    assert read_steps(tmp_path / "none") == []
    (tmp_path / "binary").write_bytes(b"\xff\xfe step=measured")
    assert read_steps(tmp_path / "binary") == []


def test_restarts_are_those_of_the_supervisor_that_runs(log: Path) -> None:
    assert read_restarts(log, 1) == Restarts()
    assert read_restarts(log.with_name("none"), 1) == Restarts()
    again = "2026-11-23 20:00:0{0},100 WARNING step=again after=1s failed={0} signal=SIGABRT\n"
    former = "2026-11-23 19:59:00,000 INFO step=supervisor pid=11 attempts=10\n" + again.format(9)
    begun = "2026-11-23 20:00:00,000 INFO step=supervisor pid=12 attempts=10\n"
    log.write_text(FIRST + again.format(8) + former + begun)
    assert read_restarts(log, 12) == Restarts()
    log.write_text(FIRST + former + begun + again.format(1))
    found = read_restarts(log, 12)
    assert (found.count, found.signal) == (1, "SIGABRT")
    assert found.time == datetime(2026, 11, 23, 20, 0, 1, 100_000).astimezone()  # local, as in the log
    log.write_text(FIRST + former + begun + again.format(1) + SECOND + again.format(2))
    assert read_restarts(log, 12).count == 2
    assert read_restarts(log, 11) == Restarts(), "another supervisor runs now"
