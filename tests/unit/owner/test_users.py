"""Users with certificates of their own: added, listed, renewed, revoked."""

import shutil
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from tests.harness.errors import raises
from tests.harness.workspaces import Site, make_site

from sealserve.owner import certificates, releases, users
from sealserve.owner.codes import OwnerCode
from sealserve.owner.users import UserState
from sealserve.pki.certificate import CertificateMissingError, CertifiedKey, describe, parse_chain
from sealserve.pki.codes import PkiCode
from sealserve.terms import DEFAULT_USER


@pytest.fixture
def ready(site: Site) -> Site:
    site.certify()
    return site


def serials(site: Site) -> set[str]:
    """Return the serial numbers that a release of now revokes."""
    lists = certificates.fresh_ssl_config(site.workspace, site.deployment, now=site.now).revocation_lists
    return set() if lists is None else {f"{entry.serial_number:x}" for entry in x509.load_pem_x509_crl(lists)}


def test_a_user_has_a_certificate_of_their_own(ready: Site) -> None:
    ann = users.add(ready.workspace, ready.deployment, "ann", now=ready.now, days=10)
    assert (ann.name, ann.state, ann.revoked) == ("ann", UserState.ACTIVE, None)
    pair = users.credentials_of(ready.workspace, "ann", now=ready.now)
    info = describe(pair.chain_pem)[0]
    assert (info.names, info.serial) == (("ann.client.tf-serving.service.com",), ann.serial)
    assert timedelta(days=9) < info.not_after - ready.now <= timedelta(days=10)
    folder = ready.workspace.owner.users / "ann"
    assert stat.S_IMODE((folder / "client.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((ready.workspace.owner.users / "register.json").stat().st_mode) == 0o600
    assert [user.name for user in users.list_users(ready.workspace, now=ready.now)] == ["ann", "default"]
    later = users.list_users(ready.workspace, now=ready.now + timedelta(days=11))
    assert [user.state for user in later] == [UserState.EXPIRED, UserState.ACTIVE]
    assert serials(ready) == set()


@pytest.mark.parametrize("name", ["", "Ann", "a b", "../x", "a.b", "-a", "default", "é", "a" * 64, "a\n"])
def test_a_name_is_part_of_a_dns_name(ready: Site, name: str) -> None:
    with raises(OwnerCode.USER_NAME, match=r"The user name is invalid: expected 1 to 63"):
        users.add(ready.workspace, ready.deployment, name, now=ready.now)
    if name != DEFAULT_USER:
        with raises(OwnerCode.USER_UNKNOWN):
            users.credentials_of(ready.workspace, name, now=ready.now)


def test_a_user_exists_once_until_revoked(ready: Site) -> None:
    first = users.add(ready.workspace, ready.deployment, "ann", now=ready.now)
    with raises(OwnerCode.USER_EXISTS, match="The user ann already exists"):
        users.add(ready.workspace, ready.deployment, "ann", now=ready.now)
    users.revoke(ready.workspace, ready.deployment, "ann", now=ready.now)
    second = users.add(ready.workspace, ready.deployment, "ann", now=ready.now)
    assert second.state is UserState.ACTIVE
    assert serials(ready) == {first.serial}


def test_revoking_reaches_every_certificate_that_was_issued(ready: Site) -> None:
    first = users.add(ready.workspace, ready.deployment, "ann", now=ready.now)
    second = users.renew(ready.workspace, ready.deployment, "ann", now=ready.now)
    bob = users.add(ready.workspace, ready.deployment, "bob", now=ready.now)
    assert first.serial != second.serial
    gone = users.revoke(ready.workspace, ready.deployment, "ann", now=ready.now)
    assert (gone.state, gone.serial) == (UserState.REVOKED, second.serial)
    assert serials(ready) == {first.serial, second.serial}
    assert not (ready.workspace.owner.users / "ann").exists()
    assert users.credentials_of(ready.workspace, "bob", now=ready.now)
    for verb in (users.renew, users.revoke):
        with raises(OwnerCode.USER_UNKNOWN, match="No active user is named 'ann'; the active users are: .*bob"):
            verb(ready.workspace, ready.deployment, "ann", now=ready.now)
    # The host controls the clock of an enclave, so expired certificates stay on the list.
    later = ready.now + timedelta(days=400)
    listed = certificates.fresh_ssl_config(ready.workspace, ready.deployment, now=later).revoked
    assert len(listed) == 2
    assert bob.serial not in serials(ready)


def test_the_default_user_can_be_revoked_with_each_certificate_since_the_first(ready: Site) -> None:
    before = CertifiedKey.read(certificate=ready.workspace.user.certificate, key=ready.workspace.user.key)
    certificates.renew_certificates(ready.workspace, ready.deployment, now=ready.now)
    users.revoke(ready.workspace, ready.deployment, "default", now=ready.now)
    assert len(serials(ready)) == 2
    assert f"{parse_chain(before.chain_pem)[0].serial_number:x}" in serials(ready)
    with pytest.raises(CertificateMissingError) as caught:
        users.credentials_of(ready.workspace, "default", now=ready.now)
    assert caught.value.hint == "Issue a new certificate: `sealserve user renew default`."
    assert users.renew(ready.workspace, ready.deployment, "default", now=ready.now).state is UserState.ACTIVE


def test_a_certificate_of_an_older_version_is_listed_and_revoked(ready: Site) -> None:
    """Workspaces of earlier versions do not have a register."""
    (ready.workspace.owner.users / "register.json").unlink()
    assert [user.name for user in users.list_users(ready.workspace, now=ready.now)] == ["default"]
    users.revoke(ready.workspace, ready.deployment, "default", now=ready.now)
    assert len(serials(ready)) == 1


@pytest.mark.parametrize("key", ["kept", "lost"])
@pytest.mark.parametrize("verb", ["certs renew", "user renew", "new names"])
def test_a_certificate_of_an_older_version_that_was_replaced_is_revoked(ready: Site, verb: str, key: str) -> None:
    """Users have copies of the old files, so the certificate must not be forgotten when the file is replaced."""
    user = ready.workspace.user
    old = describe(user.certificate.read_bytes())[0].serial
    (ready.workspace.owner.users / "register.json").unlink()
    if key == "lost":
        user.key.unlink()
    if verb == "certs renew":
        certificates.renew_certificates(ready.workspace, ready.deployment, now=ready.now)
    elif verb == "user renew":
        users.renew(ready.workspace, ready.deployment, "default", now=ready.now)
    else:
        user.key.unlink(missing_ok=True)  # the certificate is issued again
        certificates.adapt_certificates(ready.workspace, ready.deployment, now=ready.now)
    new = describe(user.certificate.read_bytes())[0].serial
    (listed,) = users.list_users(ready.workspace, now=ready.now)
    assert (listed.serial, new != old) == (new, True)
    users.revoke(ready.workspace, ready.deployment, "default", now=ready.now)
    assert serials(ready) == {old, new}


def test_a_damaged_certificate_can_be_renewed(ready: Site) -> None:
    ready.workspace.user.certificate.write_text("damaged")
    with raises(PkiCode.CERTIFICATE_UNREADABLE):  # it cannot be listed, so it cannot be revoked
        users.revoke(ready.workspace, ready.deployment, "default", now=ready.now)
    assert users.renew(ready.workspace, ready.deployment, "default", now=ready.now).state is UserState.ACTIVE


def test_a_crash_leaves_a_certificate_that_can_be_revoked(ready: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CertifiedKey, "write", crash)
        with pytest.raises(KeyboardInterrupt):
            users.add(ready.workspace, ready.deployment, "ann", now=ready.now)
    with pytest.raises(CertificateMissingError) as caught:
        users.credentials_of(ready.workspace, "ann", now=ready.now)
    assert caught.value.hint == "Issue a new certificate: `sealserve user renew ann`."
    users.renew(ready.workspace, ready.deployment, "ann", now=ready.now)
    users.revoke(ready.workspace, ready.deployment, "ann", now=ready.now)
    assert len(serials(ready)) == 2


def test_a_release_of_before_accepts_who_was_revoked_since(ready: Site) -> None:
    ready.import_model()
    release = ready.build_release().folder
    assert users.revoked_since(ready.workspace, release) == []
    users.add(ready.workspace, ready.deployment, "ann", now=ready.now)
    users.revoke(ready.workspace, ready.deployment, "ann", now=ready.now)
    assert users.revoked_since(ready.workspace, release) == ["ann"]
    later = releases.build(ready.workspace, ready.deployment, now=ready.now + timedelta(seconds=2))
    assert users.revoked_since(ready.workspace, later.folder) == []


def test_a_certificate_that_the_service_would_reject_is_not_handed_out(ready: Site) -> None:
    users.add(ready.workspace, ready.deployment, "ann", now=ready.now, days=1)
    with raises(OwnerCode.USER_CERTIFICATE_OUTDATED, match="got expired"):
        users.credentials_of(ready.workspace, "ann", now=ready.now + timedelta(days=2))
    shutil.rmtree(ready.workspace.owner.authorities / "users")
    certificates.create_certificates(ready.workspace, ready.deployment, now=ready.now)
    listed = {user.name: user.state for user in users.list_users(ready.workspace, now=ready.now)}
    assert listed == {"ann": UserState.FORMER_AUTHORITY, "default": UserState.ACTIVE}
    with raises(OwnerCode.USER_CERTIFICATE_OUTDATED, match="got former-authority") as caught:
        users.credentials_of(ready.workspace, "ann", now=ready.now)
    assert caught.value.hint == "Issue a new certificate: `sealserve user renew ann`."
    users.renew(ready.workspace, ready.deployment, "ann", now=ready.now)
    assert users.credentials_of(ready.workspace, "ann", now=ready.now)


def test_a_damaged_register_is_not_replaced(ready: Site) -> None:
    register = ready.workspace.owner.users / "register.json"
    for content in ("{", "[]", '{"version": 2}', '{"version": 1, "users": {"ann": [{"serial": "../x"}]}}'):
        register.write_text(content)
        with raises(OwnerCode.USER_REGISTER_DAMAGED, match="The register of users .* is damaged"):
            users.add(ready.workspace, ready.deployment, "ann", now=ready.now)
        assert register.read_text() == content


def test_tensorflow_servings_binary_knows_no_revocation(ready: Site, tmp_path: Path) -> None:
    users.add(ready.workspace, ready.deployment, "ann", now=ready.now)
    other = make_site(tmp_path / "other", platform="sgx", server={"kind": "tensorflow-serving"}).deployment
    with raises(OwnerCode.USER_REVOCATION_UNSUPPORTED, match="does not support certificate revocation"):
        users.revoke(ready.workspace, other, "ann", now=ready.now)
    assert users.list_users(ready.workspace, now=ready.now)[0].state is UserState.ACTIVE
    users.revoke(ready.workspace, ready.deployment, "ann", now=ready.now)
    with raises(OwnerCode.USER_REVOCATION_UNSUPPORTED):  # the switch to that server would bring the user back
        certificates.fresh_ssl_config(ready.workspace, other, now=ready.now)


def test_a_new_authority_ends_the_revocations_of_the_former_one(ready: Site, tmp_path: Path) -> None:
    """It is the way out for TensorFlow Serving's binary: no release accepts a certificate of the former authority."""
    users.add(ready.workspace, ready.deployment, "ann", now=ready.now)
    users.revoke(ready.workspace, ready.deployment, "ann", now=ready.now)
    before = users.revocations(ready.workspace)
    shutil.rmtree(ready.workspace.owner.authorities / "users")
    certificates.create_certificates(ready.workspace, ready.deployment, now=ready.now)
    assert (serials(ready), before is None, users.revocations(ready.workspace)) == (set(), False, None)
    other = make_site(tmp_path / "other", platform="sgx", server={"kind": "tensorflow-serving"}).deployment
    assert certificates.fresh_ssl_config(ready.workspace, other, now=ready.now).revocation_lists is None
    bob = users.add(ready.workspace, ready.deployment, "bob", now=ready.now)
    users.revoke(ready.workspace, ready.deployment, "bob", now=ready.now)
    assert serials(ready) == {bob.serial}


def test_one_way_tls_has_no_users(tmp_path: Path) -> None:
    site = make_site(tmp_path, service={"tls": "one-way"})
    site.certify()
    for verb in (users.add, users.renew, users.revoke):
        with raises(OwnerCode.USER_ONE_WAY_TLS, match=r'expected service\.tls = "two-way", got "one-way"'):
            verb(site.workspace, site.deployment, "ann", now=site.now)
