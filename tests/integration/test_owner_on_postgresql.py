"""An owner whose broker's database is on a PostgreSQL server: import, backup, restore, a second machine."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest
from tests.harness.errors import raises
from tests.harness.postgresql import Server
from tests.harness.workspaces import Site, make_site, on_server

from sealserve.attested.release_statement import ReleaseStatement
from sealserve.broker import admin, statements, stored_key
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.key_wrapper import KeyUnwrapError
from sealserve.broker.stored_key import KeyId
from sealserve.cluster import ports
from sealserve.deployment.database_url import parse_database_url
from sealserve.doctor import database_checks
from sealserve.doctor.finding import Verdict
from sealserve.owner import certificates, issuing, provisioning
from sealserve.owner.backup import back_up
from sealserve.owner.broker_database import import_database
from sealserve.owner.codes import OwnerCode
from sealserve.owner.master_key import rotate
from sealserve.owner.owner import Owner
from sealserve.owner.restore import restore
from sealserve.owner.token_rotation import rotate_recorded
from sealserve.pki.certificate import CertificateMissingError
from sealserve.pki.issuing import load_key
from sealserve.workspace import Workspace

pytestmark = pytest.mark.integration


@pytest.fixture
def fresh(tmp_path: Path) -> Site:
    """An owner without certificates and without a database."""
    made = make_site(tmp_path / "owner", target={"replicas": 1})
    Owner.create(made.workspace)
    made.import_model()
    return made


@pytest.fixture
def site(fresh: Site) -> Site:
    """An owner whose database is a file."""
    fresh.certify()
    return fresh


@pytest.fixture
def url(postgresql: Server) -> str:
    return postgresql.url(postgresql.new_database())


@pytest.fixture
def on_postgresql(fresh: Site, url: str) -> Site:
    """An owner whose database is on the server from the beginning."""
    made = on_server(fresh, url)
    made.certify()
    return made


def issues(site: Site) -> bool:
    """Return whether the database has the private key of the present issuing certificate."""
    certificate = issuing.read_certificate(site.workspace)
    with Owner.open(site.workspace).vault() as vault:
        with vault.database.read() as connection:
            stored = stored_key.find_issuing(connection, KeyId(certificate.key_id))
        with vault.keystore.decrypt(stored) as key:
            return load_key(key).public_key() == certificate.certificate.public_key()


def keys(site: Site) -> int:
    with Owner.open(site.workspace).database() as database:
        return admin.status(database).keys


def tables(url: str) -> Sequence[str]:
    with (
        psycopg.connect(url) as connection,
        connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'") as found,
    ):
        return [row[0] for row in found]


def test_a_new_workspace_keeps_its_keys_on_the_server(fresh: Site, url: str) -> None:
    site = on_server(fresh, url)
    assert keys(site) == 0
    assert tables(url) == []  # reading creates no tables
    site.certify()
    assert issues(site)
    assert keys(site) == 0
    site.build_release()
    assert keys(site) == 1
    assert not site.workspace.owner.database.exists()


def test_certificates_before_the_url_need_an_import(site: Site, url: str) -> None:
    """The issuing key is in the file: a new key on the server would not fit the certificate."""
    moved = on_server(site, url)
    with raises(OwnerCode.DATABASE_EMPTY, match=r"is empty: .*depends") as caught:
        moved.build_release()
    assert "sealserve broker import" in (caught.value.hint or "")
    import_database(moved.workspace, Owner.open(moved.workspace).audit_keys())
    assert issues(moved)
    moved.build_release()
    assert keys(moved) == 1
    provisioning.verify_log(moved.workspace)


def test_an_import_moves_the_file_to_the_server(site: Site, url: str) -> None:
    site.build_release()
    provisioning.sign_log(site.workspace, now=site.now)
    moved = on_server(site, url)
    with raises(OwnerCode.DATABASE_EMPTY, match=r"is empty: .*depends") as caught:
        keys(moved)
    assert caught.value.hint is not None
    assert "sealserve broker import" in caught.value.hint
    owner = Owner.open(moved.workspace)
    with Database.open(moved.workspace.owner.database), raises(BrokerCode.DATABASE, match="cannot be imported"):
        import_database(moved.workspace, owner.audit_keys())  # a broker still uses the file
    done = import_database(moved.workspace, owner.audit_keys())
    assert done.rows >= 1
    assert done.former.exists()
    assert not moved.workspace.owner.database.exists()
    assert keys(moved) == 1
    assert provisioning.verify_log(moved.workspace)[0].rows == done.audit_rows
    # As after an interruption between the commit and the rename: the next import completes the first one.
    done.former.rename(moved.workspace.owner.database)
    with Owner.open(moved.workspace).database() as database:  # the broker may have run meanwhile
        admin.enrol_platform(database, site.deployment.platform, "ab" * 16, label="x", now=site.now)
    assert import_database(moved.workspace, owner.audit_keys()) == done
    assert not moved.workspace.owner.database.exists()
    assert keys(moved) == 1
    # Another file is not mixed with the rows on the server.
    shutil.copy(done.former, moved.workspace.owner.database)
    with Database.open(moved.workspace.owner.database) as other, other.write() as connection:
        connection.exec_driver_sql("UPDATE keys SET key_id = 'another' WHERE format = 2")
    with raises(OwnerCode.DATABASE_IMPORT, match="is not empty"):
        import_database(moved.workspace, owner.audit_keys())
    assert moved.workspace.owner.database.exists()


def test_attested_serving_works_on_the_server(tmp_path: Path, url: str) -> None:
    site = make_site(tmp_path / "owner", target={"kind": "docker", "replicas": 1})
    site.import_model()
    site.certify()
    release = site.build_release().folder
    site.build_enclave(release)
    known = provisioning.allow(site.workspace, site.deployment, release, now=site.now)
    moved = on_server(site, url)
    first = import_database(moved.workspace, Owner.open(moved.workspace).audit_keys())
    certificates.rotate_issuing(moved.workspace, moved.deployment, now=site.now, compromised=True)
    assert issues(moved)
    with Owner.open(moved.workspace).vault() as vault:
        with vault.database.read() as connection:
            assert statements.find(connection, known.release.release_id) is not None
        rotate_recorded(moved.workspace, vault.database, compromised=False, now=site.now)
        with vault.database.read() as connection:
            signed = statements.find(connection, known.release.release_id)
    assert signed is not None
    assert len(ReleaseStatement.parse(signed.content).brokers[0].keys) == 2
    assert provisioning.verify_log(moved.workspace)[0].rows > first.audit_rows
    # An interrupted import is completed, although the rotation deleted a key.
    first.former.rename(moved.workspace.owner.database)
    assert import_database(moved.workspace, Owner.open(moved.workspace).audit_keys()) == first


def test_an_import_needs_a_server_and_a_file(fresh: Site, url: str) -> None:
    with raises(OwnerCode.DATABASE_IMPORT, match="needs a PostgreSQL database"):
        import_database(fresh.workspace, Owner.open(fresh.workspace).audit_keys())
    with raises(OwnerCode.DATABASE_IMPORT, match="no database to import"):
        import_database(on_server(fresh, url).workspace, Owner.open(fresh.workspace).audit_keys())


def test_tables_without_rows_are_an_empty_database(site: Site, url: str) -> None:  # a failed import can leave them
    site.build_release()
    moved = on_server(site, url)
    Database.connect(parse_database_url(url)).close()  # type: ignore[union-attr]
    with raises(OwnerCode.DATABASE_EMPTY, match="is empty"):
        keys(moved)
    import_database(moved.workspace, Owner.open(site.workspace).audit_keys())
    assert keys(moved) == 1
    with raises(OwnerCode.DATABASE_IMPORT, match="no database to import") as caught:
        import_database(moved.workspace, Owner.open(site.workspace).audit_keys())
    assert "imported before" in (caught.value.hint or "")


def test_a_changed_log_is_not_imported(site: Site, url: str) -> None:
    site.build_release()
    with Owner.open(site.workspace).database() as database:
        admin.enrol_platform(database, site.deployment.platform, "ab" * 16, label="x", now=site.now)
        with database.write() as connection:
            connection.exec_driver_sql("UPDATE audit SET code = 'other'")
    moved = on_server(site, url)
    with raises(BrokerCode.AUDIT_CHAIN, match="was changed"):
        import_database(moved.workspace, Owner.open(site.workspace).audit_keys())
    assert moved.workspace.owner.database.exists()


def test_a_backup_restores_into_a_file_and_into_another_server(
    on_postgresql: Site, url: str, tmp_path: Path, postgresql: Server
) -> None:
    site = on_postgresql
    site.build_release()
    with Owner.open(site.workspace).database() as database:
        admin.enrol_platform(database, site.deployment.platform, "ab" * 16, label="x", now=site.now)
    back_up(site.workspace, tmp_path / "b", now=site.now)
    elsewhere = Workspace(tmp_path / "elsewhere")
    restore(elsewhere, tmp_path / "b", master_key=site.workspace.owner.master_key)
    with Database.open(elsewhere.owner.database) as copied:
        assert admin.status(copied).keys == 1
        # The first row records the key that authenticates rows, the second one the issuing key.
        assert admin.verify_log(copied).rows == 3
    # sealserve.toml of the backup names the first server: another one gets the rows with an import.
    text = elsewhere.deployment_file.read_text(encoding="utf-8")
    elsewhere.deployment_file.write_text(text.replace(url, postgresql.url(postgresql.new_database())), encoding="utf-8")
    assert import_database(elsewhere, Owner.open(elsewhere).audit_keys()).audit_rows == 3
    assert issues(Site(elsewhere, site.deployment))


def test_a_second_machine_needs_only_the_brokers_files(on_postgresql: Site, tmp_path: Path) -> None:
    """The broker's machine has neither the key that signs releases nor the key that signs enclaves."""
    site = on_postgresql
    site.build_release()
    first, second = site.workspace.owner, Workspace(tmp_path / "second")
    second.create()
    shutil.copy(site.workspace.deployment_file, second.deployment_file)
    for path in (first.broker_tls, first.trust, site.workspace.vendor.root):
        target = second.directory / path.relative_to(site.workspace.directory)
        shutil.copytree(path, target, dirs_exist_ok=True)
    # A missing key is not created: it would not match the database.
    with raises(OwnerCode.OWNER_KEY_UNREADABLE), provisioning.open_broker(second, site.deployment):
        pass
    shutil.copy2(first.audit_signing_key, second.owner.audit_signing_key)
    with raises(OwnerCode.ROW_KEY_MISSING), provisioning.open_broker(second, site.deployment):
        pass
    shutil.copy2(first.row_key, second.owner.row_key)
    with raises(BrokerCode.KEYSTORE_MASTER_KEY_MISSING), provisioning.open_broker(second, site.deployment):
        pass
    shutil.copy2(first.master_key, second.owner.master_key)
    shutil.copy2(first.token_signing_key, second.owner.token_signing_key)
    named = site.deployment.model_copy(
        update={"broker": site.deployment.broker.model_copy(update={"instance": "second", "port": ports.find_free()})}
    )
    # The certificate of the issuing authority, whose key the server has.
    with (
        pytest.raises(CertificateMissingError, match="issuing CA") as lacking,
        provisioning.open_broker(second, named),
    ):
        pass
    assert "copy owner/issuing/" in (lacking.value.hint or "")
    shutil.copytree(first.issuing, second.owner.issuing, dirs_exist_ok=True)
    with provisioning.open_broker(second, named) as server, server:
        server.check_ready()
    assert not second.owner.index_signing_key.exists()
    assert not second.owner.enclave_signing_key.exists()
    assert not second.owner.database.exists()


