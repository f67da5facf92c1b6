import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.harness.command_line import CommandLine
from tests.harness.signals import dispositions
from tests.harness.workspaces import Site
from typer.main import get_command

from sealserve import __version__
from sealserve.cli import usage_errors
from sealserve.cli.application import VERBS, app
from sealserve.errors import SealserveError


class BadTasteError(SealserveError):
    """A test's."""

    code = "test.bad-taste"
    exit_status = 3


def raise_in(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def find(_directory: Path) -> None:
        raise error

    monkeypatch.setattr("sealserve.workspace.find", find)


def shell(line: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line with bash, ``sealserve`` in it being this checkout's."""
    command = f'sealserve() {{ "{sys.executable}" -m sealserve "$@"; }}; {line}'
    variables = {**os.environ, **environment}
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=directory,
                          env=variables, timeout=60)  # fmt: skip


def test_the_version(cli: CommandLine) -> None:
    assert cli.bare("--version").out == f"sealserve {__version__}\n"


def test_every_verb_stands_in_the_help(cli: CommandLine) -> None:
    shown = cli.bare("--help")
    assert shown.status == 0
    for name, verb in VERBS.items():
        assert f" {name} " in shown.out
        assert verb.panel in shown.out
    assert cli.bare("-h") == shown
    assert cli.bare().out.split() == shown.out.split()
    assert cli.bare().status == 2


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(cli: CommandLine, verb: str) -> None:
    shown = cli.bare(verb, "--help")
    assert shown.status == 0
    assert f"Usage: sealserve {verb}" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        (["nonsense"], "usage.command", "sealserve: unknown command 'nonsense'.", "Run `seal"),
        (["dmeo"], "usage.command", "sealserve: unknown command 'dmeo'.", "Did you mean `sealserve demo`?"),
        (["a\x1b[2Jb"], "usage.command", "sealserve: unknown command 'a\\x1b[2Jb'.", "Run `seal"),
        (["certs", "two-wya"], "usage.command", "sealserve certs: unknown command 'two-wya'.", "Did you mean"),
        (["broker", "platform", "x"], "usage.command", "sealserve broker platform: unknown command 'x'.", "Run `seal"),
        (["status", "--nonsense"], "usage.option", "sealserve status: unknown option --nonsense.", "Run `seal"),
        (["status", "--jsn"], "usage.option", "sealserve status: unknown option --jsn.", "Did you mean --json?"),
        (["--frob"], "usage.option", "sealserve: unknown option --frob.", "Run `seal"),
        (["scale"], "usage.missing", "sealserve scale: REPLICAS is missing.", "Run `seal"),
        (["seal", "a", "b"], "usage.missing", "sealserve seal: --key-file is missing.", "Run `seal"),
        (["scale", "none"], "usage.value", "sealserve scale: REPLICAS: expected an integer, got 'none'.", "Run `seal"),
        (["scale", "0"], "usage.value", "sealserve scale: REPLICAS: expected a number of at least 1, got '0'.", "Run"),
        (["bench", "--timeout", "x"], "usage.value", "sealserve bench: --timeout: expected a number, got 'x'.", "Run"),
        (["demo", "--tls", "none"], "usage.value", "sealserve demo: --tls: expected one-way or two-way, got 'none'.",
         "Run `seal"),
        (["doctor", "onwer"], "usage.value", "sealserve doctor: MACHINE: expected owner, host or user, got 'onwer'.",
         "Did you mean owner?"),
        (["status", "a", "b"], "usage.arguments", "sealserve status: unexpected extra arguments (a b).", "Run `seal"),
        (["status", "--target"], "usage.arguments", "Option '--target' requires an argument.", "Add --help to show"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_error_with_a_code(
    cli: CommandLine, arguments: list[str], code: str, message: str, hint: str
) -> None:
    result = cli.bare(*arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"error[{code}]: {message}\n  {hint}")
    assert len(result.err.splitlines()) == 2
    as_json = cli.bare(*arguments[:-1] if code == "usage.arguments" else arguments, "--json", *arguments[-1:])
    if as_json.out:
        assert as_json.error["code"].startswith("usage.")
        assert (as_json.status, as_json.err) == (2, "")


def test_wrong_usage_is_json_for_programs(cli: CommandLine) -> None:
    result = cli.bare("scale", "none", "--json")
    assert (result.status, result.err) == (2, "")
    assert result.error == {
        "code": "usage.value",
        "message": "sealserve scale: REPLICAS: expected an integer, got 'none'.",
        "hint": "Run `sealserve scale --help` to show its options and arguments.",
    }
    assert cli.bare("frob", "--json").error["code"] == "usage.command"


@pytest.mark.parametrize(("typed", "meant"), usage_errors.ALIASES.items())
def test_the_command_of_a_similar_tool_is_translated(cli: CommandLine, typed: str, meant: str) -> None:
    assert typed not in VERBS
    assert cli.bare(typed).err.endswith(f"  Did you mean `sealserve {meant}`?\n")
    shown = cli.bare(*meant.split(), "--help")
    assert shown.status == 0


@pytest.mark.parametrize(
    ("cause", "status", "shown"),
    [
        (KeyboardInterrupt, 130, ""),
        (ValueError, 1, "Aborted.\n"),
        (
            EOFError,
            2,
            (
                "error[usage.missing]: The command asked a question, but standard input ended without an answer.\n"
                "  Run the command at a terminal. To confirm without a question, add --yes.\n"
            ),
        ),
    ],
)
def test_a_question_without_an_answer(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, cause: type[BaseException], status: int, shown: str
) -> None:
    def asked(_directory: Path) -> None:
        error = typer.Abort()
        error.__context__ = cause()  # as click leaves it
        raise error

    monkeypatch.setattr("sealserve.workspace.find", asked)
    result = cli("status")
    assert (result.status, result.out, result.err) == (status, "", shown)
    if cause is EOFError:
        assert cli("status", "--json").error["code"] == "usage.missing"


def test_an_error_is_told_once_with_code_and_hint(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_in(monkeypatch, BadTasteError("[red]No[/] such colour.", hint="Try [blue]."))
    result = cli("status")
    assert result.status == 3
    assert result.out == ""
    assert result.err == "error[test.bad-taste]: [red]No[/] such colour.\n  Try [blue].\n"
    raise_in(monkeypatch, BadTasteError("No hint."))
    assert cli("status").err == "error[test.bad-taste]: No hint.\n"


def test_an_error_for_programs_is_json_on_standard_output(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_in(monkeypatch, BadTasteError("Nö.", hint=None))
    result = cli("status", "--json")
    assert result.json == {"error": {"code": "test.bad-taste", "message": "Nö.", "hint": None}}
    assert (result.status, result.err) == (3, "")


def test_what_nobody_foresaw_is_internal_and_shows_nothing(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_in(monkeypatch, RuntimeError("the key is 00112233"))
    result = cli("status")
    assert result.status == 1
    assert result.err == (
        "error[internal]: An unexpected error occurred: RuntimeError. This is a bug in sealserve.\n"
        "  Run the command again with SEALSERVE_DEBUG=1, and report the traceback that it prints.\n"
    )
    as_json = cli("status", "--json")
    assert as_json.error["code"] == "internal"
    assert "00112233" not in result.out + as_json.out + as_json.err
    monkeypatch.setenv("SEALSERVE_DEBUG", "1")
    debugged = cli("status")
    assert "Traceback" in debugged.err
    assert "RuntimeError: the key is 00112233" in debugged.err
    assert debugged.status == 1


def test_a_file_that_the_system_refuses_is_named(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_in(monkeypatch, FileNotFoundError(2, "No such file or directory", "/proc/nowhere"))
    result = cli("status")
    assert result.status == 4
    assert result.err.startswith("error[file.refused]: /proc/nowhere cannot be used: No such file or directory.\n  ")
    raise_in(monkeypatch, OSError(111, "Connection refused"))
    assert cli.error("status")["code"] == "internal"


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"]])
def test_an_interruption_has_a_status_of_its_own(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    raise_in(monkeypatch, KeyboardInterrupt())
    result = cli(*arguments)
    assert (result.status, result.out, result.err) == (130, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_is_an_interruption(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr("sealserve.workspace.find", lambda _: signal.raise_signal(number))
    assert cli("status").status == 130


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_what_outlives_its_terminal_on_purpose_goes_on(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """`nohup` ignores SIGHUP, and a shell SIGINT for its background jobs: such signals stay ignored."""
    monkeypatch.setattr("sealserve.workspace.find", lambda _: signal.raise_signal(number))
    with dispositions({number: signal.SIG_IGN}):
        assert cli("status").status != 130
        assert signal.getsignal(number) is signal.SIG_IGN


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    run = 'sealserve status --json >&3; echo "status $?"'
    line = f"exec 3> >(true); wait $!; {run}; export PYTHONUNBUFFERED=1; {run}"  # certainly without a reader
    result = shell(line, tmp_path, PYTHONUNBUFFERED="")
    assert (result.stdout, result.stderr) == ("status 0\nstatus 0\n", "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("verb", ["release list", "certs show", "broker log", "model --help", "--help"])
def test_the_first_line_may_be_enough(site: Site, verb: str, unbuffered: str) -> None:
    site.certify()
    line = f"set -o pipefail; exec 3> >(true); wait $!; sealserve {verb} >&3"
    result = shell(line, site.directory, PYTHONUNBUFFERED=unbuffered)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_connection_that_breaks_is_not_taken_for_a_reader_that_went_away(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    raise_in(monkeypatch, BrokenPipeError(32, "Broken pipe"))
    error = cli.error("status")
    assert (error["code"], error["status"]) == ("connection.lost", 4)
    assert error["message"] == "A network connection failed: the other side closed it."


def test_an_output_without_room_is_told(tmp_path: Path) -> None:
    result = shell("sealserve --version > /dev/full; echo $?", tmp_path)
    assert result.stdout == "4\n"
    assert result.stderr.startswith(
        "error[output.unwritable]: Standard output cannot be written: No space left on device.\n"
    )


HEAVY = (
    "aiohttp", "asyncio", "cbor2", "cryptography", "dcap_qvl", "google.protobuf", "grpc", "httpx", "kubernetes",
    "numpy", "OpenSSL", "sqlalchemy", "ssl", "tensorflow", "yaml",
    "sealserve.broker.database", "sealserve.client", "sealserve.cluster", "sealserve.deployment", "sealserve.owner",
    "sealserve.sgx",
)  # fmt: skip
"""What only a running command needs. The help of a command would take twice as long with one of them."""
SHOW_HELP = """
import contextlib, io, json, sys
from sealserve.cli import application
from sealserve.cli.deferred_imports import deferred
deferred.enable()
answer = []
for arguments in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        application.run([*arguments, "--help"])
    answer.append((text.getvalue(), list(sys.modules)))
json.dump(answer, sys.stdout)
"""


def commands(command: Any, *path: str) -> list[list[str]]:
    """Return the words of all commands: the program, groups, and the commands in them."""
    names = command.list_commands(None) if hasattr(command, "list_commands") else ()
    below = [words for name in names for words in commands(command.get_command(None, name), *path, name)]
    return [list(path), *below]


def test_help_loads_no_heavy_package_and_is_complete(tmp_path: Path, cli: CommandLine) -> None:
    """The imports of all commands wait here, as in the `sealserve` program; in `cli` they do not."""
    every = commands(get_command(app))
    assert ["broker", "platform", "list"] in every
    result = subprocess.run([sys.executable, "-c", SHOW_HELP], input=json.dumps(every), capture_output=True, text=True,
                            check=True, cwd=tmp_path)  # fmt: skip
    for words, (text, modules) in zip(every, json.loads(result.stdout), strict=True):
        assert not set(HEAVY) & set(modules), words
        assert text == cli.bare(*words, "--help").out, words
