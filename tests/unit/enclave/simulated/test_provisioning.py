import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from tests.harness.errors import raises

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.simulated.provisioning import connect, fetch_key

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_the_first_server_that_accepts_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listed = [("127.0.0.1", unused_port()), ("127.0.0.1", listener.getsockname()[1])]

        broker = connect(listed, timeout=5)
        with broker.socket:
            assert broker.socket.getpeername() == (broker.host, broker.port) == listed[1]


def test_a_broker_that_is_down_is_named_with_its_address() -> None:
    port = unused_port()

    with raises(EnclaveCode.PROVISIONING_UNREACHABLE, match=f"127.0.0.1:{port}: Connection refused") as caught:
        connect([("127.0.0.1", port)], timeout=5)

    assert caught.value.code == "provisioning.unreachable"
    assert "sealserve broker run" in str(caught.value)


def fetch_from(behave: Callable[[socket.socket], object], broker_ca: bytes, *, timeout: float = 10) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                behave(peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            broker = connect([listener.getsockname()[:2]], timeout=5)
            fetch_key(broker, broker_ca=broker_ca, quote_for=lambda data: data, now=NOW, timeout=timeout)
        finally:
            thread.join()


def test_something_else_than_tls_is_no_broker(broker_ca: bytes) -> None:
    def answer_in_plaintext(peer: socket.socket) -> None:
        peer.recv(1000)
        peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with raises(EnclaveCode.PROVISIONING_CONNECTION, match="is not a broker: ") as caught:
        fetch_from(answer_in_plaintext, broker_ca)

    assert caught.value.code == "provisioning.connection"


def test_a_connection_that_breaks_is_said(broker_ca: bytes) -> None:
    with raises(EnclaveCode.PROVISIONING_CONNECTION, match=r"At 127\.0\.0\.1:|The connection to the broker"):
        fetch_from(lambda peer: peer.recv(1), broker_ca)


def test_a_broker_that_says_nothing_is_not_waited_for_forever(broker_ca: bytes) -> None:
    def wait_for_the_end(peer: socket.socket) -> None:
        while peer.recv(10_000):
            pass

    with raises(EnclaveCode.PROVISIONING_CONNECTION, match=r"did not answer within 0\.05 s"):
        fetch_from(wait_for_the_end, broker_ca, timeout=0.05)


def test_a_broker_ca_that_is_no_certificate_is_refused() -> None:
    with raises(EnclaveCode.PROVISIONING_BROKER_CERTIFICATE, match="expected certificates in PEM form"):
        fetch_from(lambda peer: peer.recv(1), b"none")
