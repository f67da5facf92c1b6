"""Revocation lists beside the CA certificates in ssl.cfg: a list is read completely, or the settings are rejected."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from tests.harness.errors import raises

from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.certificate import parse_chain
from sealserve.pki.codes import PkiCode
from sealserve.pki.revocation import identity, read_lists, split_lists
from sealserve.pki.ssl_config import SslConfig, parse

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
USERS = Authority.create(AuthorityKind.USERS, names=["client.service.com"], simulated=False, now=NOW)
OTHERS = Authority.create(AuthorityKind.USERS, names=["client.service.com"], simulated=False, now=NOW)
LEAF = USERS.issue_client("ann.client.service.com", now=NOW)
CERTIFICATE = parse_chain(LEAF.chain_pem)[0]
LIST = USERS.issue_revocation_list({CERTIFICATE.serial_number: NOW}, number=3, now=NOW)
AUTHORITIES = parse_chain(USERS.certificate_pem)


def settings(lists: bytes | None, custom_ca: bytes = USERS.certificate_pem) -> SslConfig:
    service = Authority.create(AuthorityKind.SERVICE, names=["service.com"], simulated=False, now=NOW)
    server = service.issue_server(["service.com"], now=NOW)
    return SslConfig(
        server_key=server.key_pem,
        server_cert=server.chain_pem,
        custom_ca=custom_ca,
        client_verify=True,
        revocation_lists=lists,
    )


def test_a_list_names_what_it_revokes() -> None:
    assert read_lists(LIST, AUTHORITIES, source="x") == {identity(CERTIFICATE)}
    crl = x509.load_pem_x509_crl(LIST)
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 3
    assert read_lists(b"", AUTHORITIES, source="x") == frozenset()


def test_settings_carry_lists_and_read_them_back() -> None:
    made = settings(LIST)
    assert made.revoked == {identity(CERTIFICATE)}
    read = parse(made.render())
    assert read == made
    assert (read.custom_ca, read.revocation_lists) == (USERS.certificate_pem, LIST)
    assert replace(read, custom_ca=USERS.certificate_pem).revoked == made.revoked
    assert parse(settings(None).render()).revoked == frozenset()


def test_a_list_whose_dates_are_over_still_revokes() -> None:
    """The host controls the clock of an enclave, so it must not be able to make a list expire."""
    old = USERS.issue_revocation_list({CERTIFICATE.serial_number: NOW}, number=1, now=NOW - timedelta(days=9000))
    assert read_lists(old, AUTHORITIES, source="x") == {identity(CERTIFICATE)}


def test_lists_between_certificates_are_found() -> None:
    windows = LIST.replace(b"\n", b"\r\n")
    for text in (LIST + USERS.certificate_pem, USERS.certificate_pem + b"# who left\n" + windows):
        certificates, lists = split_lists(text)
        assert b"CRL" not in certificates
        assert read_lists(lists, AUTHORITIES, source="x") == {identity(CERTIFICATE)}


def odd_list(*extensions: x509.ExtensionType, entry: x509.ExtensionType | None = None) -> bytes:
    """Return a list with critical extensions, signed by the users' CA."""
    revoked = x509.RevokedCertificateBuilder(7, NOW)
    if entry is not None:
        revoked = revoked.add_extension(entry, critical=True)
    builder = x509.CertificateRevocationListBuilder(AUTHORITIES[0].subject, NOW, NOW + timedelta(days=1))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    signer = USERS._signer()
    return builder.add_revoked_certificate(revoked.build()).sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)


DAMAGED = LIST.replace(b"MI", b"AA", 1)
FORGED = OTHERS.issue_revocation_list({CERTIFICATE.serial_number: NOW}, number=3, now=NOW)


@pytest.mark.parametrize(
    ("lists", "reason"),
    [
        (DAMAGED, "it cannot be parsed"),
        (FORGED, "its signature does not verify with any CA in custom_ca"),
        (LIST + FORGED, "its signature does not verify with any CA in custom_ca"),
        (odd_list(x509.DeltaCRLIndicator(2)), "it has a critical extension"),
        (
            odd_list(entry=x509.CertificateIssuer([x509.DirectoryName(AUTHORITIES[0].subject)])),
            "it has a critical extension",
        ),
        (b"  " + LIST, "it is not PEM that starts at the beginning of a line"),
        (LIST[:-30], "it is not PEM that starts at the beginning of a line"),
    ],
)  # fmt: skip
def test_a_list_that_might_revoke_less_than_it_seems_is_rejected(lists: bytes, reason: str) -> None:
    with raises(PkiCode.SSL_CONFIG_REVOCATION_LIST, match=f"A certificate revocation list in custom_ca .*: {reason}"):
        settings(lists)


def test_a_list_that_is_not_pem_is_not_overlooked_in_a_file() -> None:
    made = settings(LIST)
    text = made.render().reveal().replace(b"-----BEGIN X509 CRL", b"  -----BEGIN X509 CRL")
    with raises(PkiCode.SSL_CONFIG_REVOCATION_LIST):
        parse(text)


def test_an_authority_with_another_kind_of_key_signed_nothing() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = AUTHORITIES[0].subject
    same_name = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1, NOW, NOW + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    with raises(
        PkiCode.SSL_CONFIG_REVOCATION_LIST,
        match="A certificate revocation list in x is invalid: its signature does not verify with any CA in custom_ca",
    ):
        read_lists(LIST, [same_name], source="x")
