import ipaddress
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from tests.harness.errors import raises
from tests.harness.mbedtls_certificates import as_mbedtls

from sealserve.broker.openssl_settings import openssl_environment
from sealserve.broker.tls import (
    HandshakeError,
    PeerGoneError,
    PeerTimeoutError,
    TlsSession,
    _admit,
    sends_session_tickets,
    server_context,
)
from sealserve.errors import SealserveError
from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.certificate import CertifiedKey, KeyMismatchError
from sealserve.pki.codes import PkiCode
from sealserve.secret import SecretBytes

SAMPLES = Path(__file__).parents[2] / "conformance" / "ra-tls"
PATIENT, SHORT = 30.0, 0.05


def _identity() -> CertifiedKey:
    now = datetime.now(UTC)
    address = ipaddress.ip_address("127.0.0.1")
    authority = Authority.create(
        AuthorityKind.BROKER, names=["broker.test"], addresses=[address], simulated=True, now=now
    )
    return authority.issue_server(["broker.test"], [address], now=now)


def _client_certificate(
    *, issuer: str = "enclave", ends: timedelta = timedelta(days=1)
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP384R1())
    now = datetime.now(UTC)
    certificate = x509.CertificateBuilder(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "enclave")]),
        key.public_key(),
        1,
        now - timedelta(days=2),
        now + ends,
    ).sign(key, hashes.SHA256())
    return certificate, key


def _client_context(version: int, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    context.use_certificate(certificate)
    context.use_privatekey(key)
    return context


@dataclass(slots=True)
class Ends:
    """A connected pair: a server session, and a client that runs in a separate thread."""

    session: TlsSession
    client: socket.socket
    threads: list[threading.Thread] = field(default_factory=list)

    def act(self, work: Callable[[socket.socket], None]) -> None:
        thread = threading.Thread(target=work, args=(self.client,))
        thread.start()
        self.threads.append(thread)


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENT)
    made = Ends(TlsSession(server_context(_identity()), ours), theirs)
    yield made
    ours.close()
    for thread in made.threads:
        thread.join()
    theirs.close()


def _connect(context: SSL.Context, stream: socket.socket) -> SSL.Connection:
    stream.setblocking(True)
    tls = SSL.Connection(context, stream)
    tls.set_connect_state()
    tls.do_handshake()
    return tls


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("ends_in", [timedelta(days=1), timedelta(days=-1)])
def test_a_self_signed_certificate_is_admitted_whatever_its_dates(ends: Ends, version: int, ends_in: timedelta) -> None:
    certificate, key = _client_certificate(ends=ends_in)
    got: list[bytes] = []

    def talk(stream: socket.socket) -> None:
        tls = _connect(_client_context(version, certificate, key), stream)
        tls.send(b"hello")
        got.append(tls.recv(100))
        with pytest.raises(SSL.ZeroReturnError):
            tls.recv(100)
        stream.close()

    ends.act(talk)
    shown = ends.session.handshake(first_byte_seconds=PATIENT, seconds=PATIENT)
    assert shown is not None
    assert x509.load_der_x509_certificate(shown) == certificate
    assert ends.session.receive(seconds=PATIENT) == b"hello"
    ends.session.send(b"good day", seconds=PATIENT)
    ends.session.finish(seconds=PATIENT)
    ends.threads[0].join()
    assert got == [b"good day"]


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL X509 objects:DeprecationWarning")  # `cryptography` refuses it
@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_a_certificate_with_null_parameters_passes_the_handshake_unchanged(ends: Ends, version: int) -> None:
    """Gramine 1.4 and 1.5 present such a certificate, which `cryptography` alone cannot parse."""
    certificate, key = _client_certificate()
    faulty = as_mbedtls(certificate, key)
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    context.use_certificate(crypto.load_certificate(crypto.FILETYPE_ASN1, faulty))
    context.use_privatekey(key)

    def connect(stream: socket.socket) -> None:
        _connect(context, stream)

    ends.act(connect)
    shown = ends.session.handshake(first_byte_seconds=PATIENT, seconds=PATIENT)
    ends.threads[0].join()
    ends.client.close()

    assert shown == faulty


