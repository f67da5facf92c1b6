import contextlib
import io
import json
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert, update
from tests.harness.errors import Expected, raises
from tests.harness.killing import failed_at, interrupted_at, killed_at
from tests.harness.tiny_model import WEIGHTS
from tests.harness.workspaces import NAME, Site, make_site

from sealserve.atomic_file import OutputExistsError
from sealserve.broker import admin
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.keystore import KeyId
from sealserve.broker.tables import AUDIT, KEYS
from sealserve.owner import backup as backup_module
from sealserve.owner import issuing, provisioning, releases
from sealserve.owner import master_key as master_keys
from sealserve.owner.backup import back_up
from sealserve.owner.codes import OwnerCode
from sealserve.owner.owner import Owner
from sealserve.owner.restore import restore
from sealserve.owner.token_keys import create_token_key
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.release import VerifiedRelease
from sealserve.workspace import Workspace

CODES: dict[Expected, str] = {
    OwnerCode.BACKUP_FORMAT: "backup.format",
    OwnerCode.BACKUP_CONTENT: "backup.content",
    OwnerCode.BACKUP_WRONG_KEY: "backup.wrong-key",
}
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@pytest.fixture
def backup(site: Site, released: VerifiedRelease, tmp_path: Path) -> Path:
    """Give a backup of ``site``."""
    assert released.folder.parent == site.workspace.owner.releases
    path = tmp_path / "owner.backup"
    back_up(site.workspace, path, now=NOW)
    return path


@pytest.fixture
def master_key(site: Site, backup: Path, tmp_path: Path) -> Path:
    """Give the copy of the master key that an owner keeps apart."""
    assert backup.exists()
    path = tmp_path / "copy.key"
    path.touch(mode=0o600)
    path.write_bytes(site.workspace.owner.master_key.read_bytes())
    return path


@pytest.fixture
def empty(tmp_path: Path) -> Workspace:
    (tmp_path / "new").mkdir()
    return Workspace(tmp_path / "new")


def files(workspace: Workspace, *below: str) -> dict[str, tuple[bytes, int]]:
    found = {}
    for path in workspace.root.joinpath(*below).rglob("*"):
        if path.is_file() and "broker.sqlite" not in path.name:
            found[str(path.relative_to(workspace.root))] = path.read_bytes(), path.stat().st_mode & 0o777
    return found


def test_all_of_the_owners_comes_back(
    site: Site, released: VerifiedRelease, backup: Path, master_key: Path, empty: Workspace
) -> None:
    restored = restore(empty, backup, master_key=master_key)
    assert restored.created == NOW
    assert files(empty, "owner") == files(site.workspace, "owner")
    assert files(empty, "user") == files(site.workspace, "user")
    assert empty.host.owner_key.read_bytes() == site.workspace.host.owner_key.read_bytes()
    assert empty.deployment_file.read_bytes() == site.workspace.deployment_file.read_bytes()
    assert empty.owner.root.stat().st_mode & 0o777 == 0o700
    assert (
        releases.verify(empty.owner.releases / released.folder.name, Owner.open(empty).public_key()).id == released.id
    )
    with Owner.open(empty).vault() as vault, vault.database.read() as connection:
        key = vault.keystore.load(connection, KeyId(released.index.key_id))
    with Owner.open(site.workspace).vault() as vault, vault.database.read() as connection:
        assert vault.keystore.load(connection, KeyId(released.index.key_id)) == key
    assert sorted(path.name for path in empty.directory.iterdir()) == [".sealserve", "sealserve.toml"]


def test_nothing_in_it_is_readable_and_the_master_key_is_not_there(site: Site, backup: Path) -> None:
    content = backup.read_bytes()
    assert backup.stat().st_mode & 0o777 == 0o600
    key = site.workspace.owner.master_key.read_bytes()
    for secret in (key, key.hex().encode(), WEIGHTS[:16], b"PRIVATE KEY", NAME.encode(), b"owner/", b"authorities"):
        assert secret not in content
    with tarfile.open(backup) as tar:
        names = tar.getnames()
    assert names == ["backup.json", *map(str, range(1, len(names) - 1)), "list"]


