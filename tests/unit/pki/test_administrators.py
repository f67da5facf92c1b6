from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.harness.errors import raises

from sealserve.pki.administrators import AdministratorAuthority, AdministratorTrust
from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.certificate import CertificateNotYetValidError, CertifiedKey, KeyMismatchError, parse_chain
from sealserve.pki.codes import PkiCode
from sealserve.regular_file import InputFileMissingError
from sealserve.terms import AdministratorRole

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
OPERATOR = "sealserve://administrator/operator/alice"


@pytest.fixture
def authority() -> AdministratorAuthority:
    return AdministratorAuthority.create(simulated=True, now=NOW)


def trust(
    authority: AdministratorAuthority, folder: Path, revoked: dict[int, datetime] | None = None
) -> AdministratorTrust:
    authority.publish(folder, revoked or {}, number=1, now=NOW)
    return AdministratorTrust.read(folder)


def der(identity: CertifiedKey) -> bytes:
    return parse_chain(identity.chain_pem)[0].public_bytes(serialization.Encoding.DER)


def forged(
    authority: AdministratorAuthority,
    names: Sequence[x509.GeneralName],
    *,
    purposes: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.CLIENT_AUTH,),
    ca: bool = False,
) -> bytes:
    """Return a certificate that the authority itself would never sign, with its signature."""
    signer: Any = serialization.load_pem_private_key(authority.key_pem.reveal(), password=None)
    builder = x509.CertificateBuilder(
        issuer_name=authority.certificate.subject,
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")]),
        public_key=ec.generate_private_key(ec.SECP256R1()).public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=NOW,
        not_valid_after=NOW + timedelta(days=1),
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(purposes)), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
    return builder.sign(signer, hashes.SHA384()).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("role", AdministratorRole)
def test_an_issued_certificate_names_its_administrator(
    authority: AdministratorAuthority, tmp_path: Path, role: AdministratorRole
) -> None:
    issued = authority.issue("alice-2", role, now=NOW, days=30)
    found = trust(authority, tmp_path).identify(der(issued), now=NOW)
    assert (found.name, found.role, found.not_after) == ("alice-2", role, NOW + timedelta(days=30))


def test_the_authority_is_stored_and_loaded_again(authority: AdministratorAuthority, tmp_path: Path) -> None:
    authority.save(tmp_path / "authority")
    assert (tmp_path / "authority" / "ca.key").stat().st_mode & 0o777 == 0o600
    loaded = AdministratorAuthority.load(tmp_path / "authority")
    assert loaded.certificate == authority.certificate
    assert "PRIVATE" not in repr(loaded)
    AdministratorAuthority.create(simulated=True, now=NOW).save(tmp_path / "other")
    (tmp_path / "other" / "ca.key").replace(tmp_path / "authority" / "ca.key")
    with pytest.raises(KeyMismatchError):
        AdministratorAuthority.load(tmp_path / "authority")


@pytest.mark.parametrize(
    "name", ["", "Alice", "a/b", "../viewer", "a" * 33, "-a", "a-", "a b", "ä", "a\n", "operator/x"]
)
def test_an_invalid_name_is_rejected(authority: AdministratorAuthority, name: str) -> None:
    with raises(PkiCode.ADMINISTRATOR_NAME, match="lower-case letters, digits and hyphens"):
        authority.issue(name, AdministratorRole.VIEWER, now=NOW, days=1)


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


@pytest.mark.parametrize(
    "names",
    [
        [],
        [uri(OPERATOR), uri("sealserve://administrator/viewer/alice")],
        [uri("sealserve://administrator/viewer/alice"), uri(OPERATOR)],
        [uri(OPERATOR), x509.DNSName("alice.example")],
        [x509.DNSName("sealserve")],
        [x509.RFC822Name("alice@example.com")],
        [uri("sealserve://administrator/owner/alice")],
        [uri("sealserve://administrator/operator/alice/viewer")],
        [uri("sealserve://administrator/operator/alice?role=viewer")],
        [uri("sealserve://administrator/operator/ALICE")],
        [uri("sealserve://administrator/operator/alice\n")],
        [uri("SEALSERVE://administrator/operator/alice")],
        [uri("sealserve://administrator//alice")],
        [uri("sealserve://administrator/operator/")],
        [uri("sealserve://administrator/operator/" + "a" * 33)],
    ],
)
def test_a_certificate_needs_exactly_one_exact_name(
    authority: AdministratorAuthority, tmp_path: Path, names: Sequence[x509.GeneralName]
) -> None:
    trusted = trust(authority, tmp_path)
    assert trusted.identify(forged(authority, [uri(OPERATOR)]), now=NOW).role is AdministratorRole.OPERATOR
    with raises(PkiCode.ADMINISTRATOR_CERTIFICATE, match="exactly one name"):
        trusted.identify(forged(authority, names), now=NOW)


