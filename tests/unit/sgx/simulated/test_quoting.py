import contextlib
import os
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.errors import UnavailableError
from sealserve.sgx.appraisal import verify_quote
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.quote import Quote
from sealserve.sgx.report import EnclaveReport
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting import QuotingServer, request_quote
from sealserve.sgx.simulated.vendor import Vendor


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "quoting.sock"


@pytest.fixture
def server(platform: SimulatedPlatform, path: Path) -> Iterator[QuotingServer]:
    with QuotingServer(platform, path, peer_timeout=0.5) as running:
        yield running


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(10)
    connection.connect(os.fspath(path))
    return connection


@pytest.mark.usefixtures("server")
def test_a_quote_from_the_socket_verifies(path: Path, vendor: Vendor, report: EnclaveReport, now: datetime) -> None:
    raw = request_quote(path, report)
    verified = verify_quote(raw, vendor.collateral(now=now), anchor=vendor.anchor, now=now)
    assert verified.report.report_data == report.report_data
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.usefixtures("server")
def test_many_ask_at_once(path: Path, report: EnclaveReport) -> None:
    with ThreadPoolExecutor(16) as pool:
        quotes = list(pool.map(lambda _: request_quote(path, report), range(32)))
    assert len({raw[:432] for raw in quotes}) == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\0\0",
        b"\0\0\1\x80" + bytes(10),
        b"\xff\xff\xff\xff" + bytes(100),
        b"\0\0\1\x81" + bytes(385),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["nothing", "half a length", "half a report", "4 GiB announced", "one byte more", "another protocol"],
)
@pytest.mark.usefixtures("server")
def test_bad_peers_get_nothing_and_harm_nobody(path: Path, report: EnclaveReport, sent: bytes) -> None:
    with _connect(path) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):  # the server did not read all of the sent data
            assert connection.recv(1) == b""
    assert request_quote(path, report)


@pytest.mark.usefixtures("server")
def test_a_silent_peer_is_dropped(path: Path, report: EnclaveReport) -> None:
    with _connect(path) as connection:
        connection.sendall(b"\0\0\1")
        assert request_quote(path, report)
        assert connection.recv(1) == b""


@pytest.mark.usefixtures("server")
def test_a_peer_that_leaves_early_harms_nobody(path: Path, report: EnclaveReport) -> None:
    for _ in range(3):
        with _connect(path) as connection:
            connection.sendall(struct.pack(">I", 384) + report.to_bytes())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert request_quote(path, report)


@pytest.mark.usefixtures("server")
def test_peers_beyond_what_can_be_served_are_turned_away(
    monkeypatch: pytest.MonkeyPatch, platform: SimulatedPlatform, tmp_path: Path, report: EnclaveReport
) -> None:
    monkeypatch.setattr("sealserve.sgx.simulated.background._MAX_PEERS", 1)
    path = tmp_path / "narrow.sock"
    with QuotingServer(platform, path, peer_timeout=60) as narrow, _connect(path) as first:
        first.sendall(b"\0")
        with _connect(path) as second:
            assert second.recv(1) == b""
        first.close()
        del narrow
        for _ in range(1000):  # wait until the thread of the first connection has ended
            try:
                assert request_quote(path, report)
                break
            except UnavailableError as error:
                if error.code != SgxCode.QUOTING_UNAVAILABLE:
                    raise
                threading.Event().wait(0.01)
        else:
            pytest.fail("the place was not given back")


@pytest.mark.usefixtures("server")
def test_a_report_that_says_the_unknown_is_refused(path: Path, report: EnclaveReport) -> None:
    class Odd(EnclaveReport):
        def to_bytes(self) -> bytes:
            raw = bytearray(super().to_bytes())
            raw[20] = 1
            return bytes(raw)

    odd = Odd(
        attributes=report.attributes,
        mr_enclave=report.mr_enclave,
        mr_signer=report.mr_signer,
        isv_prod_id=1,
        isv_svn=1,
        report_data=bytes(64),
    )
    with raises(
        SgxCode.QUOTING_REFUSED,
        match=r"The quoting service at .*quoting\.sock rejected the report: The report is invalid: "
        r"expected zeros in the reserved bytes 20 to 31, got [0-9a-f]{24}",
    ) as caught:
        request_quote(path, odd)
    assert caught.value.code == "quoting.refused"


def test_nobody_there(path: Path, report: EnclaveReport) -> None:
    with raises(
        SgxCode.QUOTING_UNAVAILABLE,
        match=r"The quoting service at .*quoting\.sock did not return a quote: \[Errno 2\] No such file "
        r"or directory",
    ) as caught:
        request_quote(path, report)
    assert caught.value.code == "quoting.unavailable"


