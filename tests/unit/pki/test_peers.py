"""Real peers accept permitted certificates of the CAs and reject certificates that the CAs must not sign.

The peers are OpenSSL's command line, Python's ssl (OpenSSL), and gRPC (BoringSSL). Certificates are made for the real
time, because a handshake cannot use a different time.
"""

import ipaddress
import shutil
import ssl
import subprocess
from collections.abc import Callable
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.certificate import CertifiedKey, IPAddress
from sealserve.pki.issuing import create_issuing, load_key
from sealserve.pki.signing import private_pem
from sealserve.secret import SecretBytes

BROKER = "attestation.service.com"
SERVICE = "grpc.tf-serving.service.com"
CLIENT = "client.tf-serving.service.com"
LOOPBACK = ipaddress.ip_address("127.0.0.1")
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def broker() -> Authority:
    return Authority.create(AuthorityKind.BROKER, names=[BROKER], addresses=[LOOPBACK], simulated=True, now=NOW)


@pytest.fixture(scope="module")
def service() -> Authority:
    return Authority.create(AuthorityKind.SERVICE, names=[SERVICE], simulated=True, now=NOW)


@pytest.fixture(scope="module")
def users() -> Authority:
    return Authority.create(AuthorityKind.USERS, names=[CLIENT], simulated=True, now=NOW)


