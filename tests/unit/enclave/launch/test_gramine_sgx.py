import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.index import BuiltEnclave
from sealserve.enclave.inventory import measure
from sealserve.enclave.launch import pauses
from sealserve.enclave.launch.gramine_sgx import diagnose, run_gramine_sgx
from sealserve.enclave.launch.server_process import SignalRelay, StoppedBySignal, relayed_signals
from sealserve.enclave.measurement import SignedEnclave, load_enclave
from sealserve.enclave.spec import EnclaveSpec
from sealserve.errors import VerificationError
from sealserve.sealing.release import Release

LOADER = """#!/bin/sh
echo "$PWD $*" >> {log}
{code}
"""


@pytest.fixture
def enclave(
    build: Callable[..., BuiltEnclave], make_spec: Callable[..., EnclaveSpec], release: Release
) -> SignedEnclave:
    build(make_spec(broker=("127.0.0.1", 1)))
    return load_enclave(release.folder, "replica-0")


@pytest.fixture
def loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that puts a stand-in for gramine-sgx on the search path, and returns the log of its starts."""

    def put(code: str) -> Path:
        log, program = tmp_path / "starts", tmp_path / "bin/gramine-sgx"
        program.parent.mkdir(exist_ok=True)
        program.write_text(LOADER.format(log=log, code=code))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return log

    monkeypatch.setattr(pauses, "FIRST_PAUSE", 0.01)
    return put


def run(release: Release, enclave: SignedEnclave, relay: SignalRelay | None = None, attempts: int | None = 3) -> int:
    return run_gramine_sgx(release.folder, enclave, relay or SignalRelay(), verify=lambda: None, attempts=attempts)


def test_it_runs_in_the_releases_folder(
    release: Release, enclave: SignedEnclave, loader: Callable[[str], Path]
) -> None:
    log = loader("exit 0")
    assert run(release, enclave) == 0
    assert log.read_text() == f"{release.folder} enclave/replica-0\n"


def test_a_failure_is_diagnosed_and_tried_again(
    release: Release, enclave: SignedEnclave, loader: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    log = loader("exit 7")
    with caplog.at_level(logging.INFO):
        assert run(release, enclave) == 7
    assert len(log.read_text().splitlines()) == 3
    said = [record.message for record in caplog.records]
    assert sum(message.startswith("step=ended status=7") for message in said) == 3
    assert "step=diagnosis all 2 trusted files match their measured digests" in said
    assert any("the broker at 127.0.0.1:1 cannot be reached: Connection refused" in message for message in said)
    assert any("/dev/sgx_enclave is" in message for message in said)


def test_the_last_attempt_is_diagnosed_too(
    release: Release, enclave: SignedEnclave, loader: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    loader("exit 7")
    with caplog.at_level(logging.INFO):
        assert run(release, enclave, attempts=1) == 7
    said = [record.message for record in caplog.records]
    assert "step=diagnosis all 2 trusted files match their measured digests" in said
    assert not any(message.startswith("step=again") for message in said)


def test_it_recovers(release: Release, enclave: SignedEnclave, loader: Callable[[str], Path]) -> None:
    log = loader('[ "$(wc -l < "$(dirname "$0")/../starts")" -ge 2 ]')
    assert run(release, enclave, attempts=None) == 0
    assert len(log.read_text().splitlines()) == 2


def test_what_does_not_verify_is_not_started(
    release: Release, enclave: SignedEnclave, loader: Callable[[str], Path]
) -> None:
    log = loader("exit 0")

    def verify() -> None:
        raise VerificationError("changed")

    with pytest.raises(VerificationError, match="changed"):
        run_gramine_sgx(release.folder, enclave, SignalRelay(), verify=verify)
    assert not log.exists()


def test_a_signal_ends_it_and_the_retries(
    release: Release, enclave: SignedEnclave, loader: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "FIRST_PAUSE", 3600.0)
    log = loader("exit 1")

    def ask_once_it_waits() -> None:
        while not log.exists() or not log.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask_once_it_waits)
    with relayed_signals() as relay:
        thread.start()
        try:
            status = run(release, enclave, relay, attempts=None)
        except StoppedBySignal as stop:
            status = stop.exit_status
    thread.join()
    assert status in {1, 143}
    assert len(log.read_text().splitlines()) == 1


def test_a_signal_while_a_connection_is_made_leaves_no_socket_open(
    release: Release, enclave: SignedEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[socket.socket] = []

    def connect(*_: object, **__: object) -> socket.socket:
        opened.append(socket.socket())
        os.kill(os.getpid(), signal.SIGTERM)  # Python runs the handler here, before any code could close the socket
        return opened[0]

    monkeypatch.setattr(socket, "create_connection", connect)
    with relayed_signals() as relay, pytest.raises(StoppedBySignal):
        list(diagnose(release.folder, enclave, relay))
    assert [stream.fileno() for stream in opened] == [-1]  # closed


def test_a_signal_stops_the_verification_before_each_start(
    release: Release, enclave: SignedEnclave, loader: Callable[[str], Path]
) -> None:
    log = loader("exit 1")
    for starts in (0, 1):
        left = [starts]
        finished: list[bool] = []

        def verify(left: list[int] = left, finished: list[bool] = finished) -> None:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGTERM)
                finished.append(True)
            left[0] -= 1

        with relayed_signals() as relay, pytest.raises(StoppedBySignal):
            run_gramine_sgx(release.folder, enclave, relay, verify=verify)
        assert not finished
    assert len(log.read_text().splitlines()) == 1


def test_without_gramine(release: Release, enclave: SignedEnclave, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/none")
    with raises(EnclaveCode.GRAMINE_LOADER_MISSING, match="gramine-sgx is not installed on this machine") as caught:
        run(release, enclave)
    assert caught.value.code == "gramine.loader-missing"
    assert "doctor host" in (caught.value.hint or "")


def test_the_diagnosis_names_a_changed_file_and_a_broker_that_answers(
    build: Callable[..., BuiltEnclave], make_spec: Callable[..., EnclaveSpec], release: Release, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"as measured")
    with socket.create_server(("127.0.0.1", 0)) as broker:
        port = broker.getsockname()[1]
        build(make_spec(broker=("127.0.0.1", port), trusted_files=measure([sys.executable, str(program)])))
        program.write_bytes(b"changed")
        found = list(diagnose(release.folder, load_enclave(release.folder, "replica-0"), SignalRelay()))
    assert f"The trusted file {program} was changed after the enclave was built: expected SHA-256" in found[0]
    assert f"the broker at 127.0.0.1:{port} accepts connections" in found[-1]