def test_doctor_checks_the_server(fresh: Site, url: str, postgresql: Server) -> None:
    moved = on_server(fresh, url)
    good = database_checks.server(moved.workspace, moved.deployment.database)
    assert (good.verdict, good.found) == (Verdict.OK, f"{moved.deployment.database.parsed} answers")
    moved.certify()
    moved.build_release()
    name = url.split("/broker_")[1].split("?", maxsplit=1)[0]
    with postgresql.administer(f"broker_{name}") as connection:
        connection.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    risky = database_checks.server(moved.workspace, moved.deployment.database)
    assert risky.verdict is Verdict.NOTE
    assert "every user of the server may create objects" in risky.found
    away = on_server(make_site(moved.directory.parent / "away"), url.replace("broker_", "nowhere_"))
    missing = database_checks.server(away.workspace, away.deployment.database)
    assert missing.verdict is Verdict.MISSING
    assert "does not exist" in missing.found


def test_a_rotation_is_safe_for_a_broker_on_another_machine(on_postgresql: Site, tmp_path: Path) -> None:
    """The other machine's copy of the master key decrypts nothing, and a rotation there changes nothing."""
    site = on_postgresql
    site.build_release()
    second = Workspace(tmp_path / "second")
    second.create()
    shutil.copy(site.workspace.deployment_file, second.deployment_file)
    shutil.copy2(site.workspace.owner.master_key, second.owner.master_key)
    shutil.copy2(site.workspace.owner.row_key, second.owner.row_key)
    done = rotate(site.workspace)
    assert (done.keys, done.copy_to_others) == (2, True)  # the release key and the issuing key
    with raises(KeyUnwrapError):
        rotate(second)
    shutil.copy2(site.workspace.owner.master_key, second.owner.master_key)
    assert rotate(second).keys == 2
