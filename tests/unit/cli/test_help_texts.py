"""`--help` of every command shows the texts of the source unchanged, with their brackets."""

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.harness.command_line import CommandLine
from typer.main import get_command

from sealserve.cli.application import VERBS, app
from sealserve.cli.help_texts import literal


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command with the words that call it."""
    root: Any = get_command(app)

    def below(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        yield words, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from below((*words, name), inner)

    for verb in VERBS:
        yield from below((verb,), root.get_command(None, verb))


COMMANDS = dict(commands())


@pytest.mark.parametrize("verb", VERBS)
def test_the_list_of_verbs_matches_the_help_of_each_verb(verb: str) -> None:
    assert COMMANDS[verb,].help.split("\n\n")[0] == literal(VERBS[verb].summary)


@pytest.mark.parametrize(("asked", "status"), [("--help", 0), ("dmeo", 2)])
def test_the_list_of_verbs_imports_none_of_them(asked: str, status: int) -> None:
    code = "import sys; from sealserve.cli.application import run; sys.exit(run(sys.argv[1:]))"
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, asked], capture_output=True, text=True, check=False
    )
    assert shown.returncode == status
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines() if line.startswith("import time")}
    assert "sealserve.cli.application" in imported
    assert not imported & {
        "grpc",
        "numpy",
        "cryptography",
        *(f"sealserve.cli.{verb.module}" for verb in VERBS.values()),
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_is_shown_as_it_is_written(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # wide enough for each text in one line
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 1000, raising=False)
    shown = cli.bare(*words, "--help")
    assert (shown.status, shown.err) == (0, "")
    plain = " ".join(shown.out.split())
    command = COMMANDS[words]
    source = [command.callback.__doc__ if command.callback is not None else None, command.help]
    for text in [*source, *(getattr(parameter, "help", None) for parameter in command.params)]:
        for sentence in re.split(r"\n\s*\n", (text or "").strip()):
            written = " ".join(sentence.replace("\\[", "[").split())
            assert written in plain
    assert "--install-completion" not in plain


def test_brackets_and_line_breaks() -> None:
    assert literal(None) is None
    assert literal("") == ""
    assert literal("One\nline [keystore] here.\n\n  Another [/] [b]one[/b].\n") == (
        "One line \\[keystore] here.\n\nAnother \\[/] \\[b]one\\[/b]."
    )


def test_the_help_leaves_out_noise(cli: CommandLine) -> None:
    shown = cli.bare("model", "show", "--help").out
    assert "[SAVEDMODEL]" in shown
    assert "[[SAVEDMODEL]]" not in shown
    assert re.search(r"--json +Print the result as JSON", shown), (
        "a flag does not have a value, so its type is not shown"
    )