def test_models_and_releases_can_be_left_out(
    site: Site, released: VerifiedRelease, tmp_path: Path, empty: Workspace
) -> None:
    back_up(site.workspace, tmp_path / "small", now=NOW, models=False, releases=False)
    restore(empty, tmp_path / "small", master_key=site.workspace.owner.master_key)
    assert list(empty.owner.models.iterdir()) == list(empty.owner.releases.iterdir()) == []
    with Owner.open(empty).vault() as vault, vault.database.read() as connection:
        assert vault.keystore.load(connection, KeyId(released.index.key_id))


def test_the_database_is_whole_while_others_write(site: Site, released: VerifiedRelease, tmp_path: Path) -> None:
    with Owner.open(site.workspace).vault() as vault, vault.database.write() as connection:
        connection.execute(insert(KEYS).values(key_id="z" * 32, wrapper="file", format=2, wrapped=b"", created=""))
        (tmp_path / "copy.sqlite").write_bytes(vault.database.snapshot())
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.sqlite")) as database:
        found = {key_id for (key_id,) in database.execute("SELECT key_id FROM keys")}
        assert found == {released.index.key_id, issuing.read_certificate(site.workspace).key_id}
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_another_master_key_does_not_open_it(backup: Path, master_key: Path, empty: Workspace) -> None:
    master_key.write_bytes(bytes(range(32)))
    with raises(OwnerCode.BACKUP_WRONG_KEY, match="made under another master key") as caught:
        restore(empty, backup, master_key=master_key)
    assert caught.value.code == "backup.wrong-key"
    master_key.chmod(0o644)
    with raises(BrokerCode.KEYSTORE_MASTER_KEY_EXPOSED):
        restore(empty, backup, master_key=master_key)
    with raises(BrokerCode.KEYSTORE_MASTER_KEY_UNREADABLE):
        restore(empty, backup, master_key=master_key.with_name("nowhere"))
    assert list(empty.directory.iterdir()) == []


def test_without_a_key_it_says_which(backup: Path, empty: Workspace) -> None:
    with raises(
        OwnerCode.BACKUP_NO_KEY, match=r"is not specified: expected --master-key, or a sealserve\.toml"
    ) as caught:
        restore(empty, backup)
    assert caught.value.code == "backup.no-key"


def test_a_master_key_under_a_passphrase_opens_it(
    ready: Site, tmp_path: Path, empty: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealserve.broker.master_key._COST", 2**14)
    passphrase = tmp_path / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text("correct horse battery staple")
    make_site(ready.directory, source=ready.directory / NAME, keystore={"passphrase_file": passphrase})
    from sealserve.secret import SecretBytes  # noqa: PLC0415

    master_keys.rotate(ready.workspace, new_passphrase=lambda: SecretBytes(passphrase.read_bytes()))
    back_up(ready.workspace, tmp_path / "backup", now=NOW)
    empty.deployment_file.write_bytes(ready.workspace.deployment_file.read_bytes())
    restore(empty, tmp_path / "backup", master_key=ready.workspace.owner.master_key)
    with Owner.open(empty).vault() as vault:
        assert vault.keystore


def test_a_workspace_that_is_there_is_not_replaced(site: Site, backup: Path, master_key: Path) -> None:
    before = files(site.workspace)
    with pytest.raises(OutputExistsError, match=r"\.sealserve already exists"):
        restore(site.workspace, backup, master_key=master_key)
    assert files(site.workspace) == before


def test_a_backup_is_not_replaced_unless_that_is_said(site: Site, backup: Path) -> None:
    before = backup.read_bytes()
    with pytest.raises(OutputExistsError):
        back_up(site.workspace, backup, now=NOW)
    assert backup.read_bytes() == before
    back_up(site.workspace, backup, now=NOW, overwrite=True)
    assert backup.read_bytes() != before


def test_there_must_be_a_workspace_without_links(tmp_path: Path, ready: Site) -> None:
    with raises(OwnerCode.BACKUP_NO_WORKSPACE, match="A backup needs an existing workspace") as caught:
        back_up(Workspace(tmp_path / "nowhere"), tmp_path / "backup", now=NOW)
    assert caught.value.code == "backup.no-workspace"
    ready.workspace.user.key.rename(tmp_path / "elsewhere.key")
    ready.workspace.user.key.symlink_to(tmp_path / "elsewhere.key")
    with raises(OwnerCode.BACKUP_NO_WORKSPACE, match=r"user/client\.key .* is a symbolic link"):
        back_up(ready.workspace, tmp_path / "backup", now=NOW)
    assert not (tmp_path / "backup").exists()


Members = list[tuple[tarfile.TarInfo, bytes]]


def rewritten(backup: Path, change: Callable[[Members], Members]) -> None:
    """Change the members of a backup."""
    with tarfile.open(backup) as tar:
        members = []
        for member in tar:
            stream = tar.extractfile(member)
            assert stream is not None
            members.append((tarfile.TarInfo(member.name), stream.read()))
    with tarfile.open(backup, "w", format=tarfile.PAX_FORMAT) as tar:
        for member, content in change(members):
            member.size = len(content) if member.type == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(content))


