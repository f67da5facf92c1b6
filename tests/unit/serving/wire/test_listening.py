import errno
import os
import socket
from pathlib import Path

import pytest
from tests.harness.served import make_settings

from sealserve.errors import PortTakenError, SealserveError
from sealserve.serving.wire import listening
from sealserve.serving.wire.listening import AddressError, choose_address, choose_socket, refused
from sealserve.serving.wire.transport import Transport


def test_a_free_port() -> None:
    assert choose_address("127.0.0.1", 0) == "127.0.0.1:0"
    assert choose_address("localhost", 0) == "localhost:0"


def test_every_address_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(listening, "_try_binding", lambda host, _port: tried.append(host))
    assert choose_address("", 8500) == "[::]:8500"
    assert tried == ["::"]


def test_a_machine_without_ipv6_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    def try_binding(host: str, _port: int) -> None:
        if host == "::":
            raise AddressError("no") from OSError(errno.EAFNOSUPPORT, "no IPv6")

    monkeypatch.setattr(listening, "_try_binding", try_binding)
    assert choose_address("", 8500) == "0.0.0.0:8500"


def test_another_trouble_is_not_hidden_behind_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    def try_binding(_host: str, _port: int) -> None:
        raise AddressError("no") from OSError(errno.EACCES, "not you")

    monkeypatch.setattr(listening, "_try_binding", try_binding)
    with pytest.raises(AddressError):
        choose_address("", 80)


def test_a_taken_port() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"127.0.0.1:{port}: another program listens there") as caught:
            choose_address("127.0.0.1", port)
    assert (caught.value.code, caught.value.exit_status) == ("port.taken", 4)
    assert "port" in str(listening.taken("x"))


def test_an_address_of_another_machine() -> None:
    with pytest.raises(AddressError, match=r"Cannot listen on 192\.0\.2\.1 port 0") as caught:
        choose_address("192.0.2.1", 0)
    assert caught.value.code == "server.address"


def test_ipv6_addresses_get_their_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_try_binding", lambda _host, _port: None)
    assert choose_address("::1", 8500) == "[::1]:8500"


@pytest.fixture
def near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose sockets have short paths."""
    monkeypatch.chdir(tmp_path)
    return Path(os.curdir)


def test_a_socket_that_was_left_behind_is_free(near: Path) -> None:
    assert choose_socket(near / "s") == "unix:s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind("s")
    assert choose_socket(near / "s") == "unix:s"


def test_a_socket_that_a_process_listens_on_is_replaced_as_by_grpc(
    near: Path, caplog: pytest.LogCaptureFixture, transport: type[Transport]
) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("s")
        other.listen()
        address = choose_socket(near / "s")
        assert "replacing the socket s, on which another process listens" in caplog.text
        server = transport(make_settings({}))
        assert server.listen(address)
        server.start()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("s")
            assert client.recv(1)  # gRPC's settings frame: the other process sends nothing
        assert server.stop(30.0)


def test_a_socket_needs_a_folder_and_replaces_nothing_else(near: Path) -> None:
    with pytest.raises(AddressError, match="its folder does not exist"):
        choose_socket(near / "nowhere" / "s")
    (near / "file").write_bytes(b"precious")
    (near / "folder").mkdir()
    os.mkfifo(near / "pipe")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind("s")
    (near / "link").symlink_to("s")
    (near / "dangling").symlink_to("nothing")
    for name in ("file", "folder", "pipe", "link", "dangling"):
        with pytest.raises(AddressError, match="the path exists and is not a socket"):
            choose_socket(near / name)
    assert (near / "file").read_bytes() == b"precious"
    assert {path.name for path in near.iterdir()} == {"file", "folder", "pipe", "s", "link", "dangling"}


def test_an_address_that_grpc_rejects_is_taken_only_where_something_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        error: SealserveError = refused(f"127.0.0.1:{port}")
        assert (error.code, error.message) == (
            "port.taken",
            f"Cannot listen on 127.0.0.1:{port}: another program listens there.",
        )
    error = refused("127.0.0.1:0")
    assert error.code == "server.address"
    assert "gRPC rejects the address or the TLS settings" in error.message
    assert refused("unix:/nowhere/s").message.endswith("its folder does not exist.")
