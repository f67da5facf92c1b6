import stat
from pathlib import Path

import pytest
from cryptography import x509
from tests.harness.workspaces import Site, make_site

from sealserve.atomic_file import OutputExistsError
from sealserve.deployment import TlsMode
from sealserve.operations import certificates
from sealserve.operations.certificates import TlsModeError
from sealserve.pki.authority import AuthorityMissingError
from sealserve.pki.certificate import CertificateMissingError


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_three_authorities_and_the_certificates_of_broker_and_user(site: Site) -> None:
    made = certificates.create_certificates(site.workspace, site.deployment, now=site.now)

    assert [item.role for item in made] == [
        "broker authority", "service authority", "users authority", "broker", "user"
    ]  # fmt: skip
    found = {item.role: item for item in made}
    assert found["broker"].info.names == ("attestation.service.com",)
    assert [str(address) for address in found["broker"].info.addresses] == ["127.0.0.1"]
    assert found["user"].info.names == ("client.tf-serving.service.com",)
    assert found["service authority"].info.permitted == ("grpc.tf-serving.service.com",)
    assert all("simulated" in item.info.issuer for item in made)
    owner, user = site.workspace.owner, site.workspace.user
    for key in (owner.broker_tls / "broker.key", user.key, *owner.authorities.rglob("*.key")):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600, key
    assert user.service_ca.read_bytes() == (owner.authorities / "service" / "ca.pem").read_bytes()
    assert not list(user.root.rglob("*ca.key"))


def test_one_way_tls_needs_no_certificate_of_the_users(tmp_path: Path) -> None:
    site = make_site(tmp_path, service={"tls": "one-way"})
    made = certificates.create_certificates(site.workspace, site.deployment, now=site.now)
    assert "user" not in [item.role for item in made]
    assert not site.workspace.user.certificate.exists()


def test_authorities_are_never_made_twice(site: Site) -> None:
    site.certify()
    before = files(site.workspace.root)
    with pytest.raises(OutputExistsError, match=r"There is a broker authority already, in .*/broker\.") as caught:
        certificates.create_certificates(site.workspace, site.deployment, now=site.now)
    assert caught.value.code == "file.exists"
    assert "certs renew" in (caught.value.hint or "")
    assert files(site.workspace.root) == before


def test_one_authority_that_is_left_keeps_the_others_from_being_made(site: Site) -> None:
    (site.workspace.owner.authorities / "users").mkdir()
    with pytest.raises(OutputExistsError, match="There is a users authority already"):
        certificates.create_certificates(site.workspace, site.deployment, now=site.now)
    assert [folder.name for folder in site.workspace.owner.authorities.iterdir()] == ["users"]


def test_renewed_certificates_are_fresh_and_from_the_same_authorities(site: Site) -> None:
    site.certify()
    before = files(site.workspace.root)
    certificates.renew_certificates(site.workspace, site.deployment, now=site.now)
    after = files(site.workspace.root)
    assert before.keys() == after.keys()
    changed = {name for name, content in after.items() if before[name] != content}
    assert changed == {
        "owner/broker-tls/broker.pem",
        "owner/broker-tls/broker.key",
        "user/client.pem",
        "user/client.key",
    }


def test_nothing_is_renewed_without_authorities(site: Site) -> None:
    with pytest.raises(AuthorityMissingError) as caught:
        certificates.renew_certificates(site.workspace, site.deployment, now=site.now)
    assert caught.value.code == "authority.missing"
    assert "broker" in caught.value.message
    assert list(certificates.show_certificates(site.workspace)) == []


def test_the_mode_asked_for_is_that_of_the_deployment(site: Site) -> None:
    certificates.check_mode(site.deployment, TlsMode.TWO_WAY)
    with pytest.raises(TlsModeError, match=r"says service\.tls = 'two-way', not 'one-way'") as caught:
        certificates.check_mode(site.deployment, TlsMode.ONE_WAY)
    assert caught.value.code == "certs.tls-mode"
    assert caught.value.hint == "Run `sealserve certs two-way`, or change service.tls."


def test_the_broker_has_no_certificate_before_it_is_made(site: Site) -> None:
    with pytest.raises(CertificateMissingError, match=r"broker-tls/broker\.(pem|key)") as caught:
        certificates.broker_certificate(site.workspace)
    assert caught.value.code == "certificate.missing"
    site.certify()
    assert b"BEGIN CERTIFICATE" in certificates.broker_certificate(site.workspace).chain_pem
    authority = x509.load_pem_x509_certificate(certificates.broker_authority_pem(site.workspace))
    assert "broker" in authority.subject.rfc4514_string().lower()


def test_each_release_gets_tls_settings_with_a_key_that_is_written_nowhere(site: Site) -> None:
    site.certify()
    before = files(site.workspace.root)
    first = certificates.fresh_ssl_config(site.workspace, site.deployment, now=site.now)
    second = certificates.fresh_ssl_config(site.workspace, site.deployment, now=site.now)
    assert first.server_key != second.server_key
    assert first.client_verify
    assert first.custom_ca == (site.workspace.owner.authorities / "users" / "ca.pem").read_bytes()
    assert files(site.workspace.root) == before


def test_one_way_tls_settings_ask_for_no_certificate(tmp_path: Path) -> None:
    site = make_site(tmp_path, service={"tls": "one-way"})
    site.certify()
    made = certificates.fresh_ssl_config(site.workspace, site.deployment, now=site.now)
    assert (made.custom_ca, made.client_verify) == (None, False)
