import os
from datetime import UTC, datetime

import pytest
from sqlalchemy import update
from tests.harness.errors import raises
from tests.harness.killing import ended_at
from tests.harness.workspaces import Site

from sealserve.broker import admin
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.head_file import kept_head
from sealserve.broker.row_authentication import TABLES
from sealserve.broker.tables import AUDIT
from sealserve.owner import provisioning, row_key
from sealserve.owner.codes import OwnerCode
from sealserve.owner.identity import IdentityLostError
from sealserve.owner.owner import Owner
from sealserve.private_file import PrivateFileExposedError
from sealserve.sealing.release import VerifiedRelease


@pytest.fixture
def allowed(ready: Site, released: VerifiedRelease) -> Site:
    provisioning.allow(ready.workspace, ready.deployment, released.folder, now=ready.now)
    return ready


def states(site: Site) -> list[str]:
    with Owner.open(site.workspace).database() as database:
        return [known.release.state for known in admin.every_release(database)]


def without_tags(site: Site) -> None:
    """Leave the database as an earlier version wrote it."""
    with Database.open(site.workspace.owner.database) as database, database.write() as connection:
        for table in TABLES:
            connection.execute(update(table).values(changed=None, tag=None))
        connection.execute(update(AUDIT).values(changes=None, tag=None))


def test_the_key_is_private_and_the_same_for_each_command(allowed: Site) -> None:
    path = allowed.workspace.owner.row_key
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(path.read_text())) == 32
    before = path.read_bytes()
    assert states(allowed) == ["active"]
    assert path.read_bytes() == before
    assert not path.with_name("row-key.next").exists()


def test_an_earlier_database_is_accepted_once(allowed: Site) -> None:
    allowed.workspace.owner.row_key.unlink()
    without_tags(allowed)
    assert states(allowed) == ["active"]  # a command that only reads upgrades the database too
    with Owner.open(allowed.workspace).database() as database:
        decisions = [row.entry.decision for row in admin.log(database)]
        assert decisions == ["issuing-rotated", "allowed", "allowed", "stated", "authenticated"]
        provisioning.verify_log(allowed.workspace)
    # The key exists now. Nothing in the database can repeat this step.
    without_tags(allowed)
    with raises(BrokerCode.DATABASE_AUTHENTICATION):
        states(allowed)


def test_a_lost_key_is_not_replaced(allowed: Site) -> None:
    allowed.workspace.owner.row_key.unlink()
    with pytest.raises(
        IdentityLostError, match="The key that authenticates the rows of the broker's database is missing"
    ):
        states(allowed)
    assert not allowed.workspace.owner.row_key.exists()


@pytest.mark.parametrize("committed", [False, True])
def test_an_interrupted_first_time_is_completed(allowed: Site, committed: bool) -> None:
    path = allowed.workspace.owner.row_key
    path.unlink()
    without_tags(allowed)

    with ended_at(row_key, "_publish" if committed else "adopt"):
        states(allowed)
    assert not path.exists()
    assert path.with_name("row-key.next").exists()
    assert states(allowed) == ["active"]
    assert path.exists()
    assert not path.with_name("row-key.next").exists()


@pytest.mark.parametrize("content", [b"", b"zz" * 32, b"ab" * 31, b"ab" * 33])
def test_a_file_with_other_content_is_refused(allowed: Site, content: bytes) -> None:
    allowed.workspace.owner.row_key.write_bytes(content)
    with pytest.raises(Exception, match="expected"):
        states(allowed)


def test_another_key_is_refused(allowed: Site) -> None:
    allowed.workspace.owner.row_key.write_bytes(b"ab" * 32)
    with raises(BrokerCode.DATABASE_AUTHENTICATION):
        states(allowed)
    allowed.workspace.owner.row_key.write_bytes(b"xy" * 32)
    with raises(OwnerCode.OWNER_KEY_UNREADABLE):
        states(allowed)
    os.chmod(allowed.workspace.owner.row_key, 0o644)  # noqa: PTH101
    with pytest.raises(PrivateFileExposedError):
        states(allowed)


def test_each_change_stores_a_head_outside_of_the_database(allowed: Site) -> None:
    owner = allowed.workspace.owner
    first = kept_head(owner.audit_head)
    assert first is not None
    assert first.seq == 4
    assert states(allowed) == ["active"]  # reading stores none
    assert kept_head(owner.audit_head) == first
    with Owner.open(allowed.workspace).database() as database:
        name = admin.every_release(database)[0].release.name
        admin.revoke(database, name, now=datetime.now(UTC))
    second = kept_head(owner.audit_head)
    assert second is not None
    assert second.seq == 5


def test_an_older_database_is_refused_by_each_command(allowed: Site) -> None:
    path = allowed.workspace.owner.database
    with Database.open(path) as database:
        older = database.snapshot()
    with Owner.open(allowed.workspace).database() as database:
        admin.revoke(database, admin.every_release(database)[0].release.name, now=datetime.now(UTC))
    for file in path.parent.iterdir():
        file.unlink()
    path.write_bytes(older)
    with raises(BrokerCode.AUDIT_TRUNCATED, match="Row 5 of the audit log is missing"):
        states(allowed)


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_owner_can_accept_the_database_again(
    allowed: Site, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    """After the loss or the theft of the key."""
    path = allowed.workspace.owner.row_key
    former = path.read_bytes()
    if interrupted:
        with monkeypatch.context() as patch:
            patch.setattr(row_key, "_publish", lambda *_: None)
            row_key.accept(allowed.workspace)
    else:
        path.unlink()
        row_key.accept(allowed.workspace)
    assert states(allowed) == ["active"]
    assert path.read_bytes() != former
    provisioning.verify_log(allowed.workspace)
    path.write_bytes(former)
    with raises(BrokerCode.DATABASE_AUTHENTICATION):
        states(allowed)


def test_a_replacement_that_was_not_committed_changes_nothing(allowed: Site) -> None:
    path = allowed.workspace.owner.row_key
    path.with_name("row-key.next").write_bytes(b"ab" * 32)
    path.with_name("row-key.next").chmod(0o600)
    assert states(allowed) == ["active"]
    assert not path.with_name("row-key.next").exists()