def renamed(members: Members, old: str, new: str) -> Members:
    return [(tarfile.TarInfo(new if member.name == old else member.name), content) for member, content in members]


def exchanged(members: Members) -> Members:
    return [members[0], (members[1][0], members[2][1]), (members[2][0], members[1][1]), *members[3:]]


def doubled(members: Members) -> Members:
    return [*members[:2], (members[2][0], members[1][1]), *members[3:]]


def shortened(members: Members) -> Members:
    """Leave the last file out."""
    return [*members[:-2], members[-1]]


def linked(members: Members) -> Members:
    link = tarfile.TarInfo("1")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return [members[0], (link, b""), *members[2:]]


def header(members: Members, **change: object) -> Members:
    content = json.dumps({**json.loads(members[0][1]), **change}).encode()
    return [(members[0][0], content), *members[1:]]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda members: members[1:], OwnerCode.BACKUP_FORMAT),
        (lambda members: [*members, members[-1]], OwnerCode.BACKUP_CONTENT),
        (lambda members: members[:-1], OwnerCode.BACKUP_CONTENT),
        (lambda members: [members[0], *members[2:]], OwnerCode.BACKUP_CONTENT),
        (lambda members: renamed(members, "1", "../1"), SealingCode.ARCHIVE_UNSAFE_PATH),
        (lambda members: renamed(members, "2", "7"), OwnerCode.BACKUP_CONTENT),
        (lambda members: header(members, version=2), OwnerCode.BACKUP_FORMAT),
        (lambda members: header(members, more=2), OwnerCode.BACKUP_FORMAT),
        (lambda members: header(members, key="AAAA"), OwnerCode.BACKUP_WRONG_KEY),
        (lambda members: header(members, key="A"), OwnerCode.BACKUP_FORMAT),
        (lambda members: header(members, created="2020-01-01T00:00:00Z"), OwnerCode.BACKUP_CONTENT),
        (lambda members: [(members[0][0], bytes(2**17)), *members[1:]], OwnerCode.BACKUP_FORMAT),
        (linked, SealingCode.ARCHIVE_UNSAFE_MEMBER),
        (doubled, OwnerCode.BACKUP_CONTENT),
        (shortened, OwnerCode.BACKUP_CONTENT),
    ],
)
def test_a_backup_that_somebody_changed_is_refused(
    backup: Path,
    master_key: Path,
    empty: Workspace,
    change: Callable[[Members], Members],
    error: Expected,
) -> None:
    rewritten(backup, change)
    with raises(error) as caught:
        restore(empty, backup, master_key=master_key)
    assert getattr(caught.value, "code", "").startswith(CODES.get(error, "archive."))
    assert list(empty.directory.iterdir()) == []


def test_files_that_changed_their_places_are_still_those_of_their_paths(
    site: Site, backup: Path, master_key: Path, empty: Workspace
) -> None:
    rewritten(backup, exchanged)
    restore(empty, backup, master_key=master_key)
    assert files(empty, "owner") == files(site.workspace, "owner")


def test_files_of_another_backup_are_refused(site: Site, backup: Path, master_key: Path, empty: Workspace) -> None:
    other = backup.with_name("other")
    back_up(site.workspace, other, now=NOW)
    with tarfile.open(other) as tar:
        stream = tar.extractfile("1")
        assert stream is not None
        theirs = stream.read()
    rewritten(backup, lambda members: [members[0], (members[1][0], theirs), *members[2:]])
    with pytest.raises(Exception, match="key") as caught:
        restore(empty, backup, master_key=master_key)
    assert getattr(caught.value, "code", None) == "sealed-file.wrong-key"
    assert list(empty.directory.iterdir()) == []


