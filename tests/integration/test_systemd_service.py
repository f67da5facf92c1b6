"""The broker as a systemd service: its notifications on a real datagram socket, and its system call filter."""

import contextlib
import ctypes.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.harness import system_calls, systemd_as_init
from tests.harness.running_broker import PATIENT, Owned, owned

from sealserve.cluster.local.processes import wait_until
from sealserve.cluster.systemd.units import withheld_from_broker
from sealserve.owner.certificates import broker_certificate_files
from sealserve.owner.owner import Owner

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "sealserve-broker.service"
ANALYZE = shutil.which("systemd-analyze")
pytestmark = pytest.mark.integration


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owned]:
    with owned(tmp_path / "site") as owner:
        yield owner


class Manager:
    """The service manager's end of the notifications."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENT)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def environment(self, *, watchdog: float | None = None) -> Mapping[str, str]:
        limit = {} if watchdog is None else {"WATCHDOG_USEC": str(int(watchdog * 1_000_000))}
        return {"NOTIFY_SOCKET": self.address, **limit}

    def until(self, key: str) -> dict[str, str]:
        """Return the next message with an assignment to ``key``."""
        while True:
            found = dict(line.split("=", 1) for line in self.socket.recv(4096).decode().split("\n"))
            if key in found:
                return found


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@sealserve-test-{secrets.token_hex(8)}"
    made = Manager(address)
    with contextlib.closing(made.socket):
        yield made


def test_systemd_is_told_about_readiness_reloads_the_watchdog_and_the_end(owner: Owned, manager: Manager) -> None:
    certificate, _ = broker_certificate_files(owner.site.workspace)
    with owner.broker(manager.environment(watchdog=3)) as broker:
        ready = manager.until("READY")
        assert ready["READY"] == "1"
        assert re.fullmatch(
            rf"Listening on 127\.0\.0\.1 port {owner.port}; certificate until \d{{4}}-\d\d-\d\d", ready["STATUS"]
        )
        assert manager.until("WATCHDOG") == {"WATCHDOG": "1"}
        # A failed reload ends too, and the status shows it.
        certificate.write_bytes(b"none")
        broker.hang_up()
        reloading = manager.until("RELOADING")
        assert reloading["RELOADING"] == "1"
        assert int(reloading["MONOTONIC_USEC"]) > 0
        assert manager.until("READY")["STATUS"].endswith("; the new certificate cannot be used")
        assert manager.until("WATCHDOG")
        assert owner.ask() == owner.made.key.reveal()
        broker.process.send_signal(signal.SIGTERM)
        assert manager.until("STOPPING") == {"STOPPING": "1", "STATUS": "stopping"}
        assert broker.process.wait(PATIENT) == 0


def test_a_manager_that_is_gone_does_not_stop_the_broker(owner: Owned, tmp_path: Path) -> None:
    with owner.broker({"NOTIFY_SOCKET": str(tmp_path / "nothing"), "WATCHDOG_USEC": "300000"}) as broker:
        broker.until("cannot notify systemd: No such file or directory")
        assert owner.ask() == owner.made.key.reveal()
        broker.hang_up()
        broker.until("reloaded the master key")
        assert sum("cannot notify systemd" in line for line in broker.seen) == 1


def test_nothing_is_sent_without_a_watchdog_except_changes(owner: Owned, tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    with contextlib.closing(manager.socket), owner.broker(manager.environment()) as broker:
        manager.until("READY")
        broker.process.terminate()
        assert dict(line.split("=") for line in manager.socket.recv(4096).decode().split("\n"))["STOPPING"] == "1"


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is missing: `apt-get install systemd`")
@pytest.mark.skipif(ctypes.util.find_library("seccomp") is None, reason="libseccomp is missing")
def test_the_broker_needs_no_other_system_call_than_its_unit_permits(owner: Owned, tmp_path: Path) -> None:
    calls = system_calls.permitted(UNIT.read_text())
    assert "chown" not in calls  # the filter is in effect
    assert len(calls) > 200
    (tmp_path / "calls").write_text("\n".join(calls))
    before = (sys.executable, str(Path(system_calls.__file__)), str(tmp_path / "calls"))
    with owner.broker(before=before) as broker:
        assert owner.ask() == owner.made.key.reveal()
        status = Path(f"/proc/{broker.process.pid}/status").read_text()
        assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
        broker.hang_up()
        broker.until("reloaded the certificate")
        broker.until("reloaded the master key")
        assert owner.ask() == owner.made.key.reveal()
        broker.process.terminate()
        broker.until("the broker has stopped")
        assert broker.process.wait(PATIENT) == 0


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is missing: `apt-get install util-linux`")
def test_the_broker_works_without_the_secrets_that_its_unit_withholds(owner: Owned) -> None:
    Owner.create(owner.site.workspace).create_enclave_key()
    withheld = withheld_from_broker(owner.site.workspace)
    assert {path.name for path in withheld} == {
        "enclave-signing-key.pem", "index-signing-key.pem", "ca.key", "models", "users", "client.key",
    }  # fmt: skip
    assert sum(path.exists() for path in withheld) >= 7
    for path in withheld:  # systemd mounts an inaccessible file or folder over each of them
        if path.exists():
            path.rename(path.with_name(f"{path.name}.away"))
            path.mkdir() if path.with_name(f"{path.name}.away").is_dir() else path.touch()
            path.chmod(0)
    before = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
    try:
        with owner.broker(before=before) as broker:
            assert owner.ask() == owner.made.key.reveal()
            url = f"http://127.0.0.1:{owner.metrics_port}/metrics"
            with urllib.request.urlopen(url, timeout=PATIENT) as answer:
                assert b'certificate="broker"' in answer.read()
            broker.hang_up()
            broker.until("reloaded the certificate")
            broker.until("reloaded the master key")
            assert owner.ask() == owner.made.key.reveal()
            broker.process.terminate()
            broker.until("the broker has stopped")
            assert broker.process.wait(PATIENT) == 0
            assert not [line for line in broker.seen if "Permission" in line or "Traceback" in line]
    finally:
        for path in withheld:
            if path.exists():
                path.chmod(0o700)


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is missing: `apt-get install systemd`")
def test_systemd_reads_the_unit_and_finds_it_little_exposed(tmp_path: Path) -> None:
    text = UNIT.read_text().replace("/opt/sealserve/bin/python", sys.executable).replace("User=sealserve\n", "")
    checked = tmp_path / "sealserve-broker.service"
    checked.write_text(text)
    verified = analyze("verify", "--man=no", checked)
    assert (verified.returncode, verified.stderr) == (0, "")
    # The threshold is ten times the exposure that the guide states.
    exposure = analyze("security", "--offline=true", "--no-pager", "--threshold=15", UNIT)
    assert exposure.returncode == 0, exposure.stdout


def analyze(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    assert ANALYZE is not None
    line = [ANALYZE, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=PATIENT, env={**os.environ})


@pytest.mark.skipif(systemd_as_init.missing() is not None, reason=str(systemd_as_init.missing()))
def test_the_unit_runs_under_systemd(owner: Owned, tmp_path: Path) -> None:
    Owner.create(owner.site.workspace).create_enclave_key()
    key = owner.site.workspace.owner.enclave_signing_key
    with systemd_as_init.running(owner.site.directory, tmp_path) as init:
        assert wait_until(lambda: "the broker is listening" in init.log.read_text(), seconds=PATIENT)
        assert owner.ask() == owner.made.key.reveal()
        main = init.run("systemctl", "show", "--property=MainPID", "--value", "sealserve-broker.service").stdout.strip()
        inside = ("nsenter", "-t", main, "-m", "--")
        # The sandbox is in effect.
        status = init.run("cat", f"/proc/{main}/status").stdout
        for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
            assert line in status
        withheld = f"/var/lib/sealserve/.sealserve/owner/{key.name}"
        assert init.run(*inside, "stat", "-c", "%a %s", withheld).stdout == "0 0\n"
        assert key.stat().st_size > 1000
        assert "Read-only file system" in init.run(*inside, "touch", "/var/lib/sealserve/new").stderr
        # systemd has received the notifications.
        shown = init.run("systemctl", "show", "--property=ActiveState,StatusText", "sealserve-broker.service").stdout
        assert "ActiveState=active" in shown
        assert f"StatusText=Listening on 127.0.0.1 port {owner.port}" in shown
        reloaded = init.run("systemctl", "reload", "sealserve-broker.service")
        assert (reloaded.returncode, reloaded.stderr) == (0, "")
        assert wait_until(lambda: "reloaded the master key" in init.log.read_text(), seconds=PATIENT)
        assert owner.ask() == owner.made.key.reveal()
        stopped = init.run("systemctl", "stop", "sealserve-broker.service")
        assert (stopped.returncode, stopped.stderr) == (0, "")
        assert "the broker has stopped" in init.log.read_text()
