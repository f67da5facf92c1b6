import contextlib
import os
import socket
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

import httpx
import pytest
from tests.harness import hosts
from tests.harness.hosts import AZURE_FILES, write_root

from sealserve.host import probe
from sealserve.host.facts import Aesmd, HostFacts, Pccs
from sealserve.host.probe import Answer


@pytest.fixture(autouse=True)
def no_gramine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)


def test_a_machine_with_sgx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_root(tmp_path, {**AZURE_FILES, "/dev/cpu/0/cpuid": ""})
    monkeypatch.setattr("os.pread", hosts.device_reads(hosts.AZURE_DC2DS_V3))
    asked: list[tuple[str, bool]] = []

    def ask(url: str, verify: bool) -> Answer:
        asked.append((url, verify))
        return Answer(200, format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True))

    found = probe.gather(root=root, ask=ask)
    assert found.system == "Ubuntu 22.04.5 LTS"
    assert found.kernel == "6.8.0-1041-azure"
    assert found.processor.model == "Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz"
    assert {"sgx", "sgx_lc"} <= found.processor.flags
    assert found.cpuid is not None
    assert found.cpuid.epc_bytes == found.epc_bytes == 8 << 30
    assert found.fsgsbase is True
    assert found.dev_executable is True
    assert found.quote_provider == "/usr/lib/x86_64-linux-gnu/libdcap_quoteprov.so.1"
    assert asked == [("https://global.acccache.azure.net/sgx/certification/v4/pckcrl?ca=processor", True)]
    assert found.pccs.status == 200
    assert found.clock.synchronized is True
    assert found.clock.skew is not None
    assert abs(found.clock.skew - timedelta(hours=1)) < timedelta(minutes=1)
    assert found.confinement.seccomp == 0
    assert found.confinement.apparmor == ""


def test_a_machine_without_any_files_causes_no_error(tmp_path: Path) -> None:
    assert probe.gather(root=tmp_path, ask=pytest.fail) == HostFacts()


def test_this_machine_is_probed_without_the_network() -> None:
    found = probe.gather()
    assert found.kernel == os.uname().release
    assert found.pccs.status is None


def test_a_container_of_docker(tmp_path: Path) -> None:
    root = write_root(
        tmp_path,
        {
            "/.dockerenv": "",
            "/proc/self/status": "Seccomp:\t2\n",
            "/proc/self/attr/current": "docker-default (enforce)\n",
            "/proc/self/mountinfo": hosts.MOUNTS.replace("rw,nosuid", "rw,nosuid,noexec"),
            "/proc/self/auxv": hosts.auxiliary_vector({hosts.HWCAP2: 0}),
            "/run/systemd/timesync/x": "",
        },
    )
    found = probe.gather(root=root)
    assert found.confinement.container
    assert found.confinement.seccomp == 2
    assert found.confinement.apparmor == "docker-default (enforce)"
    assert found.dev_executable is False
    assert found.fsgsbase is False
    assert found.clock.synchronized is False


def test_garbage_in_every_file(tmp_path: Path) -> None:
    root = write_root(tmp_path, dict.fromkeys([*AZURE_FILES, "/dev/cpu/0/cpuid"], b"\xff\0\n:=" * 999))
    found = probe.gather(root=root, ask=pytest.fail)
    assert found.cpuid is None or not found.cpuid.intel
    assert found.epc_bytes is None
    assert found.processor.flags == frozenset()
    assert found.pccs.configured
    assert "sets no PCCS" in found.pccs.reason


def test_a_file_in_the_place_of_a_device(tmp_path: Path) -> None:
    found = probe.gather(root=write_root(tmp_path, {"/dev/sgx_enclave": ""})).enclave_device
    assert (found.exists, found.character_device) == (True, False)


def test_aesmd_is_called() -> None:
    with TemporaryDirectory() as folder:  # a Unix socket's path must be short
        path = Path(folder) / "var/run/aesmd/aesm.socket"
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            refused = probe.gather(root=Path(folder)).aesmd
            assert refused == Aesmd(
                socket="/var/run/aesmd/aesm.socket", exists=True, answers=False, reason="Connection refused"
            )
            server.listen()
            assert probe.gather(root=Path(folder)).aesmd.answers


def test_unreadable_paths_count_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = os.stat

    def refuse(path: str, **options: bool) -> os.stat_result:
        if "aesm" in str(path) or "qcnl" in str(path):
            raise PermissionError(13, "Permission denied")
        return looked_at(path, **options)

    root = write_root(tmp_path, {**AZURE_FILES, "/var/run/aesmd/aesm.socket": ""})
    monkeypatch.setattr("os.stat", refuse)
    found = probe.gather(root=root)
    assert found.pccs == Pccs()
    assert not found.aesmd.exists
    assert found.kernel == "6.8.0-1041-azure"


def test_a_pccs_that_does_not_answer(tmp_path: Path) -> None:
    def ask(_url: str, _verify: bool) -> Answer:
        raise httpx.ConnectTimeout("timed out")

    root = write_root(tmp_path, AZURE_FILES)
    url = "https://global.acccache.azure.net/sgx/certification/v4/"
    assert probe.gather(root=root, ask=ask).pccs == Pccs(url=url, configured=True, reason="timed out")
    undated = probe.gather(root=root, ask=lambda _url, _verify: Answer(404, "yesterday"))
    assert undated.pccs.status == 404
    assert undated.clock.skew is None


def test_the_body_of_the_pccs_answer_is_not_read() -> None:
    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: object) -> None: ...

    def application(_: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        start("200 OK", [])
        return [b"unread"]

    with make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        answer = probe.ask(f"http://127.0.0.1:{server.server_port}/", verify=True)
        thread.join()
    assert answer.status == 200
    assert answer.date.endswith("GMT")


def test_an_endless_answer_of_the_pccs_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_SECONDS", 0.1)
    stop = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not stop.wait(0.02):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        with pytest.raises(httpx.HTTPError):
            probe.ask(f"http://127.0.0.1:{server.getsockname()[1]}/", verify=True)
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ('echo "Gramine 1.9 (0d1a4b760)"', "1.9"),
        ('echo "Gramine 1.9post~UNRELEASED (ff71d7a)"', "1.9post~UNRELEASED"),
        ('echo "Usage: $0 [<application>] <args>..."; exit 2', ""),
    ],
)
def test_gramine_reports_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, version: str
) -> None:
    program = tmp_path / "gramine-sgx"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda _name: str(program))
    found = probe.gather(root=tmp_path).gramine
    assert (found.path, found.version) == (str(program), version)


def test_a_gramine_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: str(tmp_path / "gone"))
    assert probe.gather(root=tmp_path).gramine.version == ""
