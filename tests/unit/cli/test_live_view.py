"""What `up` and `scale` show while they work."""

import io
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from sealserve.cli import console
from sealserve.cli.live_view import live_view
from sealserve.cluster.local.processes import wait_until
from sealserve.cluster.target import PartStatus, State
from sealserve.errors import UnavailableError


class Watched:
    """A target that can only be looked at."""

    def __init__(self, *parts: PartStatus) -> None:
        self.parts: Sequence[PartStatus] = parts
        self.looks = 0

    def status(self) -> Sequence[PartStatus]:
        self.looks += 1
        if self.looks == 1:
            raise UnavailableError("not there yet")
        return self.parts


def screen(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=text, force_terminal=terminal, width=100, color_system=None))
    monkeypatch.setattr("sealserve.cli.live_view._POLL_SECONDS", 0.01)
    return text


def test_a_terminal_sees_each_part_and_the_reason_why_one_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    text = screen(monkeypatch, terminal=True)
    watched: Any = Watched(
        PartStatus(role="replica-0", state=State.ATTESTED, instance="pod-a"),
        PartStatus(role="replica-1", state=State.STARTING, detail="error[provisioning.refused]: not [allowed]"),
    )
    with live_view("Starting", lambda: watched) as tell:
        tell("waiting for [replicas]")
        assert wait_until(lambda: "provisioning.refused]: not [allowed]" in text.getvalue(), seconds=20)
    shown = text.getvalue()
    assert "waiting for [replicas]" in shown
    assert "replica-0  attested  pod-a" in shown


def test_a_file_gets_each_step_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = screen(monkeypatch, terminal=False)
    watched: Any = Watched()
    with live_view("Starting", lambda: watched) as tell:
        for step in ("starting broker", "1 of 2 serve", "1 of 2 serve", "2 of 2 serve"):
            tell(step)
    assert text.getvalue().splitlines() == ["starting broker", "1 of 2 serve", "2 of 2 serve"]
    with live_view("Starting", lambda: watched, for_programs=True) as tell:
        tell("starting NGINX")
    assert "NGINX" not in text.getvalue()
    assert watched.looks == 0
