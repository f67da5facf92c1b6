"""`proxy` as a program: options, log, signals, and one clear error for each bad input."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tests.harness.attested_service import NAME, AttestedService
from tests.harness.command_line import CommandLine

SECONDS = 60
METHOD = "/a.Service/Method"


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SEALSERVE_POLICY", raising=False)
    monkeypatch.chdir(tmp_path)
    return CommandLine(capsys, tmp_path)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[AttestedService]:
    with AttestedService(tmp_path) as running:
        (tmp_path / "policy.toml").write_text(running.policy_file)
        yield running


PROGRAM = ("-m", "sealserve")
RESOLVES_FOREVER = """
import socket, sys, threading
def resolve(*_):
    print("resolving", file=sys.stderr, flush=True)
    threading.Event().wait()
socket.getaddrinfo = resolve
from sealserve.cli import main
main()
"""


def start(
    folder: Path, *arguments: str | Path, program: tuple[str, str] = PROGRAM
) -> tuple[subprocess.Popen[str], list[str]]:
    """Start the program, and return it with its log up to the line after which clients can connect."""
    command = [sys.executable, *program, "proxy", *arguments, "--policy", folder / "policy.toml"]
    process = subprocess.Popen(
        [*command, "--server-name", NAME, "--ready-file", folder / "ready"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    lines: list[str] = []
    while not any("listening on unix:" in line for line in lines):
        lines.append(process.stderr.readline())
        assert lines[-1], lines
    return process, lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal(service: AttestedService, tmp_path: Path, number: signal.Signals) -> None:
    listen = ["--listen", "127.0.0.1:0", "--listen", "unix:model.sock"]
    process, log = start(tmp_path, service.address, *listen, "--json")
    with process, grpc.insecure_channel(f"unix:{tmp_path}/model.sock") as channel:
        assert channel.unary_unary(METHOD)(b"an input", timeout=SECONDS) == b"an input"  # type: ignore[arg-type]
        process.send_signal(number)
        out, rest = process.communicate(timeout=SECONDS)
        assert (process.returncode, out) == (0, "")
    assert not (tmp_path / "model.sock").exists()
    lines = [json.loads(line) for line in [*log, *rest.splitlines()] if not line.startswith("warning: ")]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    verified = [line for line in lines if line["message"].startswith("verified a replica")]
    assert [line["release"] for line in verified] == [service.example.release_id]
    assert "SIMULATED, it protects nothing" in verified[0]["message"]
    assert lines[-1]["message"] == "stopped"
    assert "Traceback" not in rest


def test_it_starts_before_the_service(tmp_path: Path) -> None:
    with AttestedService(tmp_path) as ended:
        (tmp_path / "policy.toml").write_text(ended.policy_file)
    process, _ = start(tmp_path, ended.address, "--listen", "unix:model.sock")
    with process:
        assert process.stderr is not None
        while "the service is not verified yet: Connecting to" not in (line := process.stderr.readline()):
            assert line
        process.terminate()
        assert process.wait(SECONDS) == 0


@pytest.mark.parametrize("times", [1, 2, 20])
def test_signals_end_it_at_once_while_a_name_is_resolved(tmp_path: Path, times: int) -> None:
    with AttestedService(tmp_path) as ended:
        (tmp_path / "policy.toml").write_text(ended.policy_file)
    process, log = start(tmp_path, "a.test:8500", "--listen", "unix:model.sock", program=("-c", RESOLVES_FOREVER))
    with process:
        assert process.stderr is not None
        while "resolving\n" not in log:
            log.append(process.stderr.readline())
        for _ in range(times):
            process.terminate()
        try:
            _, rest = process.communicate(timeout=SECONDS)
        finally:
            process.kill()  # without effect if it has ended
    # A signal during the end of the interpreter has its default action.
    assert process.returncode in ({0} if times == 1 else {0, -signal.SIGTERM})
    assert rest.endswith(" INFO stopped\n")
    assert not (tmp_path / "model.sock").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--listen", "8500"], "proxy.listen"),
        (["--listen", "0.0.0.0:0"], "proxy.listen-anywhere"),
        (["--listen", "unix:missing/model.sock"], "proxy.listen-failed"),
        (["--rest-address", "nonsense"], "client.target"),
        (["--policy", "missing.toml"], "client.no-policy"),
        (["--policy", "invalid.toml"], "user-policy.invalid"),
        (["--cert", "cert.pem"], "client.options"),
        (["--bundle", "policy.toml"], "client.bundle-invalid"),
        (["--connections", "0"], "usage.value"),
        (["--idle-timeout", "0"], "usage.value"),
    ],
)
def test_each_bad_input_is_one_error(
    cli: CommandLine, service: AttestedService, tmp_path: Path, arguments: list[str], code: str
) -> None:
    (tmp_path / "invalid.toml").write_text("x = 1")
    policy = [] if "--policy" in arguments else ["--policy", "policy.toml"]
    failed = cli.bare("proxy", service.address, "--listen", "127.0.0.1:0", *policy, *arguments, "--json")
    assert failed.error["code"] == code
    assert failed.error["hint"]
    assert service.observed.evidence == 0


def test_without_an_address_a_bundle_is_requested(cli: CommandLine, service: AttestedService) -> None:
    del service  # only its policy is needed
    failed = cli.bare("proxy", "--policy", "policy.toml", "--json")
    assert failed.error["code"] == "workspace.missing"
    assert "--bundle FILE" in str(failed.error["hint"])
