import stat

import pytest
from tests.harness.errors import raises
from tests.harness.workspaces import Site

from sealserve.broker.codes import BrokerCode
from sealserve.owner.codes import OwnerCode
from sealserve.owner.identity import IdentityLostError
from sealserve.owner.keys import read_owner_key
from sealserve.owner.owner import Owner


def files(site: Site) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in site.workspace.root.rglob("*") if path.is_file()}


def test_the_signing_keys_are_created_once_and_the_public_key_is_the_hosts(site: Site) -> None:
    first = Owner.create(site.workspace).index_signer()
    folder = site.workspace.owner
    for path in (folder.index_signing_key, folder.audit_signing_key, folder.token_signing_key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    site.workspace.host.owner_key.unlink()
    second = Owner.create(site.workspace).index_signer()
    assert first.private_bytes_raw() == second.private_bytes_raw()
    assert read_owner_key(site.workspace.host.owner_key) == first.public_key()
    assert b"PRIVATE" not in site.workspace.host.owner_key.read_bytes()


def test_what_was_never_created_is_not_created_by_reading(site: Site) -> None:
    owner = Owner.open(site.workspace)
    before = files(site)
    for read in (owner.index_signer, owner.audit_signer, owner.public_key):
        with raises(OwnerCode.OWNER_KEY_UNREADABLE, match="cannot be read: No such file"):
            read()
    owner.publish_key()
    assert len(owner.audit_keys()) == 1
    with owner.database() as database, database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM audit").scalar() == 0
    with raises(BrokerCode.KEYSTORE_MASTER_KEY_MISSING, match=r"master\.key does not exist"), owner.vault():
        pass
    assert files(site) == before


def test_nothing_is_written_to_a_database_that_was_never_created(site: Site) -> None:
    with Owner.open(site.workspace).database() as database:  # noqa: SIM117  # the error must come from the write
        with raises(BrokerCode.DATABASE, match="readonly"), database.write() as connection:
            connection.exec_driver_sql("DELETE FROM audit")


def test_without_the_hosts_folder_the_signing_key_gives_the_public_key(site: Site) -> None:
    owner = Owner.create(site.workspace)
    published = site.workspace.host.owner_key.read_bytes()
    site.workspace.host.owner_key.unlink()
    assert owner.public_key() == owner.index_signer().public_key()
    assert not site.workspace.host.owner_key.exists()
    owner.publish_key()
    assert site.workspace.host.owner_key.read_bytes() == published


@pytest.mark.parametrize("evidence", ["host/owner.pub", "owner/releases/m-0123456789ab/release.json"])
def test_a_signing_key_that_was_lost_is_not_replaced(site: Site, evidence: str) -> None:
    """A new key would be another owner, whose signatures hosts reject."""
    path = site.workspace.root / evidence
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"what it signed")
    for use in (lambda: Owner.open(site.workspace).index_signer(), lambda: Owner.create(site.workspace)):
        with pytest.raises(IdentityLostError, match="The key that signs releases is missing") as caught:
            use()
        assert (caught.value.code, caught.value.exit_status) == ("owner.identity-lost", 4)
        assert "`sealserve restore`" in str(caught.value.hint)
    assert not site.workspace.owner.index_signing_key.exists()
    assert path.read_bytes() == b"what it signed"


def test_the_vault_is_created_on_request_and_private(site: Site) -> None:
    owner = Owner.open(site.workspace)
    with owner.vault(create=True) as vault:
        created = vault.keystore.create(vault.database, now=site.now)
    with owner.vault() as vault, vault.database.read() as connection:
        assert vault.keystore.load(connection, created.key_id) == created.key
    for path in (site.workspace.owner.master_key, site.workspace.owner.database):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert created.key.reveal() not in site.workspace.owner.database.read_bytes()