def _failing_handshake(ends: Ends, work: Callable[[socket.socket], object]) -> SealserveError:
    def quietly(stream: socket.socket) -> None:
        try:
            work(stream)
        except (SSL.Error, OSError):
            pass
        finally:
            stream.close()

    ends.act(quietly)
    with pytest.raises(SealserveError) as caught:
        ends.session.handshake(first_byte_seconds=PATIENT, seconds=PATIENT)
    ends.session.finish(seconds=PATIENT)
    return caught.value


def test_a_client_without_a_certificate_is_refused(ends: Ends) -> None:
    error = _failing_handshake(ends, lambda stream: _connect(SSL.Context(SSL.TLS_CLIENT_METHOD), stream))
    assert isinstance(error, HandshakeError)
    assert "peer did not return a certificate" in error.message
    assert error.code == "broker.handshake"


def test_a_certificate_by_somebody_else_is_refused(ends: Ends) -> None:
    context = _client_context(SSL.TLS1_3_VERSION, *_client_certificate(issuer="somebody else"))
    error = _failing_handshake(ends, lambda stream: _connect(context, stream))
    assert isinstance(error, HandshakeError)
    assert "certificate verify failed" in error.message


def _rsa_identity() -> CertifiedKey:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker.test")]), datetime.now(UTC)
    certificate = x509.CertificateBuilder(
        name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1)
    ).sign(key, hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return CertifiedKey(chain_pem=certificate.public_bytes(serialization.Encoding.PEM), key_pem=SecretBytes(pem))


@pytest.mark.parametrize(
    ("suite", "agreed"),
    [
        (b"ECDHE-RSA-AES256-GCM-SHA384", True),
        (b"ECDHE-RSA-AES128-GCM-SHA256", True),
        (b"ECDHE-RSA-CHACHA20-POLY1305", True),
        (b"AES256-GCM-SHA384", False),  # RSA key exchange
        (b"AES128-SHA", False),
        (b"ECDHE-RSA-AES256-SHA384", False),  # CBC
        (b"ECDHE-RSA-AES128-SHA", False),
    ],
)
def test_tls_1_2_has_forward_secrecy_whatever_the_certificate(suite: bytes, agreed: bool) -> None:
    client = _client_context(SSL.TLS1_2_VERSION, *_client_certificate())
    client.set_cipher_list(suite)
    here, there = socket.socketpair()
    with here, there, ThreadPoolExecutor(1) as pool:
        session = TlsSession(server_context(_rsa_identity()), here)
        shaking = pool.submit(session.handshake, first_byte_seconds=PATIENT, seconds=PATIENT)
        if agreed:
            assert _connect(client, there).get_cipher_name() == suite.decode()
            shaking.result()
        else:
            with pytest.raises(SSL.Error):
                _connect(client, there)
            with pytest.raises(HandshakeError, match="no shared cipher"):
                shaking.result()


def test_old_tls_is_refused(ends: Ends) -> None:
    context = _client_context(SSL.TLS1_1_VERSION, *_client_certificate())
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    error = _failing_handshake(ends, lambda stream: _connect(context, stream))
    assert isinstance(error, HandshakeError | PeerGoneError)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\x16\x03\x01\xff\xff" + bytes(100)])
def test_garbage_is_refused(ends: Ends, garbage: bytes) -> None:
    error = _failing_handshake(ends, lambda stream: stream.sendall(garbage))
    assert error.code in {"broker.handshake", "broker.peer-gone"}


def test_a_peer_that_goes_at_once_is_gone(ends: Ends) -> None:
    error = _failing_handshake(ends, lambda _: None)
    assert isinstance(error, PeerGoneError)
    assert error.message == "The peer closed the connection before it could complete the TLS handshake."
    assert error.code == "broker.peer-gone"


def test_a_silent_peer_is_too_slow(ends: Ends) -> None:
    with pytest.raises(
        PeerTimeoutError, match="The peer exceeded the time limit: it did not send its first byte in time"
    ) as caught:
        ends.session.handshake(first_byte_seconds=SHORT, seconds=PATIENT)
    assert caught.value.code == "broker.peer-timeout"
    ends.session.finish(seconds=SHORT)


def test_half_a_handshake_is_too_slow(ends: Ends) -> None:
    ends.client.sendall(b"\x16\x03\x01\x01\x00")
    with pytest.raises(
        PeerTimeoutError, match="The peer exceeded the time limit: it did not complete the TLS handshake in time"
    ):
        ends.session.handshake(first_byte_seconds=PATIENT, seconds=SHORT)


def test_a_session_without_a_request_is_too_slow(ends: Ends) -> None:
    context = _client_context(SSL.TLS1_3_VERSION, *_client_certificate())
    over = threading.Event()

    def wait(stream: socket.socket) -> None:
        _connect(context, stream)
        over.wait(PATIENT)

    ends.act(wait)
    ends.session.handshake(first_byte_seconds=PATIENT, seconds=PATIENT)
    with pytest.raises(PeerTimeoutError, match="The peer exceeded the time limit: it did not send its request in time"):
        ends.session.receive(seconds=SHORT)
    over.set()


def test_a_certificate_and_another_key_are_refused() -> None:
    identity = _identity()
    with pytest.raises(KeyMismatchError):
        server_context(replace(identity, key_pem=_identity().key_pem))


def test_a_key_of_another_kind_is_refused() -> None:
    key, now = ed25519.Ed25519PrivateKey.generate(), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(1)).sign(key, None)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain = certificate.public_bytes(serialization.Encoding.PEM)
    with raises(
        PkiCode.CERTIFICATE_KEY_UNREADABLE,
        match="The broker's private key has an unsupported type: expected an elliptic-curve or RSA key",
    ):
        server_context(CertifiedKey(key_pem=SecretBytes(pem), chain_pem=chain))


