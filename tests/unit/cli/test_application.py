import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.signals import dispositions
from tests.harness.workspaces import Site

from sealserve import __version__
from sealserve.cli.application import VERBS
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
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["dmeo"], "No such command 'dmeo'. Did you mean 'demo'?"),
        (["status", "--nonsense"], "No such option: --nonsense"),
        (["certs", "three-way"], "No such command 'three-way'"),
        (["scale"], "Missing argument"),
        (["scale", "none"], "should be a valid integer"),
        (["scale", "0"], "Input should be greater than or equal to 1"),
        (["broker", "drain", "x", "--minutes", "0"], "greater than or equal to 1"),
        (["seal", "a", "b"], "Missing option '--key-file'"),
        (["demo", "--tls", "none"], "'none' is not one of"),
        (["doctor", "nobody"], "'nobody' is not one of"),
    ],
)
def test_wrong_usage_is_told_with_status_2(cli: CommandLine, arguments: list[str], message: str) -> None:
    result = cli.bare(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert message in result.err.replace("\n│ ", " ")
    assert "Usage: sealserve" in result.err


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
        "error[internal]: RuntimeError (this is a bug).\n"
        "  Run it again with SEALSERVE_DEBUG=1 to see where, and report that.\n"
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
    result = cli.bare("init", "--directory", "/proc/nowhere")
    assert result.status == 4
    assert result.err == "error[file.refused]: No such file or directory: /proc/nowhere.\n"
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
    """`nohup` ignores SIGHUP, and a shell SIGINT for its background jobs: what is ignored at the start stays so."""
    monkeypatch.setattr("sealserve.workspace.find", lambda _: signal.raise_signal(number))
    with dispositions({number: signal.SIG_IGN}):
        assert cli("status").status != 130
        assert signal.getsignal(number) is signal.SIG_IGN


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    run = 'sealserve status --json >&3; echo "status $?"'
    line = f"exec 3> >(true); wait $!; {run}; export PYTHONUNBUFFERED=1; {run}"  # nobody reads, for certain
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
    assert error["message"] == "A connection was lost: the other side closed it."


def test_an_output_without_room_is_told(tmp_path: Path) -> None:
    result = shell("sealserve --version > /dev/full; echo $?", tmp_path)
    assert result.stdout == "4\n"
    assert result.stderr == "error[output.unwritable]: Standard output cannot be written: No space left on device.\n"


def test_a_verb_loads_its_own_module_only(tmp_path: Path) -> None:
    """What a user runs comes without the owner's database, and without TensorFlow."""
    code = (
        "import sys; from sealserve.cli.application import run\n"
        "run(['predict', '--help'])\n"
        "print({'sqlalchemy', 'tensorflow', 'dcap_qvl'} & set(sys.modules), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.stderr == "set()\n"


HEAVY = ("aiohttp", "cryptography", "dcap_qvl", "grpc", "httpx", "kubernetes", "numpy", "sqlalchemy", "tensorflow")
"""Packages that take a tenth of a second or more to import."""


@pytest.mark.parametrize("arguments", [[], ["demo"], ["cloud"], ["backup"], ["restore"]])
def test_help_loads_no_heavy_package(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from sealserve.cli.application import run\n"
        f"run([*{arguments!r}, '--help'])\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.stderr == "[]\n"
