import ipaddress
import stat
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from tests.harness.errors import raises

from sealserve.atomic_file import OutputExistsError
from sealserve.codes import SealserveCode
from sealserve.pki.authority import Authority, AuthorityKind, AuthorityMissingError, split_names
from sealserve.pki.certificate import describe, extension
from sealserve.pki.codes import PkiCode

BROKER = "attestation.service.com"
SERVICE = "grpc.tf-serving.service.com"
LOOPBACK = ipaddress.ip_address("127.0.0.1")


def _certificate(authority: Authority) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.certificate_pem)


def test_only_the_service_authority_signs_another_authority(
    broker: Authority, service: Authority, users: Authority
) -> None:
    for authority, length in ((broker, 0), (service, 1), (users, 0)):
        basic = _certificate(authority).extensions.get_extension_for_class(x509.BasicConstraints)
        assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, length)
        assert authority.may_sign_authorities is (length == 1)


def test_an_authority_signs_certificates_only(service: Authority) -> None:
    certificate = _certificate(service)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature


def test_a_leaf_signs_handshakes_only(service: Authority, now: datetime) -> None:
    certificate = x509.load_pem_x509_certificate(service.issue_server([SERVICE], now=now).chain_pem)
    basic = extension(certificate, x509.BasicConstraints)
    usage = extension(certificate, x509.KeyUsage)
    assert basic is not None
    assert not basic.ca
    assert usage is not None
    assert usage.digital_signature
    assert not usage.key_cert_sign


@pytest.mark.parametrize(("kind", "critical"), [("broker", False), ("service", True), ("users", True)])
def test_only_the_brokers_name_constraints_are_not_critical(kind: str, critical: bool, now: datetime) -> None:
    authority = Authority.create(AuthorityKind(kind), names=[BROKER], simulated=False, now=now)
    constraints = _certificate(authority).extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical is critical


def test_an_authority_for_addresses_only_excludes_every_dns_name(now: datetime) -> None:
    authority = Authority.create(AuthorityKind.BROKER, names=[], addresses=[LOOPBACK], simulated=False, now=now)
    constraints = extension(_certificate(authority), x509.NameConstraints)
    assert constraints is not None
    assert constraints.excluded_subtrees == [x509.DNSName("")]
    (info,) = describe(authority.issue_server([], [LOOPBACK], now=now).chain_pem)
    assert (info.subject, info.addresses) == ("O=sealserve", (LOOPBACK,))


def test_a_name_too_long_for_a_common_name_is_an_alternative_name_only(now: datetime) -> None:
    name = "a" * 60 + ".example.com"
    authority = Authority.create(AuthorityKind.SERVICE, names=[name], simulated=False, now=now)
    (info,) = describe(authority.issue_server([name], now=now).chain_pem)
    assert (info.subject, info.names) == ("O=sealserve", (name,))


def test_save_and_load_give_the_same_authority(broker: Authority, tmp_path: Path) -> None:
    broker.save(tmp_path / "broker")
    assert stat.S_IMODE((tmp_path / "broker").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "broker" / "ca.key").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broker"]
    loaded = Authority.load(tmp_path / "broker")
    assert loaded == broker
    assert (loaded.kind, loaded.simulated) == (AuthorityKind.BROKER, True)


def test_an_authoritys_key_is_never_overwritten(broker: Authority, service: Authority, tmp_path: Path) -> None:
    broker.save(tmp_path / "broker")
    with pytest.raises(OutputExistsError, match=r"The output .*broker already exists"):
        service.save(tmp_path / "broker")
    assert Authority.load(tmp_path / "broker") == broker
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broker"]


def test_saving_where_nothing_can_be_written_leaves_nothing(
    broker: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sealserve.pki.authority.write_file", full)
    with raises(SealserveCode.FILE_DISK_FULL):
        broker.save(tmp_path / "missing" / "broker")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["ca.pem", "ca.key"])
def test_a_missing_authority_says_how_to_make_one(broker: Authority, tmp_path: Path, missing: str) -> None:
    broker.save(tmp_path / "broker")
    (tmp_path / "broker" / missing).unlink()
    with pytest.raises(
        AuthorityMissingError,
        match=r"The folder .*broker does not contain a certificate authority \(ca\.pem and ca\.key\)",
    ) as caught:
        Authority.load(tmp_path / "broker")
    assert caught.value.code == "authority.missing"


def test_someone_elses_certificate_is_no_authority(broker: Authority, now: datetime, tmp_path: Path) -> None:
    broker.save(tmp_path / "broker")
    leaf = broker.issue_server([BROKER], now=now)
    leaf.write(certificate=tmp_path / "broker" / "ca.pem", key=tmp_path / "broker" / "ca.key")
    with raises(
        PkiCode.AUTHORITY_UNREADABLE,
        match=r"ca\.pem is not a certificate authority of sealserve: its common name is "
        r"'attestation\.service\.com'",
    ) as caught:
        Authority.load(tmp_path / "broker")
    assert caught.value.code == "authority.unreadable"