@pytest.mark.parametrize(
    "sample", ["sample_client_cert_1.9.der", "sample_client_cert_1.4.der", "sample_client_cert_old12.der"]
)
def test_what_gramine_shows_is_admitted(sample: str) -> None:
    certificate = crypto.load_certificate(crypto.FILETYPE_ASN1, (SAMPLES / sample).read_bytes())
    with pytest.raises(crypto.X509StoreContextError) as caught:
        crypto.X509StoreContext(crypto.X509Store(), certificate).verify_certificate()
    error, depth = caught.value.errors[:2]
    connection = SSL.Connection(SSL.Context(SSL.TLS_SERVER_METHOD), None)
    assert _admit(connection, certificate, error, depth, 0)
    assert not _admit(connection, certificate, error, 1, 0)
    assert not _admit(connection, certificate, 20, 0, 0)  # issuer unknown: not self-signed


_TICKETS = """
import sys
from sealserve.broker.tls import sends_session_tickets, server_context
from sealserve.pki.certificate import CertifiedKey
from pathlib import Path
identity = CertifiedKey.read(certificate=Path(sys.argv[1]), key=Path(sys.argv[2]))
print(sends_session_tickets(server_context(identity)))
"""


def test_the_configuration_file_turns_session_tickets_off(tmp_path: Path) -> None:
    identity = _identity()
    certificate, key = tmp_path / "broker.pem", tmp_path / "broker.key"
    identity.write(certificate=certificate, key=key)
    bare = {name: value for name, value in os.environ.items() if name != "OPENSSL_CONF"}
    answers = []
    for environment in (bare, {**bare, **openssl_environment(tmp_path)}):
        command = [sys.executable, "-c", _TICKETS, str(certificate), str(key)]
        answers.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert answers == ["True\n", "False\n"]


def test_the_self_check_says_what_this_process_does() -> None:
    assert sends_session_tickets(server_context(_identity())) is ("OPENSSL_CONF" not in os.environ)