@pytest.mark.parametrize(
    ("purposes", "ca"),
    [
        ([], False),
        ([ExtendedKeyUsageOID.SERVER_AUTH], False),
        ([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH], False),
        ([ExtendedKeyUsageOID.CLIENT_AUTH], True),
    ],
)
def test_a_certificate_is_only_for_clients(
    authority: AdministratorAuthority, tmp_path: Path, purposes: Sequence[x509.ObjectIdentifier], ca: bool
) -> None:
    with raises(PkiCode.ADMINISTRATOR_CERTIFICATE, match="client authentication"):
        trust(authority, tmp_path).identify(forged(authority, [uri(OPERATOR)], purposes=purposes, ca=ca), now=NOW)


def test_another_authority_is_rejected_also_with_the_same_name(
    authority: AdministratorAuthority, tmp_path: Path
) -> None:
    trusted = trust(authority, tmp_path)
    other = AdministratorAuthority.create(simulated=True, now=NOW)
    users = Authority.create(AuthorityKind.USERS, names=("example.com",), simulated=True, now=NOW)
    self_signed = other.certificate.public_bytes(serialization.Encoding.DER)
    foreign = (
        der(other.issue("alice", AdministratorRole.OPERATOR, now=NOW, days=1)),
        der(users.issue_client("alice.example.com", now=NOW)),
        self_signed,
        b"",
        b"\x30\x03\x02\x01\x01",
    )
    for certificate in foreign:
        with raises(PkiCode.ADMINISTRATOR_CERTIFICATE, match="did not sign it"):
            trusted.identify(certificate, now=NOW)


def test_the_dates_are_checked_for_each_request(authority: AdministratorAuthority, tmp_path: Path) -> None:
    trusted = trust(authority, tmp_path)
    issued = der(authority.issue("alice", AdministratorRole.VIEWER, now=NOW, days=30))
    with raises(PkiCode.CERTIFICATE_EXPIRED, match="administrator's certificate"):
        trusted.identify(issued, now=NOW + timedelta(days=31))
    with pytest.raises(CertificateNotYetValidError):
        trusted.identify(issued, now=NOW - timedelta(days=1))
    with raises(PkiCode.CERTIFICATE_EXPIRED, match="authority"):
        trusted.identify(issued, now=NOW + timedelta(days=3651))


def test_a_revoked_certificate_is_rejected(authority: AdministratorAuthority, tmp_path: Path) -> None:
    issued = der(authority.issue("alice", AdministratorRole.VIEWER, now=NOW, days=30))
    serial = x509.load_der_x509_certificate(issued).serial_number
    with raises(PkiCode.ADMINISTRATOR_REVOKED, match="alice is revoked"):
        trust(authority, tmp_path, {serial: NOW}).identify(issued, now=NOW)


def test_the_revocation_list_must_exist_and_verify(authority: AdministratorAuthority, tmp_path: Path) -> None:
    trust(authority, tmp_path)
    path = tmp_path / "revoked.pem"
    genuine = path.read_bytes()
    other = AdministratorAuthority.create(simulated=True, now=NOW)
    (tmp_path / "other").mkdir()
    other.publish(tmp_path / "other", {}, number=1, now=NOW)
    for content in ((tmp_path / "other" / "revoked.pem").read_bytes(), b"", genuine[:-80], b"-----BEGIN"):
        path.write_bytes(content)
        with raises(PkiCode.ADMINISTRATOR_REVOCATION_LIST, match="revoked.pem is invalid"):
            AdministratorTrust.read(tmp_path)
    path.unlink()
    with pytest.raises(InputFileMissingError):
        AdministratorTrust.read(tmp_path)


def test_the_authority_cannot_sign_for_servers(authority: AdministratorAuthority) -> None:
    constraints = authority.certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    excluded = [str(subtree.value) for subtree in constraints.value.excluded_subtrees or ()]
    assert excluded == ["", "0.0.0.0/0", "::/0"]
    usage = authority.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
