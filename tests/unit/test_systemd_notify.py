"""The environment that systemd gives a service, and the text of its notifications."""

import os
import socket
from pathlib import Path

import pytest

from sealserve.systemd_notify import Notifier


@pytest.fixture
def received(tmp_path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(tmp_path / "notify"))
    made.settimeout(60)
    return made


@pytest.mark.parametrize(
    ("environment", "watchdog"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "٣"}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({}, None),
    ],
)
def test_the_watchdog_of_the_environment(environment: dict[str, str], watchdog: float | None) -> None:
    given = {**environment, "NOTIFY_SOCKET": "/run/notify", "PATH": "/bin"}
    assert Notifier.of(given).watchdog == watchdog
    assert given == {"PATH": "/bin"}  # child processes must not report for the service
    assert Notifier.of(dict(environment)).watchdog is None  # without a socket


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative/path"])
def test_an_address_of_another_kind_is_ignored(address: str, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier.of({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    notifier.ready("x")
    assert notifier.watchdog is None
    assert "NOTIFY_SOCKET is neither a path nor an abstract socket" in caplog.text


def test_a_status_cannot_add_an_assignment(received: socket.socket) -> None:
    with received:
        notifier = Notifier(received.getsockname(), watchdog=1)
        notifier.ready("a\nMAINPID=1\r\u2028b" + "x" * 10_000)
        text = received.recv(65536).decode()
        assert text.startswith("READY=1\nSTATUS=a MAINPID=1 b")
        assert text.count("\n") == 1
        assert len(text) < 600
        notifier.alive()
        assert received.recv(100) == b"WATCHDOG=1"


def test_a_manager_that_does_not_read_never_blocks_the_service(
    received: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sealserve.systemd_notify._SEND_SECONDS", 0.01)
    with received:
        notifier = Notifier(received.getsockname(), watchdog=1)
        while "cannot notify systemd" not in caplog.text:  # until the socket's queue is full
            notifier.alive()
        caplog.clear()
        notifier.alive()
        assert caplog.text == ""


def test_without_systemd_nothing_is_sent() -> None:
    notifier = Notifier.of({})
    notifier.ready("x")
    notifier.reloading()
    notifier.alive()
    notifier.status("x")
    notifier.stopping()