def _rogue(
    authority: Authority | CertifiedKey,
    *,
    names: tuple[str, ...] = (),
    addresses: tuple[IPAddress, ...] = (),
    purpose: x509.ObjectIdentifier = AuthorityKind.SERVICE.purpose,
    signs_others: bool = False,
) -> CertifiedKey:
    """Sign with a stolen CA key a certificate that the CA itself refuses to sign."""
    issuer_pem = authority.certificate_pem if isinstance(authority, Authority) else authority.chain_pem
    certificate = x509.load_pem_x509_certificate(issuer_pem)
    signer = serialization.load_pem_private_key(authority.key_pem.reveal(), password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    signed = (
        x509.CertificateBuilder(
            issuer_name=certificate.subject,
            subject_name=x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "rogue")]),
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=NOW - timedelta(minutes=1),
            not_valid_after=NOW + timedelta(days=1),
        )
        .add_extension(x509.BasicConstraints(ca=signs_others, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if signs_others:
        usage = x509.load_pem_x509_certificate(issuer_pem).extensions.get_extension_for_class(x509.KeyUsage)
        signed = signed.add_extension(usage.value, critical=True)
    if alternatives := [*map(x509.DNSName, names), *map(x509.IPAddress, addresses)]:
        signed = signed.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    leaf = signed.sign(signer, hashes.SHA384())
    return CertifiedKey(key_pem=SecretBytes(private), chain_pem=leaf.public_bytes(encoding))


def _handshake(folder: Path, server: CertifiedKey, authority: Authority, name: str) -> None:
    """Verify ``server`` in memory with an ssl client of the standard library, strict as in Python 3.13 and later."""
    server.write(certificate=folder / "server.pem", key=folder / "server.key")
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(folder / "server.pem", folder / "server.key")
    connecting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    connecting.verify_flags |= ssl.VERIFY_X509_STRICT
    connecting.load_verify_locations(cadata=authority.certificate_pem.decode())
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = connecting.wrap_bio(to_client, to_server, server_hostname=name)
    other = listening.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (one, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert one.version() == "TLSv1.3"


def test_python_accepts_the_brokers_name_and_address(broker: Authority, tmp_path: Path) -> None:
    server = broker.issue_server([BROKER], [LOOPBACK], now=NOW)
    _handshake(tmp_path, server, broker, BROKER)
    _handshake(tmp_path, server, broker, "127.0.0.1")


def test_python_refuses_a_server_of_another_authority(broker: Authority, service: Authority, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        _handshake(tmp_path, service.issue_server([SERVICE], now=NOW), broker, SERVICE)


@pytest.mark.parametrize("kind", [AuthorityKind.BROKER, AuthorityKind.SERVICE])
def test_python_applies_name_constraints_critical_or_not(kind: AuthorityKind, tmp_path: Path) -> None:
    authority = Authority.create(kind, names=[BROKER], simulated=True, now=NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        _handshake(tmp_path, _rogue(authority, names=("bank.example",)), authority, "bank.example")


OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="no openssl program: `apt install openssl`")


def _openssl_verify(folder: Path, leaf: bytes, authority: Authority, purpose: str, *, untrusted: bytes = b"") -> str:
    (folder / "between.pem").write_bytes(untrusted or leaf)
    (folder / "leaf.pem").write_bytes(leaf)
    (folder / "ca.pem").write_bytes(authority.certificate_pem)
    arguments = f"verify -x509_strict -CAfile ca.pem -untrusted between.pem -purpose {purpose} leaf.pem".split()
    done = subprocess.run([OPENSSL or "openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@needs_openssl
def test_openssl_accepts_each_authoritys_certificates(
    broker: Authority, service: Authority, users: Authority, tmp_path: Path
) -> None:
    server = broker.issue_server([BROKER], [LOOPBACK], now=NOW)
    assert _openssl_verify(tmp_path, server.chain_pem, broker, "sslserver") == "leaf.pem: OK\n"
    server = service.issue_server([SERVICE], now=NOW)
    assert _openssl_verify(tmp_path, server.chain_pem, service, "sslserver") == "leaf.pem: OK\n"
    client = users.issue_client(CLIENT, now=NOW)
    assert _openssl_verify(tmp_path, client.chain_pem, users, "sslclient") == "leaf.pem: OK\n"
    assert "unsuitable certificate purpose" in _openssl_verify(tmp_path, client.chain_pem, users, "sslserver")


@needs_openssl
@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (lambda service: _rogue(service, names=("bank.example",)), "permitted subtree violation"),
        (lambda service: _rogue(service, addresses=(LOOPBACK,)), "excluded subtree violation"),
        (
            lambda service: _rogue(service, names=(SERVICE,), purpose=AuthorityKind.USERS.purpose),
            "unsuitable certificate purpose",
        ),
    ],
)
def test_openssl_refuses_what_an_authority_may_not_sign(
    service: Authority, tmp_path: Path, forge: Callable[[Authority], CertifiedKey], reason: str
) -> None:
    said = _openssl_verify(tmp_path, forge(service).chain_pem, service, "sslserver")
    assert reason in said


@needs_openssl
def test_openssl_refuses_an_authority_below_ours(broker: Authority, service: Authority, tmp_path: Path) -> None:
    between = _rogue(broker, signs_others=True)
    leaf = _rogue(between, names=(BROKER,))
    said = _openssl_verify(tmp_path, leaf.chain_pem, broker, "sslserver", untrusted=between.chain_pem)
    assert "path length constraint exceeded" in said
    # The service's CA signs the issuing CA, which must not sign another CA.
    stolen = _issuing(service)
    between = _rogue(stolen, signs_others=True)
    leaf = _rogue(between, names=(SERVICE,))
    chain = between.chain_pem + stolen.chain_pem
    said = _openssl_verify(tmp_path, leaf.chain_pem, service, "sslserver", untrusted=chain)
    assert "path length constraint exceeded" in said


def _issuing(service: Authority) -> CertifiedKey:
    certificate, key = create_issuing(service, [SERVICE], now=NOW)
    return CertifiedKey(key_pem=private_pem(load_key(key)), chain_pem=certificate.pem)


def _issued(service: Authority) -> CertifiedKey:
    certificate, key = create_issuing(service, [SERVICE], now=NOW)
    tls_key = ec.generate_private_key(ec.SECP256R1())
    public = tls_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    chain = certificate.issue(public, key=key, now=NOW, until=NOW + timedelta(days=1))
    return CertifiedKey(key_pem=private_pem(tls_key), chain_pem=chain)


def test_python_accepts_a_certificate_of_the_issuing_authority(service: Authority, tmp_path: Path) -> None:
    _handshake(tmp_path, _issued(service), service, SERVICE)


@needs_openssl
@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (lambda issuing: _rogue(issuing, names=("bank.example",)), "permitted subtree violation"),
        (lambda issuing: _rogue(issuing, addresses=(LOOPBACK,)), "excluded subtree violation"),
        (
            lambda issuing: _rogue(issuing, names=(SERVICE,), purpose=AuthorityKind.USERS.purpose),
            "unsuitable certificate purpose",
        ),
    ],
)
def test_openssl_refuses_what_a_stolen_issuing_authority_signs(
    service: Authority, tmp_path: Path, forge: Callable[[CertifiedKey], CertifiedKey], reason: str
) -> None:
    issuing = _issuing(service)
    said = _openssl_verify(tmp_path, forge(issuing).chain_pem, service, "sslserver", untrusted=issuing.chain_pem)
    assert reason in said


@needs_openssl
def test_openssl_refuses_every_name_of_an_authority_for_addresses(tmp_path: Path) -> None:
    authority = Authority.create(AuthorityKind.BROKER, names=[], addresses=[LOOPBACK], simulated=True, now=NOW)
    accepted = authority.issue_server([], [LOOPBACK], now=NOW)
    assert _openssl_verify(tmp_path, accepted.chain_pem, authority, "sslserver") == "leaf.pem: OK\n"
    said = _openssl_verify(tmp_path, _rogue(authority, names=("bank.example",)).chain_pem, authority, "sslserver")
    assert "excluded subtree violation" in said


class _Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        del handler_call_details
        return grpc.unary_unary_rpc_method_handler(_echo)


def _echo(request: bytes, context: grpc.ServicerContext) -> bytes:
    return request + b" to " + b", ".join(context.peer_identities() or [b"nobody"])


def _call(server: CertifiedKey, authority: Authority, name: str, *, client: CertifiedKey, users: Authority) -> bytes:
    """Send one request over two-way TLS on the loopback address, with ``name`` as the server name."""
    pool = futures.ThreadPoolExecutor(max_workers=1)
    listening = grpc.server(pool, handlers=[_Echo()])
    port = listening.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials(
            [(server.key_pem.reveal(), server.chain_pem)],
            root_certificates=users.certificate_pem,
            require_client_auth=True,
        ),
    )
    listening.start()
    credentials = grpc.ssl_channel_credentials(authority.certificate_pem, client.key_pem.reveal(), client.chain_pem)
    options = [] if name == "127.0.0.1" else [("grpc.ssl_target_name_override", name)]
    try:
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
            ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/echo/Echo")
            return ask(b"hello", timeout=20)
    finally:
        listening.stop(None).wait()
        pool.shutdown()


def test_grpc_speaks_two_way_tls_with_them(service: Authority, users: Authority) -> None:
    server, client = service.issue_server([SERVICE], now=NOW), users.issue_client(CLIENT, now=NOW)
    answer = _call(server, service, SERVICE, client=client, users=users)
    assert answer == b"hello to client.tf-serving.service.com"


def test_grpc_accepts_a_certificate_of_the_issuing_authority(service: Authority, users: Authority) -> None:
    answer = _call(_issued(service), service, SERVICE, client=users.issue_client(CLIENT, now=NOW), users=users)
    assert answer == b"hello to client.tf-serving.service.com"


@pytest.mark.parametrize("kind", [AuthorityKind.BROKER, AuthorityKind.SERVICE])
def test_grpc_applies_a_servers_name_constraints(kind: AuthorityKind, users: Authority) -> None:
    authority = Authority.create(kind, names=[SERVICE], simulated=True, now=NOW)
    client = users.issue_client(CLIENT, now=NOW)
    with pytest.raises(grpc.RpcError) as caught:
        _call(_rogue(authority, names=("bank.example",)), authority, "bank.example", client=client, users=users)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_grpc_applies_a_clients_name_constraints_and_purpose(service: Authority, users: Authority) -> None:
    server = service.issue_server([SERVICE], now=NOW)
    for client in (
        _rogue(users, names=("other.example",), purpose=AuthorityKind.USERS.purpose),
        _rogue(users, names=(CLIENT,), purpose=AuthorityKind.SERVICE.purpose),
        service.issue_server([SERVICE], now=NOW),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            _call(server, service, SERVICE, client=client, users=users)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
