from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.codes import SealserveCode
from sealserve.pki.authority import Authority
from sealserve.pki.certificate import (
    CertificateMissingError,
    CertificateNotYetValidError,
    CertifiedKey,
    KeyMismatchError,
    check_certificate,
    check_key,
    describe,
    parse_chain,
)
from sealserve.pki.codes import PkiCode
from sealserve.secret import SecretBytes

NAME = "grpc.tf-serving.service.com"


@pytest.fixture(scope="module")
def leaf(service: Authority, now: datetime) -> CertifiedKey:
    return service.issue_server([NAME], now=now)


def test_a_certificate_is_valid_from_five_minutes_before_to_ninety_days_after(
    leaf: CertifiedKey, now: datetime
) -> None:
    for moment in (now - timedelta(minutes=5), now, now + timedelta(days=90)):
        check_certificate(leaf.chain_pem, moment)


def test_an_expired_certificate_is_one_clear_error(leaf: CertifiedKey, now: datetime) -> None:
    with raises(PkiCode.CERTIFICATE_EXPIRED) as caught:
        check_certificate(leaf.chain_pem, now + timedelta(days=91), source="client.pem")
    assert caught.value.code == "certificate.expired"
    assert caught.value.exit_status == 3
    assert str(caught.value) == (
        "client.pem (CN=grpc.tf-serving.service.com,O=sealserve (simulated)) expired on 2027-02-21 12:00 UTC "
        "(the time is 2027-02-22 12:00 UTC). Run `sealserve certs renew`, then build and ship a new release."
    )


def test_a_certificate_of_the_future_points_at_the_clock(leaf: CertifiedKey, now: datetime) -> None:
    with pytest.raises(
        CertificateNotYetValidError,
        match=r"the certificate \(CN=grpc\.tf-serving\.service\.com,O=sealserve \(simulated\)\) is not "
        r"valid before 2026-11-23 11:55 UTC \(the time is 2026-11-22 12:00 UTC\)",
    ) as caught:
        check_certificate(leaf.chain_pem, now - timedelta(days=1))
    assert caught.value.code == "certificate.not-yet-valid"


def test_each_certificate_of_a_chain_is_checked(leaf: CertifiedKey, service: Authority, now: datetime) -> None:
    chain = service.issue_server([NAME], now=now, days=3650).chain_pem + leaf.chain_pem
    with raises(PkiCode.CERTIFICATE_EXPIRED):
        check_certificate(chain, now + timedelta(days=91))


@pytest.mark.parametrize(
    "pem", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\xff\x00"]
)
def test_what_is_no_certificate_is_named(pem: bytes) -> None:
    with raises(PkiCode.CERTIFICATE_UNREADABLE, match=r"x\.pem does not contain a readable PEM certificate") as caught:
        parse_chain(pem, source="x.pem")
    assert caught.value.code == "certificate.unreadable"


def test_a_key_of_another_certificate_is_refused(leaf: CertifiedKey, service: Authority, now: datetime) -> None:
    other = service.issue_server([NAME], now=now)
    with pytest.raises(
        KeyMismatchError,
        match=r"The private key does not match the certificate "
        r"\(CN=grpc\.tf-serving\.service\.com,O=sealserve \(simulated\)\)",
    ) as caught:
        check_key(other.key_pem, leaf.chain_pem)
    assert caught.value.code == "certificate.key-mismatch"


def test_what_is_no_key_is_named_and_not_shown(leaf: CertifiedKey) -> None:
    broken = leaf.key_pem.reveal().replace(b"MI", b"XX")
    with raises(
        PkiCode.CERTIFICATE_KEY_UNREADABLE,
        match="The private key of the certificate cannot be read: expected an unencrypted PEM key",
    ) as caught:
        check_key(SecretBytes(broken), leaf.chain_pem)
    assert caught.value.code == "certificate.key-unreadable"
    assert broken[40:60].decode() not in str(caught.value) + str(caught.value.__cause__)


def test_a_certified_key_survives_the_disk_with_a_private_key_file(leaf: CertifiedKey, tmp_path: Path) -> None:
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    leaf.write(certificate=certificate, key=key)
    assert CertifiedKey.read(certificate=certificate, key=key) == leaf
    assert key.stat().st_mode & 0o777 == 0o600
    assert "BEGIN" not in repr(leaf.key_pem)


def test_neither_file_is_replaced_if_either_cannot_be_written(leaf: CertifiedKey, tmp_path: Path) -> None:
    certificate = tmp_path / "tls.crt"
    with raises(SealserveCode.FILE_UNWRITABLE):
        leaf.write(certificate=certificate, key=tmp_path / "none" / "tls.key")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_key_file_is_named(leaf: CertifiedKey, tmp_path: Path) -> None:
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    leaf.write(certificate=certificate, key=key)
    key.unlink()
    with pytest.raises(CertificateMissingError, match=r"The file .*client\.key does not exist") as caught:
        CertifiedKey.read(certificate=certificate, key=key)
    assert caught.value.code == "certificate.missing"


def test_describe_says_what_certs_show_prints(leaf: CertifiedKey, broker: Authority, now: datetime) -> None:
    (info,) = describe(leaf.chain_pem)
    assert info.names == (NAME,)
    assert info.addresses == ()
    assert info.subject == "CN=grpc.tf-serving.service.com,O=sealserve (simulated)"
    assert info.issuer == "CN=sealserve service authority (simulated),O=sealserve (simulated)"
    assert info.purposes == ("server",)
    assert (info.authority, info.simulated, info.key) == (False, True, "secp256r1")
    assert info.not_after == now + timedelta(days=90)
    assert len(info.fingerprint) == 64
    (authority,) = describe(broker.certificate_pem)
    assert authority.permitted == ("attestation.service.com", "127.0.0.1/32")
    assert (authority.authority, authority.key) == (True, "secp384r1")


def test_a_real_deployment_does_not_say_simulated(users: Authority, now: datetime) -> None:
    (info,) = describe(users.issue_client("client.tf-serving.service.com", now=now).chain_pem)
    assert not info.simulated
    assert info.purposes == ("client",)
