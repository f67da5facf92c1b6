from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.harness.errors import raises
from tests.unit.client.conftest import SERVICE, Material

from sealserve.client.codes import ClientCode
from sealserve.client.credentials import Credentials, Endpoint, parse_endpoint, printable
from sealserve.pki.certificate import KeyMismatchError
from sealserve.pki.codes import PkiCode
from sealserve.secret import SecretBytes


@pytest.mark.parametrize(
    ("target", "endpoint", "text"),
    [
        ("127.0.0.1:8500", Endpoint("127.0.0.1", 8500), "127.0.0.1:8500"),
        ("a.example.com:443", Endpoint("a.example.com", 443), "a.example.com:443"),
        ("a_b:1", Endpoint("a_b", 1), "a_b:1"),
        ("[0::1]:8500", Endpoint("::1", 8500), "[::1]:8500"),
    ],
)
def test_addresses(target: str, endpoint: Endpoint, text: str) -> None:
    assert parse_endpoint(target) == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize(
    "target",
    [
        "",
        "host",
        "host:",
        ":1",
        "host:0",
        "host:65536",
        "host:x",
        "::1:8500",
        "[x]:1",
        "unix:/a:1",
        "a b:1",
        "a..b:1",
        f"{'x' * 64}.com:1",
        f"{'a.' * 127}com:1",
        "a.:1",
        "-a:1",
    ],
)
def test_what_is_no_address(target: str) -> None:
    with raises(ClientCode.TARGET, match="The address is invalid: expected HOST:PORT") as caught:
        parse_endpoint(target)
    assert caught.value.code == "client.target"


def test_one_way_needs_no_certificate(material: Material) -> None:
    credentials = Credentials(server_name=SERVICE, ca=material.service.certificate_pem)
    credentials.check_dates(datetime.now(UTC))
    assert credentials.chain() == ()


def test_no_key_or_certificate_shows_in_a_representation(material: Material) -> None:
    credentials = Credentials(
        server_name=SERVICE,
        ca=material.service.certificate_pem,
        certificate=material.client.chain_pem,
        key=material.client.key_pem,
    )
    assert "BEGIN" not in repr(credentials)


def test_a_certificate_and_its_key_come_together(material: Material) -> None:
    ca = material.service.certificate_pem
    with raises(ClientCode.CREDENTIALS, match="got a certificate, but not its key") as caught:
        Credentials(server_name=SERVICE, ca=ca, certificate=material.client.chain_pem)
    assert caught.value.code == "client.credentials"
    with raises(ClientCode.CREDENTIALS, match="got a key, but not its certificate"):
        Credentials(server_name=SERVICE, ca=ca, key=material.client.key_pem)
    with pytest.raises(KeyMismatchError, match="The client certificate"):
        Credentials(server_name=SERVICE, ca=ca, certificate=material.client.chain_pem, key=material.stranger.key_pem)


def test_what_is_no_pem_is_refused(material: Material) -> None:
    with raises(PkiCode.CERTIFICATE_UNREADABLE, match="The CA certificate"):
        Credentials(server_name=SERVICE, ca=b"nothing")
    with raises(PkiCode.CERTIFICATE_KEY_UNREADABLE, match="The client certificate"):
        Credentials(
            server_name=SERVICE,
            ca=material.service.certificate_pem,
            certificate=material.client.chain_pem,
            key=SecretBytes(b"nothing"),
        )


def test_a_key_that_grpc_cannot_use_is_refused(material: Material) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .sign(key, None)
        .public_bytes(Encoding.PEM)
    )
    with raises(ClientCode.CREDENTIALS, match="expected an elliptic-curve or RSA key"):
        Credentials(
            server_name=SERVICE,
            ca=material.service.certificate_pem,
            certificate=certificate,
            key=SecretBytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
        )


@pytest.mark.parametrize("name", ["", "a b", "-", "a\n", "a..b", "x" * 64])
def test_a_service_name_is_a_name(material: Material, name: str) -> None:
    with raises(ClientCode.CREDENTIALS, match="The service name is invalid: expected a DNS name"):
        Credentials(server_name=name, ca=material.service.certificate_pem)


def test_an_expired_client_certificate_is_found_before_connecting(material: Material) -> None:
    credentials = Credentials(
        server_name=SERVICE,
        ca=material.service.certificate_pem,
        certificate=material.expired_client.chain_pem,
        key=material.expired_client.key_pem,
    )
    with raises(PkiCode.CERTIFICATE_EXPIRED, match=r"The client certificate .* expired on 20"):
        credentials.check_dates(datetime.now(UTC))


def test_what_a_peer_wrote_is_made_fit_for_a_message() -> None:
    assert printable("a\nb\x1b[31m") == "a b?[31m"
    assert printable("refused\r\n\t [[{{node x}}]]\n") == "refused [[{{node x}}]]"
    assert printable(" " * 300) == ""
    assert printable("x" * 400, 10) == "x" * 10 + "..."