def test_a_damaged_authority_is_unreadable(broker: Authority, tmp_path: Path) -> None:
    broker.save(tmp_path / "broker")
    (tmp_path / "broker" / "ca.pem").write_bytes(b"")
    with raises(PkiCode.CERTIFICATE_UNREADABLE, match=r"ca\.pem does not contain a readable PEM certificate"):
        Authority.load(tmp_path / "broker")


def test_servers_and_clients_have_authorities_of_their_own(service: Authority, users: Authority, now: datetime) -> None:
    with raises(PkiCode.AUTHORITY_WRONG_PURPOSE, match="The service CA signs only certificates of servers") as caught:
        service.issue_client(SERVICE, now=now)
    assert caught.value.code == "authority.wrong-purpose"
    with raises(PkiCode.AUTHORITY_WRONG_PURPOSE, match="The users CA signs only certificates of clients"):
        users.issue_server(["client.tf-serving.service.com"], now=now)


def test_names_outside_the_constraints_are_refused_before_any_peer_would(broker: Authority, now: datetime) -> None:
    with raises(PkiCode.AUTHORITY_NAME_NOT_PERMITTED) as caught:
        broker.issue_server([BROKER, "evilattestation.service.com"], [ipaddress.ip_address("10.0.0.1")], now=now)
    assert caught.value.code == "authority.name-not-permitted"
    assert caught.value.message == (
        "The broker CA is not permitted to sign for evilattestation.service.com, 10.0.0.1: "
        "its name constraints permit only attestation.service.com, 127.0.0.1/32."
    )


def test_names_below_a_permitted_name_are_permitted(broker: Authority, now: datetime) -> None:
    (info,) = describe(broker.issue_server([f"one.{BROKER}"], now=now).chain_pem)
    assert info.names == (f"one.{BROKER}",)


@pytest.mark.parametrize(
    "name", ["", "UPPER.example", "*.example", "a b", "https://example", "a..b", "-a", "ü.example"]
)
def test_what_is_no_dns_name_is_refused(name: str, now: datetime) -> None:
    with raises(
        PkiCode.AUTHORITY_INVALID_NAME, match="The DNS name is invalid: expected a lower-case DNS name, got"
    ) as caught:
        Authority.create(AuthorityKind.BROKER, names=[name], simulated=False, now=now)
    assert caught.value.code == "authority.invalid-name"


@pytest.mark.parametrize("kind", [AuthorityKind.SERVICE, AuthorityKind.USERS])
def test_only_the_brokers_authority_signs_addresses(kind: AuthorityKind, now: datetime) -> None:
    with raises(
        PkiCode.AUTHORITY_INVALID_NAME,
        match=rf"The {kind} CA can sign only for DNS names, but these IP addresses were given: 127\.0\.0\.1",
    ):
        Authority.create(kind, names=[SERVICE], addresses=[LOOPBACK], simulated=False, now=now)


def test_a_certificate_for_nothing_is_refused(broker: Authority, now: datetime) -> None:
    with raises(PkiCode.AUTHORITY_INVALID_NAME, match="at least one DNS name or IP address"):
        broker.issue_server([], now=now)


def test_an_expired_authority_signs_nothing(now: datetime) -> None:
    authority = Authority.create(AuthorityKind.BROKER, names=[BROKER], simulated=False, now=now, days=1)
    with raises(
        PkiCode.CERTIFICATE_EXPIRED,
        match=r"the certificate of the broker CA \(CN=sealserve broker authority,O=sealserve\) expired "
        r"on 2026-11-24 12:00 UTC \(the time is 2026-11-25 12:00 UTC\)",
    ):
        authority.issue_server([BROKER], now=now + timedelta(days=2))


def test_a_leaf_ends_no_later_than_its_authority(now: datetime) -> None:
    authority = Authority.create(AuthorityKind.BROKER, names=[BROKER], simulated=False, now=now, days=30)
    (info,) = describe(authority.issue_server([BROKER], now=now).chain_pem)
    assert info.not_after == now + timedelta(days=30)


def test_each_certificate_has_a_key_of_its_own(service: Authority, now: datetime) -> None:
    first, second = (service.issue_server([SERVICE], now=now) for _ in range(2))
    assert first.key_pem != second.key_pem


def test_no_representation_shows_a_key(service: Authority, now: datetime) -> None:
    shown = repr(service) + repr(service.issue_server([SERVICE], now=now))
    assert "PRIVATE KEY" not in shown
    assert service.key_pem.reveal().decode().splitlines()[1] not in shown


def test_names_and_addresses_are_told_apart() -> None:
    names, addresses = split_names(["a.example", "127.0.0.1", "::1", "a.example", "127.0.0.1"])
    assert names == ("a.example",)
    assert addresses == (LOOPBACK, ipaddress.ip_address("::1"))
