"""The output of the demo's steps."""

import json

import pytest

from sealserve.cli.demo.screen import NUMBERS, WIDEST, Screen


def test_steps_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=False)
    screen.heading("A [demo]")
    screen.step(0, "Before", "It explains [this].", "evidence [1]", "  as it is")
    for number in range(1, 13):
        screen.step(number, f"Step {number}", seconds=1.25)
    screen.step(1, "Attempt", mark="1")
    screen.finish()
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[:2] == ["A [demo]", ""]
    assert lines[2].startswith("·  Before  ")
    assert lines[3:6] == ["   It explains [this].", "     evidence [1]", "       as it is"]
    assert [line for line in lines[6:30] if line] == [
        f"{mark}  Step {number}  1.2 s" for number, mark in enumerate(NUMBERS, start=1)
    ]
    assert lines[31].startswith("1  Attempt  ")
    assert lines[-1].startswith("The demo took ")


def test_values_are_aligned_and_long_texts_are_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=False)
    screen.step(0, "Step", "word " * 40, ("key", "one"), ("key", "two"), ("longer", "word " * 40), seconds=0.0)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDEST
    assert [line for line in lines if "one" in line or "two" in line] == ["     key     one", "             two"]
    longer = next(index for index, line in enumerate(lines) if line.startswith("     longer  word"))
    assert all(line.startswith("             word") for line in lines[longer + 1 :])


def test_steps_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)
    screen.heading("not in JSON")
    screen.step(3, "Step", "Why.", "evidence", ("label", "value"), seconds=0.12345)
    assert capsys.readouterr().out == ""
    screen.finish(workspace="/w")
    shown = json.loads(capsys.readouterr().out)
    assert shown["steps"] == [
        {
            "number": 3,
            "title": "Step",
            "explanation": "Why.",
            "seconds": 0.123,
            "evidence": ["evidence", "label: value"],
        }
    ]
    assert shown["workspace"] == "/w"
    assert shown["seconds"] >= 0
