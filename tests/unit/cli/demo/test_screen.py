import json

import pytest

from sealserve.cli.demo.screen import NUMBERS, Screen


def test_steps_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=False)
    screen.heading("A [demo]", "")
    screen.step(0, "Before", "why [not]")
    for number in range(1, 13):
        screen.step(number, f"Step {number}", seconds=1.25)
    screen.step(1, "Attempt", mark="1")
    screen.finish()
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[:2] == ["A [demo]", ""]
    assert lines[2].startswith("·  Before  ")
    assert lines[3] == "    why [not]"
    assert lines[4:16] == [f"{mark}  Step {number}  1.2 s" for number, mark in enumerate(NUMBERS, start=1)]
    assert lines[16].startswith("1  Attempt  ")
    assert lines[-1].endswith(" s in all.")


def test_steps_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)
    screen.heading("nothing of it")
    screen.step(3, "Step", "evidence", seconds=0.12345)
    assert capsys.readouterr().out == ""
    screen.finish(workspace="/w")
    shown = json.loads(capsys.readouterr().out)
    assert shown["steps"] == [{"number": 3, "title": "Step", "seconds": 0.123, "evidence": ["evidence"]}]
    assert shown["workspace"] == "/w"
    assert shown["seconds"] >= 0
