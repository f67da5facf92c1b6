import os
import socket
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.cluster import ports
from sealserve.cluster.codes import ClusterCode
from sealserve.errors import PortTakenError


def test_a_free_port_is_found_and_free() -> None:
    port = ports.find_free()
    ports.require_free(port, "the test")


def test_a_free_port_is_outside_the_range_of_outgoing_connections() -> None:
    first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    assert all(ports.find_free() < int(first) for _ in range(20))


def test_a_range_without_a_free_port_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(ports, "_CHOSEN", range(port, port + 1))
        with pytest.raises(PortTakenError, match=f"None of the ports {port} to {port}"):
            ports.find_free()


def test_the_error_for_a_taken_port_names_its_purpose() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"Port {port} at 127.0.0.1, for the broker, is in use") as caught:
            ports.require_free(port, "the broker")
    assert caught.value.code == "port.taken"


def test_an_address_of_another_machine_is_an_error() -> None:
    with raises(ClusterCode.PORT_UNUSABLE, match=r"No program can listen on port 4433 at 192\.0\.2\.1") as caught:
        ports.is_free(4433, "192.0.2.1")  # RFC 5737: nobody's
    assert caught.value.code == "port.unusable"


def test_listeners_of_other_sessions_are_distinguished() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert ports.is_listening(port, session=os.getsid(0))
        assert not ports.is_listening(port, session=1)
    assert not ports.is_listening(port, session=os.getsid(0))
