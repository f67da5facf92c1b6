import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from tests.harness.errors import raises
from tests.harness.workspaces import Site, make_site

from sealserve.atomic_file import OutputExistsError
from sealserve.owner import certificates
from sealserve.owner.codes import OwnerCode
from sealserve.owner.identity import IdentityLostError
from sealserve.pki.authority import AuthorityMissingError
from sealserve.pki.certificate import CertificateMissingError, CertifiedKey, KeyMismatchError
from sealserve.terms import TlsMode


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_three_authorities_and_the_certificates_of_broker_and_user(site: Site) -> None:
    made = certificates.create_certificates(site.workspace, site.deployment, now=site.now)

    assert [item.role for item in made] == [
        "broker authority", "service authority", "users authority", "issuing authority", "broker", "user"
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
    with pytest.raises(OutputExistsError, match=r"already exist, and so do the three authorities in ") as caught:
        certificates.create_certificates(site.workspace, site.deployment, now=site.now)
    assert caught.value.code == "file.exists"
    assert "certs renew" in (caught.value.hint or "")
    assert files(site.workspace.root) == before


@pytest.mark.parametrize(
    "crash", range(3 * 3 + 2 + 1 + 1 + 2)
)  # renames: authorities, broker, service's, register, user
def test_an_interrupted_run_is_completed_and_what_it_made_is_kept(
    site: Site, monkeypatch: pytest.MonkeyPatch, crash: int
) -> None:
    renames = 0
    real = Path.rename, Path.replace

    def counted(which: int) -> Callable[[Path, Path], Path]:
        def rename(source: Path, target: Path) -> Path:
            nonlocal renames
            if renames == crash:
                raise KeyboardInterrupt
            renames += 1
            return real[which](source, target)

        return rename

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counted(0))
        patch.setattr(Path, "replace", counted(1))
        with pytest.raises(KeyboardInterrupt):
            certificates.create_certificates(site.workspace, site.deployment, now=site.now)
    before = files(site.workspace.root)

    certificates.create_certificates(site.workspace, site.deployment, now=site.now)

    after = files(site.workspace.root)
    assert {name: after[name] for name in before if "authorit" in name} == {
        name: content for name, content in before.items() if "authorit" in name
    }
    assert certificates.broker_certificate(site.workspace)
    assert CertifiedKey.read(certificate=site.workspace.user.certificate, key=site.workspace.user.key)
    with pytest.raises(OutputExistsError):
        certificates.create_certificates(site.workspace, site.deployment, now=site.now)


def test_an_authority_that_was_made_again_issues_again(site: Site) -> None:
    site.certify()
    before = files(site.workspace.root)
    shutil.rmtree(site.workspace.owner.authorities / "users")
    assert certificates.lost_authorities(site.workspace) == ["users"]
    certificates.create_certificates(site.workspace, site.deployment, now=site.now)
    assert certificates.lost_authorities(site.workspace) == []
    after = files(site.workspace.root)
    changed = {Path(name).name for name, content in after.items() if before[name] != content}
    assert changed == {"ca.pem", "ca.key", "client.pem", "client.key", "register.json"}


@pytest.mark.parametrize("kind", ["broker", "service", "users"])
def test_an_authority_that_was_lost_is_not_replaced_in_passing(site: Site, kind: str) -> None:
    site.certify()
    shutil.rmtree(site.workspace.owner.authorities / kind)
    before = files(site.workspace.root)
    with pytest.raises(IdentityLostError, match=f"The {kind} authority is missing") as caught:
        certificates.create_certificates(site.workspace, site.deployment, now=site.now, first_time=True)
    assert caught.value.code == "owner.identity-lost"
    assert files(site.workspace.root) == before


def test_an_authoritys_folder_that_holds_something_else_is_left_alone(site: Site) -> None:
    folder = site.workspace.owner.authorities / "users"
    folder.mkdir()
    (folder / "ca.pem").write_text("of another program")
    with pytest.raises(OutputExistsError, match=r"users already exists\."):
        certificates.create_certificates(site.workspace, site.deployment, now=site.now)
    assert files(folder) == {"ca.pem": b"of another program"}


@pytest.mark.parametrize("torn", ["broker", "user"])
def test_a_key_without_its_certificate_is_noticed_and_renewed(site: Site, torn: str) -> None:
    site.certify()
    user = site.workspace.user
    folder = site.workspace.owner.broker_tls
    certificate, key = {
        "broker": (folder / "broker.pem", folder / "broker.key"),
        "user": (user.certificate, user.key),
    }[torn]
    old = certificate.read_bytes()
    certificates.renew_certificates(site.workspace, site.deployment, now=site.now)
    certificate.write_bytes(old)
    with pytest.raises(KeyMismatchError, match="The private key does not match") as caught:
        CertifiedKey.read(certificate=certificate, key=key)
    assert "Run `sealserve certs renew` to issue a new key" in (caught.value.hint or "")
    certificates.renew_certificates(site.workspace, site.deployment, now=site.now)
    assert CertifiedKey.read(certificate=certificate, key=key)


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
        "owner/users/register.json",
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
    with raises(OwnerCode.CERTS_TLS_MODE, match=r"expected service\.tls = 'one-way' .* got 'two-way'") as caught:
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
