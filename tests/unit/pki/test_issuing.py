"""The issuing CA signs only short-lived server certificates for the names of the service."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.harness.errors import raises

from sealserve.pki.authority import Authority
from sealserve.pki.certificate import CertificateNotYetValidError, describe, extension
from sealserve.pki.codes import PkiCode
from sealserve.pki.issuing import ISSUING_DAYS, KEY_SIZE, IssuingCertificate, create_issuing, load_key
from sealserve.secret import SecretBytes

NAME = "grpc.tf-serving.service.com"
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def issuing(service: Authority, now: datetime) -> tuple[IssuingCertificate, SecretBytes]:
    return create_issuing(service, [NAME], now=now)


@pytest.fixture(scope="module")
def tls_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_the_service_authority_signs_it_with_the_same_limits(
    issuing: tuple[IssuingCertificate, SecretBytes], service: Authority, now: datetime
) -> None:
    certificate, key = issuing
    assert certificate.is_issued_by(service)
    (info,) = describe(certificate.pem)
    assert (info.authority, list(info.permitted), info.simulated) == (True, [NAME], True)
    basic = extension(certificate.certificate, x509.BasicConstraints)
    assert basic is not None
    assert basic.path_length == 0
    constraints = certificate.certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert certificate.ends == now + timedelta(days=ISSUING_DAYS)
    assert len(key) == KEY_SIZE
    assert IssuingCertificate.parse(certificate.pem) == certificate
    assert repr(key) == "SecretBytes(<32 bytes>)"


def test_a_certificate_has_the_names_of_the_service_and_a_short_life(
    issuing: tuple[IssuingCertificate, SecretBytes], tls_key: ec.EllipticCurvePrivateKey, now: datetime
) -> None:
    certificate, key = issuing
    chain = certificate.issue(spki(tls_key), key=key, now=now, until=now + HOUR)
    leaf, issuer = describe(chain)
    assert (list(leaf.names), list(leaf.addresses), leaf.authority) == ([NAME], [], False)
    assert (leaf.not_after, issuer.permitted) == (now + HOUR, (NAME,))
    first = x509.load_pem_x509_certificate(chain)
    first.verify_directly_issued_by(certificate.certificate)
    assert spki(tls_key) == first.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def test_no_certificate_outlives_its_issuer(
    issuing: tuple[IssuingCertificate, SecretBytes], tls_key: ec.EllipticCurvePrivateKey
) -> None:
    certificate, key = issuing
    late = certificate.ends - HOUR
    chain = certificate.issue(spki(tls_key), key=key, now=late, until=late + timedelta(days=7))
    assert describe(chain)[0].not_after == certificate.ends
    with raises(PkiCode.CERTIFICATE_EXPIRED):
        certificate.issue(spki(tls_key), key=key, now=certificate.ends + HOUR, until=certificate.ends + 2 * HOUR)
    with pytest.raises(CertificateNotYetValidError):
        certificate.check(datetime(2020, 1, 1, tzinfo=UTC))


def test_another_key_signs_nothing(
    issuing: tuple[IssuingCertificate, SecretBytes],
    service: Authority,
    tls_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> None:
    _, other = create_issuing(service, [NAME], now=now)
    with raises(PkiCode.AUTHORITY_KEY_MISMATCH, match="does not match"):
        issuing[0].issue(spki(tls_key), key=other, now=now, until=now + HOUR)
    for damaged in (b"", bytes(KEY_SIZE), b"\xff" * KEY_SIZE, b"\x01" * 16):
        with raises(PkiCode.AUTHORITY_KEY_MISMATCH, match="not a P-256 key"):
            load_key(SecretBytes(damaged))


def test_only_an_issuing_authority_is_accepted(service: Authority, users: Authority, now: datetime) -> None:
    leaf = service.issue_server([NAME], now=now)
    for pem in (service.certificate_pem, users.certificate_pem, leaf.chain_pem):
        with raises(PkiCode.AUTHORITY_UNREADABLE, match="not the certificate of an issuing CA"):
            IssuingCertificate.parse(pem)
    with raises(PkiCode.CERTIFICATE_UNREADABLE):
        IssuingCertificate.parse(b"")


def test_it_is_for_names_of_the_service_only(service: Authority, users: Authority, now: datetime) -> None:
    with raises(PkiCode.AUTHORITY_NAME_NOT_PERMITTED):
        create_issuing(service, ["bank.example"], now=now)
    with raises(PkiCode.AUTHORITY_INVALID_NAME):
        create_issuing(service, [], now=now)
    with raises(PkiCode.AUTHORITY_NO_INTERMEDIATE, match="must not sign another CA"):
        create_issuing(users, ["client.tf-serving.service.com"], now=now)
    with raises(PkiCode.CERTIFICATE_EXPIRED):
        create_issuing(service, [NAME], now=now + timedelta(days=4000))