def test_someone_else_there(path: Path, report: EnclaveReport) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(path))
        listener.listen()

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                received = 0
                while received < 4 + 384:
                    received += len(peer.recv(4 + 384))
                peer.sendall(struct.pack(">I", 1 << 20))

        thread = threading.Thread(target=answer)
        thread.start()
        with raises(
            SgxCode.QUOTING_UNAVAILABLE,
            match=r"The quoting service at .*quoting\.sock did not return a quote: expected at most 8193 "
            r"bytes, got an announcement of 1048576",
        ):
            request_quote(path, report)
        thread.join()


def test_a_folder_may_lie_deeper_than_a_socket_address_has_room(
    platform: SimulatedPlatform, tmp_path: Path, report: EnclaveReport
) -> None:
    folder = tmp_path / ("x" * 120) / ("y" * 120)
    folder.mkdir(parents=True)
    with QuotingServer(platform, folder / "quoting.sock"):
        assert Quote.parse(request_quote(folder / "quoting.sock", report)).report.mr_enclave == report.mr_enclave
    assert list(folder.iterdir()) == []


def test_a_socket_that_a_dead_process_left_is_replaced(
    platform: SimulatedPlatform, path: Path, report: EnclaveReport
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(os.fspath(path))
    assert path.is_socket()
    with QuotingServer(platform, path):
        assert request_quote(path, report)


@pytest.mark.usefixtures("server")
def test_a_live_server_is_not_replaced(platform: SimulatedPlatform, path: Path, report: EnclaveReport) -> None:
    with raises(
        SgxCode.QUOTING_SOCKET_TAKEN,
        match=r"The simulated platform cannot listen on .*quoting\.sock: another simulated platform "
        r"already listens there",
    ) as caught:
        QuotingServer(platform, path)
    assert caught.value.code == "quoting.socket-taken"
    assert request_quote(path, report)


def test_a_file_is_not_replaced(platform: SimulatedPlatform, path: Path) -> None:
    path.write_text("precious")
    with raises(
        SgxCode.QUOTING_SOCKET_TAKEN,
        match=r"The simulated platform cannot listen on .*quoting\.sock: the path exists and is not a "
        r"socket",
    ):
        QuotingServer(platform, path)
    assert path.read_text() == "precious"


def test_a_socket_of_another_kind_is_not_replaced(platform: SimulatedPlatform, path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(os.fspath(path))
        with raises(
            SgxCode.QUOTING_SOCKET_TAKEN,
            match=r"The simulated platform cannot listen on .*quoting\.sock: the existing socket cannot be "
            r"checked \(\[Errno 91\] Protocol wrong type for socket\)",
        ):
            QuotingServer(platform, path)
    assert path.is_socket()


@pytest.mark.usefixtures("server")
def test_a_fault_of_its_own_ends_one_request_only(
    path: Path, report: EnclaveReport, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sealserve.sgx.simulated.quoting.quote", None)
        with raises(SgxCode.QUOTING_UNAVAILABLE, match="the other side closed"):
            request_quote(path, report)
    assert "a request failed" in caplog.text
    assert request_quote(path, report)


@pytest.mark.usefixtures("server")
def test_a_thread_that_cannot_start_ends_one_request_only(
    path: Path, report: EnclaveReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with raises(
            SgxCode.QUOTING_UNAVAILABLE,
            match=r"The quoting service at .*quoting\.sock did not return a quote: ",
        ):
            request_quote(path, report)
    assert request_quote(path, report)


def test_a_folder_that_is_not_there(platform: SimulatedPlatform, tmp_path: Path) -> None:
    with raises(
        SgxCode.QUOTING_SOCKET_TAKEN,
        match=r"The simulated platform cannot listen on .*quoting\.sock: \[Errno 2\] No such file or "
        r"directory: '.*missing'",
    ):
        QuotingServer(platform, tmp_path / "missing" / "quoting.sock")


def test_stopping_removes_the_socket(platform: SimulatedPlatform, path: Path) -> None:
    server = QuotingServer(platform, path).start()
    server.stop()
    assert not path.exists()
    server.stop()


def test_stopping_leaves_a_successors_socket(platform: SimulatedPlatform, path: Path, report: EnclaveReport) -> None:
    server = QuotingServer(platform, path).start()
    path.unlink()
    with QuotingServer(platform, path):
        server.stop()
        assert request_quote(path, report)


def test_a_server_that_never_started_can_stop(platform: SimulatedPlatform, path: Path) -> None:
    QuotingServer(platform, path).stop()
    assert not path.exists()


def test_it_can_serve_in_the_calling_thread(platform: SimulatedPlatform, path: Path, report: EnclaveReport) -> None:
    server = QuotingServer(platform, path)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    assert request_quote(path, report)
    server.stop()
    thread.join(10)
    assert not thread.is_alive()
