import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness.errors import raises

from sealserve.attestation.codes import AttestationCode
from sealserve.cli.codes import CliCode
from sealserve.cli.demo.attempts import refused_by_user
from sealserve.cli.demo.between import Between, beginning, ending
from sealserve.cli.demo.pretended_service import PretendedService
from sealserve.cli.demo.stage import own_certificate
from sealserve.client.attested import EndpointTls, fetch_evidence
from sealserve.pki.certificate import CertifiedKey

PAIR = own_certificate("a.example")


@contextmanager
def echo(pair: CertifiedKey | None = None) -> Iterator[tuple[str, int]]:
    """A peer that answers each message of a connection with the same bytes, over TLS if it has a certificate."""
    context = None if pair is None else ending(pair.chain_pem, pair.key_pem.reveal(), protocol="h2")

    def answer(listener: socket.socket) -> None:
        plain, _ = listener.accept()
        with plain if context is None else context.wrap_socket(plain, server_side=True) as stream:
            while data := stream.recv(1000):
                stream.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        yield "127.0.0.1", listener.getsockname()[1]
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_a_recorder_forwards_and_records_the_bytes() -> None:
    with echo() as peer, Between(peer) as recorder, socket.create_connection(("127.0.0.1", recorder.port)) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
    assert (recorder.sent, recorder.answered) == (b"hello", b"hello")


def test_an_attacker_with_a_key_reads_what_a_client_sends_that_accepts_it() -> None:
    end = ending(PAIR.chain_pem, PAIR.key_pem.reveal(), protocol="h2")
    client_context = ssl.create_default_context(cadata=PAIR.chain_pem.decode())
    client_context.check_hostname = False
    client_context.set_alpn_protocols(["h2"])
    with (
        echo(own_certificate("service.example")) as peer,
        Between(peer, end=end, begin=beginning(protocol="h2"), name="service.example") as attacker,
        socket.create_connection(("127.0.0.1", attacker.port)) as plain,
        client_context.wrap_socket(plain, server_hostname="a.example") as client,
    ):
        client.sendall(b"the input")
        assert client.recv(100) == b"the input"
    assert (attacker.sent, attacker.answered) == (b"the input", b"the input")


def test_a_peer_that_does_not_answer_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with Between(("127.0.0.1", port)) as recorder, socket.create_connection(("127.0.0.1", recorder.port)) as client:
        assert client.recv(100) == b""


def test_a_pretended_service_answers_what_the_attacker_chose() -> None:
    nonces: list[bytes] = []

    def answer(nonce: bytes) -> bytes:
        nonces.append(nonce)
        return b"not evidence"

    with (
        PretendedService(PAIR.chain_pem, PAIR.key_pem.reveal(), answer) as pretended,
        raises(AttestationCode.DOCUMENT_JSON),
    ):
        fetch_evidence(pretended.address, tls=EndpointTls(server_name="a.example"))
    assert [len(nonce) for nonce in nonces] == [32]


def test_a_user_who_accepts_an_attacker_fails_the_demo() -> None:
    with raises(CliCode.DEMO_NOT_REFUSED, match="the user accepted the service"):
        refused_by_user(lambda: None)
