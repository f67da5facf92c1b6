"""Turns at writing, between threads and between processes."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealserve.broker.write_turn import TurnError, WriteTurn

PATIENT = 30.0
_HOLDER = """
import sys
from pathlib import Path
from sealserve.broker.write_turn import WriteTurn
with WriteTurn(Path(sys.argv[1])).taken(30):
    print("held", flush=True)
    sys.stdin.read(1)
print("released", flush=True)
"""


@contextlib.contextmanager
def other_process(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Yield a process that has the turn until it can read from its standard input."""
    command = [sys.executable, "-c", _HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def turn(tmp_path: Path) -> Iterator[WriteTurn]:
    made = WriteTurn(tmp_path / "broker.sqlite-turn")
    with contextlib.closing(made):
        yield made


def test_a_turn_waits_for_another_process_and_is_woken_by_its_end(turn: WriteTurn, tmp_path: Path) -> None:
    with other_process(tmp_path / "broker.sqlite-turn") as holder:
        taken = threading.Event()

        def take() -> None:
            with turn.taken(PATIENT):
                taken.set()

        waiting = threading.Thread(target=take)
        waiting.start()
        assert not taken.wait(0.2)
        holder.kill()  # the kernel releases the lock
        waiting.join(PATIENT)
        assert taken.is_set()


def test_a_turn_that_takes_too_long_is_an_error_and_its_place_is_not_lost(turn: WriteTurn, tmp_path: Path) -> None:
    with other_process(tmp_path / "broker.sqlite-turn") as holder:
        for _ in range(2):  # the second one takes over the place of the first one
            with pytest.raises(TurnError, match=r"^other writers took more than 0\.05 s$"), turn.taken(0.05):
                pytest.fail("two processes have the turn")
        holder.kill()
        with turn.taken(PATIENT), pytest.raises(TurnError), turn.taken(0.05):
            pytest.fail("two threads have the turn")


def test_a_writer_that_gave_up_does_not_keep_the_turn(turn: WriteTurn, tmp_path: Path) -> None:
    path = tmp_path / "broker.sqlite-turn"
    with other_process(path) as holder:
        with pytest.raises(TurnError), turn.taken(0.05):
            pytest.fail("two processes have the turn")
        holder.kill()
        other = WriteTurn(path)
        with contextlib.closing(other), other.taken(PATIENT):
            pass


def test_a_writer_cannot_overtake_a_waiting_writer(tmp_path: Path) -> None:
    first, second = WriteTurn(tmp_path / "turn"), WriteTurn(tmp_path / "turn")
    order: list[str] = []
    with contextlib.closing(first), contextlib.closing(second):

        def take_second() -> None:
            with second.taken(PATIENT):
                order.append("second")

        waiting = threading.Thread(target=take_second)
        with first.taken(PATIENT):
            waiting.start()
            while second._waiter is None or not _has_entrance(tmp_path / "turn"):
                pass
        with first.taken(PATIENT):
            order.append("first")
        waiting.join(PATIENT)
    assert order == ["second", "first"]


def _has_entrance(path: Path) -> bool:
    """Return whether a writer is in the entrance."""
    probe = WriteTurn(path)
    with contextlib.closing(probe):
        from sealserve.broker import write_turn  # noqa: PLC0415

        file = os.open(path, os.O_RDWR)
        try:
            if write_turn._try(file, write_turn._ENTRANCE):
                return False
        finally:
            os.close(file)
    return True


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_a_file_of_another_kind_is_refused(turn: WriteTurn, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "broker.sqlite-turn"
    if kind == "link":
        (tmp_path / "other").touch()
        path.symlink_to("other")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(TurnError, match=r"cannot be used"), turn.taken(1):
        pytest.fail("the file was used")


def test_the_file_is_private_and_opened_again_after_a_close(turn: WriteTurn, tmp_path: Path) -> None:
    for _ in range(2):
        with turn.taken(1):
            pass
        turn.close()
    assert (tmp_path / "broker.sqlite-turn").stat().st_mode & 0o777 == 0o600
