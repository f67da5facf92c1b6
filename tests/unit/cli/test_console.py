import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sealserve.cli import console
from sealserve.errors import InputError


def test_a_table_on_a_pipe_has_a_line_each_however_long(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(("NAME", "VALUE", ""), [("a", "x" * 300, ""), ("longer", "[bold]", "end")])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["NAME    VALUE", f"a       {'x' * 300}", f"longer  [bold]{' ' * 294}  end"]
    assert "\x1b" not in "".join(lines)
    console.print_table(("NAME",), [])
    assert capsys.readouterr().out == "No entries.\n"


def test_a_line_break_in_a_cell_makes_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(("NAME", "VALUE"), [("y\nfake  100 %", "1\t2")])
    assert capsys.readouterr().out.splitlines() == [f"{'NAME':<13}  VALUE", "y?fake  100 %  1?2"]


def test_fields_are_aligned_and_may_have_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_fields({"a": "[x]", "longer": "1\n2", "none": ""})
    assert capsys.readouterr().out == "a       [x]\nlonger  1\n        2\nnone    \n"
    console.print_fields({})


def test_what_is_said_goes_beside_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("[note]")
    console.warn("careful")
    console.quietly("nothing")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "[note]\nwarning: careful\n")


def test_text_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    for show in (console.out.print, console.say):
        show("resnet[v2] [/x] a:key:b \\[c]")
    captured = capsys.readouterr()
    assert captured.out == captured.err == "resnet[v2] [/x] a:key:b \\[c]\n"


def test_what_others_wrote_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b]52;c;eA==\x07\x9b2J\x08\x7fé"
    console.out.print(hostile, style="dim")
    console.print_error(InputError(f"no {hostile}\nsecond line", hint=hostile))
    console.print_table((hostile,), [(hostile,)])
    console.print_fields({hostile: hostile})
    captured = capsys.readouterr()
    assert captured.out.count("?]52;c;eA==??2J??é") == 5
    assert captured.err.count("?]52;c;eA==??2J??é") == 2
    assert "\nsecond line" in captured.err
    assert not set("\x1b\x07\x9b\x08\x7f") & set(captured.out + captured.err)


TERMINAL = """
from sealserve.cli import console
with console.spinner("Building x[/y]") as tell:
    tell("#5 [environment 2/7] RUN\\x1b[2J")
with console.bytes_progress("Sealing m[/odel]", 10) as done:
    done(1)
"""


def test_progress_shows_names_as_they_are() -> None:
    environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm", "FORCE_COLOR": "1"}
    code = [sys.executable, "-c", TERMINAL]
    result = subprocess.run(code, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    assert "#5 [environment 2/7] RUN?[2J" in result.stderr
    assert "Sealing m[/odel]" in result.stderr


def test_json_keeps_letters_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"name": "Größe", "path": Path("x")})
    assert capsys.readouterr().out == '{\n  "name": "Größe",\n  "path": "x"\n}\n'


def test_json_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x9b2J\u202etxt\x7f\u2066\n\x1b[2J"
    console.print_json({"detail": hostile, hostile: [hostile]})
    console.print_error(InputError(hostile, hint=hostile), as_json=True)
    printed = capsys.readouterr().out
    assert not set(printed) & set("\x9b\u202e\x7f\u2066\x1b")
    value, error = printed.rsplit("\n", 2)[:2]
    assert json.loads(value) == {"detail": hostile, hostile: [hostile]}
    assert json.loads(error)["error"]["message"] == hostile


def test_progress_is_silent_on_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with console.bytes_progress("Sealing", 10) as progress:
        progress(4)
    with console.spinner("Starting") as tell:
        tell("a part")
    assert capsys.readouterr() == ("", "")


def test_a_ready_file_names_the_process(tmp_path: Path) -> None:
    console.mark_ready(None)
    console.mark_ready(tmp_path / "ready")
    assert (tmp_path / "ready").read_text() == f"{os.getpid()}\n"


NATIVE = """
import os, sys
from sealserve.cli import console
with console.quiet_libraries():
    os.write(2, b"chatter of native code\\n")
    console.say("ours")
os.write(2, b"after\\n")
console.say("ours again")
"""


@pytest.mark.parametrize(("debug", "chatter"), [("", ""), ("1", "chatter of native code\n")])
def test_native_codes_chatter_stays_off_the_screen(debug: str, chatter: str) -> None:
    environment = {**os.environ, "SEALSERVE_DEBUG": debug}
    result = subprocess.run([sys.executable, "-c", NATIVE], capture_output=True, text=True, check=True, env=environment)
    assert result.stderr == f"{chatter}ours\nafter\nours again\n"


def test_the_screen_comes_back_after_an_error() -> None:
    code = NATIVE.replace('console.say("ours")', "raise SystemExit(3)")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (3, "")


MIXED = """
import time
from sealserve.cli import console
with console.spinner("Working") as tell:
    for number in range(3):
        time.sleep(0.15)  # the spinner is drawn meanwhile
        console.out.print(f"step {number}  ", end="")
        time.sleep(0.15)
        console.out.print("0.1 s")
        tell(f"on {number}")
console.out.print("end")
"""


def screen(written: str) -> list[str]:
    """Return the content of a terminal's screen after all of ``written``, line by line."""
    lines, row, column = [""], 0, 0
    for code, character in re.findall(r"\x1b\[([?\d;]*[A-Za-z])|(.|\n)", written):
        if code.endswith("A"):
            row = max(0, row - int(code[:-1] or 1))
        elif code == "2K":
            lines[row] = ""
        elif character == "\r":
            column = 0
        elif character == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif character:
            line = lines[row].ljust(column)
            lines[row], column = line[:column] + character + line[column + 1 :], column + 1
    return [line.rstrip() for line in lines]


def test_a_spinner_leaves_the_lines_of_the_result_alone() -> None:
    """On a terminal, both streams share the screen: output begins on a line that the spinner has left."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", MIXED], stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while content := os.read(ours, 65536):
                written += content
        os.close(ours)
    assert process.returncode == 0
    assert b"Working" in written
    assert [line for line in screen(written.decode()) if line] == [
        *(f"step {number}  0.1 s" for number in range(3)), "end"
    ]  # fmt: skip
