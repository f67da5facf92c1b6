"""The proxy listens where only this machine, or only this user, can connect."""

import os
import socket
import stat
from pathlib import Path

import pytest

from sealserve.errors import InputError, PortTakenError, UnavailableError
from sealserve.proxy.listener import ListenAddress, listen, parse_listen


@pytest.mark.parametrize(
    ("text", "shown"),
    [("127.0.0.1:8500", None), ("[::1]:0", None), ("localhost:1", "127.0.0.1:1"), ("127.9.9.9:65535", None)],
)
def test_addresses_of_this_machine_are_accepted(text: str, shown: str | None) -> None:
    assert str(parse_listen(text)) == (shown or text)


def test_a_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_listen("unix:model.sock") == ListenAddress(path=tmp_path / "model.sock")


@pytest.mark.parametrize(
    "text",
    ["", "8500", ":8500", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:٣", "::1:8500",
     "[127.0.0.1]:1", "example.com:8500", "unix:", "unix:/a\0b", "unix:/" + "a" * 200, "127.0.0.1:00000000000001",
     "[::1%lo\x1b[2J]:1"],
)  # fmt: skip
def test_invalid_addresses_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="The address to listen on is invalid") as caught:
        parse_listen(text)
    assert caught.value.code == "proxy.listen"
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("text", ["0.0.0.0:8500", "[::]:8500", "192.0.2.1:8500", "[2001:db8::1]:8500"])
def test_other_machines_need_a_dangerous_option(text: str) -> None:
    with pytest.raises(InputError, match="Other machines can reach") as caught:
        parse_listen(text)
    assert caught.value.code == "proxy.listen-anywhere"
    assert not parse_listen(text, dangerous_anywhere=True).is_private


def test_a_used_port_is_reported() -> None:
    first = listen(parse_listen("127.0.0.1:0"))
    try:
        assert first.address.port
        with pytest.raises(PortTakenError, match="another program listens there"):
            listen(first.address)
    finally:
        first.close()


def test_an_address_of_another_machine_is_reported() -> None:
    with pytest.raises(UnavailableError, match=r"Cannot listen on 192\.0\.2\.1:0") as caught:
        listen(parse_listen("192.0.2.1:0", dangerous_anywhere=True))
    assert caught.value.code == "proxy.listen-failed"


def test_only_this_user_can_open_the_socket_and_it_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "model.sock"
    before = os.umask(0)
    try:
        listener = listen(ListenAddress(path=path))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listener.close()
    assert not path.exists()


def test_the_socket_of_a_killed_proxy_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model.sock"
    killed = listen(ListenAddress(path=path))
    killed.stream.close()  # the file stays
    again = listen(ListenAddress(path=path))
    killed.close()  # it is another proxy's file now
    assert path.exists()
    again.close()


def test_the_socket_of_a_running_program_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.sock"
    first = listen(ListenAddress(path=path))
    try:
        with pytest.raises(UnavailableError, match="another program listens there") as caught:
            listen(ListenAddress(path=path))
        assert caught.value.code == "proxy.listen-failed"
    finally:
        first.close()


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_nothing_but_a_socket_is_replaced(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "model.sock", tmp_path / "target.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(target))
        match kind:
            case "file":
                path.write_text("precious")
            case "link":
                path.symlink_to(target)
            case "folder":
                path.mkdir()
        with pytest.raises(UnavailableError, match="the path exists and is not a socket") as caught:
            listen(ListenAddress(path=path))
    assert caught.value.code == "proxy.listen-failed"
    assert os.path.lexists(path)
    assert target.exists()


def test_a_folder_in_which_others_can_replace_the_socket_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(InputError, match="Other users can replace files") as caught:
        listen(ListenAddress(path=folder / "model.sock"))
    assert caught.value.code == "proxy.listen"
    folder.chmod(0o1777)  # as /tmp: only the owner of a file can replace it
    listen(ListenAddress(path=folder / "model.sock")).close()


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="its folder cannot be used") as caught:
        listen(ListenAddress(path=tmp_path / "missing" / "model.sock"))
    assert caught.value.code == "proxy.listen-failed"
