import errno
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.harness.errors import raises
from tests.unit.client.conftest import SERVICE, Behaviour, Connect, Material, Serve

from sealserve.client.call import ServiceFailedError
from sealserve.client.channel import open_channel
from sealserve.client.connection_fault import (
    CertificateRefusedError,
    CertificateRequiredError,
    ServiceCertificateExpiredError,
    ServiceNameError,
    ServiceUntrustedError,
    UnreachableError,
    find_fault,
)
from sealserve.client.credentials import Credentials, Endpoint, TlsError
from sealserve.client.predict import Predictor
from sealserve.pki.codes import PkiCode


@contextmanager
def listener(answer: bytes | None) -> Iterator[int]:
    """Accept connections, read a little, send ``answer`` and close; with None, keep them open in silence."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.settimeout(0.1)
        stop = threading.Event()

        def run() -> None:
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                stack.callback(connection.close)
                if answer is not None:
                    connection.recv(64)
                    connection.sendall(answer)
                    connection.close()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            thread.join()


@contextmanager
def tls_server(folder: Path, material: Material, *, client_ca: bytes, newest: ssl.TLSVersion) -> Iterator[int]:
    """Make one TLS handshake with OpenSSL, which reports why it refuses a client, and offer HTTP/2."""
    (folder / "chain").write_bytes(material.server.chain_pem)
    (folder / "key").write_bytes(material.server.key_pem.reveal())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = newest
    context.load_cert_chain(folder / "chain", folder / "key")
    context.set_alpn_protocols(["h2"])
    if client_ca:
        context.load_verify_locations(cadata=client_ca.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    else:
        context.set_alpn_protocols(["http/1.1"])
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            connection, _ = server.accept()
            with connection:
                try:
                    with context.wrap_socket(connection, server_side=True) as wrapped:
                        wrapped.recv(1)
                except OSError:
                    pass  # the client was refused, or went away: both are expected here

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            thread.join()


def test_a_channel_reaches_the_service_by_its_name(serve: Serve, connect: Connect, pictures: Any) -> None:
    behaviour = Behaviour()
    channel = connect(serve(behaviour))
    answer = Predictor([channel]).predict("toy", {"x": pictures})
    np.testing.assert_array_equal(answer["x"], pictures * 2)


def test_one_way_needs_no_client_certificate(serve: Serve, connect: Connect) -> None:
    channel = connect(serve(Behaviour(), two_way=False), certificate=None, key=None)
    assert channel.find_fault() is None


def test_each_channel_is_a_connection_of_its_own(serve: Serve, connect: Connect, pictures: Any) -> None:
    behaviour = Behaviour()
    port = serve(behaviour)
    predictor = Predictor([connect(port) for _ in range(3)])
    for _ in range(6):
        predictor.predict("toy", {"x": pictures})
    assert len(behaviour.peers) == 3


def test_the_name_is_sent_as_sni_to_an_address(tmp_path: Path, material: Material) -> None:
    (tmp_path / "chain").write_bytes(material.server.chain_pem)
    (tmp_path / "key").write_bytes(material.server.key_pem.reveal())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "chain", tmp_path / "key")
    names: list[str | None] = []
    context.sni_callback = lambda _, name, __: names.append(name)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            for _ in range(2):  # gRPC's handshake, then the one that finds out why it failed
                connection, _ = server.accept()
                with connection, context.wrap_socket(connection, server_side=True):
                    pass

        thread = threading.Thread(target=run)
        thread.start()
        with pytest.raises(TlsError, match="but not HTTP/2") as caught:
            open_channel(
                f"127.0.0.1:{server.getsockname()[1]}", server_name=SERVICE, ca=material.service.certificate_pem
            )
        thread.join()
    assert names == [SERVICE, SERVICE]
    assert caught.value.code == "client.tls"


def test_wrong_authority(serve: Serve, connect: Connect, material: Material) -> None:
    with pytest.raises(ServiceUntrustedError, match=r"was not issued by the authority .*CA certificate") as caught:
        connect(serve(Behaviour()), ca=material.stranger_ca.certificate_pem)
    assert caught.value.code == "client.tls-untrusted"
    assert caught.value.exit_status == 3


def test_wrong_name(serve: Serve, connect: Connect) -> None:
    with pytest.raises(ServiceNameError, match=rf"another name: expected other\.service\.com, got {SERVICE}") as caught:
        connect(serve(Behaviour()), server_name="other.service.com")
    assert caught.value.code == "client.tls-name"


def test_expired_service(serve: Serve, connect: Connect, material: Material) -> None:
    with pytest.raises(ServiceCertificateExpiredError, match=r"valid from 20.* to 20.*and it is 20") as caught:
        connect(serve(Behaviour(), identity=material.expired_server))
    assert caught.value.code == "client.tls-expired"


def test_expired_client(connect: Connect, material: Material) -> None:
    with raises(PkiCode.CERTIFICATE_EXPIRED, match="The client certificate"):
        connect(1, certificate=material.expired_client.chain_pem, key=material.expired_client.key_pem)


def test_no_client_certificate(serve: Serve, connect: Connect) -> None:
    with pytest.raises(CertificateRequiredError, match="requires a client certificate") as caught:
        connect(serve(Behaviour()), certificate=None, key=None)
    assert caught.value.code == "client.tls-certificate-required"


def test_another_authoritys_client_certificate(serve: Serve, connect: Connect, material: Material) -> None:
    with pytest.raises(
        CertificateRefusedError, match=r"refused the client certificate .*without a TLS alert"
    ) as caught:
        connect(serve(Behaviour()), certificate=material.stranger.chain_pem, key=material.stranger.key_pem)
    assert caught.value.code == "client.tls-certificate-refused"


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_a_server_says_of_a_client_certificate_is_passed_on(
    tmp_path: Path, material: Material, newest: ssl.TLSVersion
) -> None:
    credentials = Credentials(
        server_name=SERVICE,
        ca=material.service.certificate_pem,
        certificate=material.stranger.chain_pem,
        key=material.stranger.key_pem,
    )
    with tls_server(tmp_path, material, client_ca=material.users.certificate_pem, newest=newest) as port:
        fault = find_fault(Endpoint("127.0.0.1", port), credentials, timeout=5)
    assert isinstance(fault, CertificateRefusedError)
    assert "alert" in fault.message


def test_a_server_without_http2(tmp_path: Path, material: Material) -> None:
    credentials = Credentials(server_name=SERVICE, ca=material.service.certificate_pem)
    with tls_server(tmp_path, material, client_ca=b"", newest=ssl.TLSVersion.TLSv1_3) as port:
        fault = find_fault(Endpoint("127.0.0.1", port), credentials, timeout=5)
    assert isinstance(fault, TlsError)
    assert "but not HTTP/2" in fault.message


def strange_server(folder: Path, old: bytes, new: bytes) -> Path:
    """Write a self-signed certificate with some changed bytes, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
    der = made.sign(key, SHA256()).public_bytes(Encoding.DER)
    assert old in der
    pem = ssl.DER_cert_to_PEM_cert(der.replace(old, new))
    written = folder / "strange.pem"
    written.write_bytes(pem.encode() + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return written


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09", "is malformed"),
        (b"\x0c\x08somebody", b"\x14\x08some\xe9ody", r"\(with unreadable names\) was not issued by"),
    ],
    ids=["version", "Latin 1"],
)
def test_a_malformed_certificate_is_not_trusted(
    tmp_path: Path, material: Material, old: bytes, new: bytes, message: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(strange_server(tmp_path, old, new))
    credentials = Credentials(server_name=SERVICE, ca=material.service.certificate_pem)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError), context.wrap_socket(connection, server_side=True) as wrapped:
                wrapped.recv(1)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            fault = find_fault(Endpoint("127.0.0.1", server.getsockname()[1]), credentials, timeout=5)
        finally:
            thread.join()
    assert isinstance(fault, ServiceUntrustedError)
    assert re.search(message, fault.message)


