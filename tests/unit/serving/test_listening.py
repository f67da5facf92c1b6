import errno
import socket

import pytest

from sealserve.serving import listening
from sealserve.serving.listening import AddressError, PortTakenError, choose_address


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
        with pytest.raises(PortTakenError, match=f"127.0.0.1:{port}: another program does") as caught:
            choose_address("127.0.0.1", port)
    assert (caught.value.code, caught.value.exit_status) == ("server.port-taken", 4)
    assert "port" in str(listening.taken("x"))


def test_an_address_of_another_machine() -> None:
    with pytest.raises(AddressError, match=r"Cannot listen on 192\.0\.2\.1 port 0") as caught:
        choose_address("192.0.2.1", 0)
    assert caught.value.code == "server.address"


def test_ipv6_addresses_get_their_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_try_binding", lambda _host, _port: None)
    assert choose_address("::1", 8500) == "[::1]:8500"