@pytest.mark.parametrize("length", [0, 100, 600, 5000, 30000, -11000])
def test_a_backup_that_was_cut_off_is_refused(backup: Path, master_key: Path, empty: Workspace, length: int) -> None:
    backup.write_bytes(backup.read_bytes()[:length])
    with raises(SealingCode.ARCHIVE_NOT_A_TAR, SealingCode.ARCHIVE_TRUNCATED, OwnerCode.BACKUP_CONTENT):
        restore(empty, backup, master_key=master_key)
    assert list(empty.directory.iterdir()) == []


@pytest.mark.parametrize("ends", [killed_at, interrupted_at])
def test_an_end_at_any_moment_leaves_a_whole_workspace_or_none(
    ends: Callable[[int, Callable[[], object]], bool], ready: Site, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    back_up(ready.workspace, backup, now=NOW)
    key = ready.workspace.owner.master_key
    step = 0
    while True:
        place = Workspace(tmp_path / f"new-{step}")
        if not ends(step, lambda place=place: restore(place, backup, master_key=key)):  # type: ignore[misc]
            break
        if place.root.exists():
            assert files(place, "owner") == files(ready.workspace, "owner")
            assert place.deployment_file.exists()
        step += 17  # each of the files takes a dozen steps
    assert step > 100
    assert files(place, "owner") == files(ready.workspace, "owner")


def test_an_error_at_any_moment_leaves_nothing(ready: Site, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    back_up(ready.workspace, backup, now=NOW)
    key = ready.workspace.owner.master_key
    place = Workspace(tmp_path / "new")
    step = 0
    while (failed := failed_at(step, lambda: restore(place, backup, master_key=key))) is not None:
        if failed:
            assert not place.directory.exists()
        else:  # what failed does not matter, as the removal of a hidden folder
            assert files(place, "owner") == files(ready.workspace, "owner")
            shutil.rmtree(place.directory)
        step += 1
    assert step > 50
    assert files(place, "owner") == files(ready.workspace, "owner")


def test_the_kept_head_is_never_newer_than_the_database(
    site: Site, released: VerifiedRelease, master_key: Path, empty: Workspace, tmp_path: Path
) -> None:
    del released
    create_token_key(site.workspace)
    provisioning.sign_log(site.workspace, now=NOW)
    back_up(site.workspace, tmp_path / "second.backup", now=NOW)
    paths = list(backup_module._paths(site.workspace, models=True, releases=True))
    assert paths.index("owner/audit/head.json") < paths.index(backup_module.DATABASE)  # it is read first
    restore(empty, tmp_path / "second.backup", master_key=master_key)
    summary, any_kept = provisioning.verify_log(empty)
    assert any_kept
    assert summary.signatures
    assert empty.owner.audit_signing_key.read_bytes() == site.workspace.owner.audit_signing_key.read_bytes()
    for path in ("token-signing-key.pem", "token-keys.json"):
        assert (empty.owner.root / path).read_bytes() == (site.workspace.owner.root / path).read_bytes()
    assert empty.owner.token_signing_key.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("released")
def test_a_backup_of_an_earlier_version_has_its_database_elsewhere(
    site: Site, master_key: Path, empty: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Database.open(site.workspace.owner.database) as database, database.write() as connection:
        connection.execute(update(AUDIT).values(changes=None, tag=None))  # earlier versions did not authenticate rows
    source = backup_module._source

    def elsewhere(workspace: Workspace, path: str) -> Path:
        return source(workspace, backup_module.DATABASE if path == "owner/broker.sqlite" else path)

    monkeypatch.setattr(backup_module, "_source", elsewhere)
    monkeypatch.setattr(
        backup_module,
        "_paths",
        lambda *_, **__: ["sealserve.toml", "owner/broker.sqlite", "owner/index-signing-key.pem"],
    )
    back_up(site.workspace, tmp_path / "old.backup", now=NOW)
    restore(empty, tmp_path / "old.backup", master_key=master_key)
    assert empty.owner.former_database.is_file()
    with Owner.open(empty).vault() as vault:
        assert admin.status(vault.database).keys == 1
    assert not empty.owner.former_database.exists()
    assert empty.owner.database.is_file()