def test_a_connection_that_breaks(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    def receive(*_: object) -> bytes:
        raise OSError(errno.EHOSTUNREACH, "No route to host")

    credentials = Credentials(server_name=SERVICE, ca=material.service.certificate_pem)
    with listener(None) as port:
        monkeypatch.setattr(socket.socket, "recv", receive)
        fault = find_fault(Endpoint("127.0.0.1", port), credentials, timeout=5)
    assert isinstance(fault, UnreachableError)
    assert fault.message == f"The connection to 127.0.0.1:{port} failed: No route to host."


def test_nobody_listens(connect: Connect) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with pytest.raises(
            UnreachableError, match=f"Connecting to 127.0.0.1:{port} failed: Connection refused"
        ) as caught:
            connect(port, timeout=0.5)
    assert caught.value.code == "client.unreachable"
    assert caught.value.exit_status == 4


def test_a_peer_that_hangs_up(connect: Connect) -> None:
    with listener(b"") as port, pytest.raises(UnreachableError, match="closed the connection without a TLS answer"):
        connect(port, timeout=0.5)


def test_a_peer_that_speaks_something_else(connect: Connect) -> None:
    with (
        listener(b"SSH-2.0-OpenSSH_9.2\r\n") as port,
        pytest.raises(TlsError, match=r"The TLS handshake with .* failed: "),
    ):
        connect(port, timeout=5)


def test_a_peer_that_says_nothing(material: Material) -> None:
    credentials = Credentials(server_name=SERVICE, ca=material.service.certificate_pem)
    with listener(None) as port:
        fault = find_fault(Endpoint("127.0.0.1", port), credentials, timeout=0.2)
    assert isinstance(fault, UnreachableError)
    assert "did not answer within 0.2 s" in fault.message


def test_a_host_without_an_address(material: Material) -> None:
    credentials = Credentials(server_name=SERVICE, ca=material.service.certificate_pem)
    fault = find_fault(Endpoint("nowhere.invalid", 1), credentials, timeout=5)
    assert isinstance(fault, UnreachableError)
    assert "nowhere.invalid cannot be resolved" in fault.message


def test_a_service_that_comes_up_late_is_waited_for(serve: Serve, connect: Connect) -> None:
    behaviour = Behaviour()
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        late = threading.Timer(0.3, serve, (behaviour,), {"port": port})
        late.start()
        channel = connect(port, timeout=30)
        late.join()
    assert channel.find_fault() is None


def test_what_is_closed_stays_closed(serve: Serve, connect: Connect, pictures: Any) -> None:
    channel = connect(serve(Behaviour()))
    channel.close()
    with pytest.raises(ValueError, match="closed channel"):
        Predictor([channel]).predict("toy", {"x": pictures})


def test_options_replace_ours(serve: Serve, connect: Connect, pictures: Any) -> None:
    channel = connect(serve(Behaviour()), options=[("grpc.max_receive_message_length", 10)])
    with pytest.raises(ServiceFailedError, match="RESOURCE_EXHAUSTED"):
        Predictor([channel]).predict("toy", {"x": pictures})
