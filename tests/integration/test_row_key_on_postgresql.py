"""The key that authenticates rows, on machines that share a PostgreSQL database: no machine creates a second key."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, update
from tests.harness.errors import raises
from tests.harness.killing import ended_at
from tests.harness.postgresql import Server
from tests.harness.workspaces import Site, make_site, on_server

from sealserve.broker.audit_entry import Decision
from sealserve.broker.database import Database
from sealserve.broker.row_authentication import TABLES
from sealserve.broker.tables import AUDIT, PLATFORMS, REFERENCE_VALUES
from sealserve.errors import SealserveError
from sealserve.owner import certificates, provisioning, row_key
from sealserve.owner.broker_database import import_database, open_database
from sealserve.owner.codes import OwnerCode
from sealserve.owner.identity import IdentityLostError
from sealserve.owner.owner import Owner
from sealserve.workspace import Workspace

pytestmark = pytest.mark.integration

_PLATFORM = {"platform": "sgx", "platform_id": "ab" * 16, "label": "planted", "enrolled": "2026-01-01T00:00:00Z"}


@pytest.fixture
def url(postgresql: Server) -> str:
    return postgresql.url(postgresql.new_database())


@pytest.fixture
def site(tmp_path: Path, url: str) -> Site:
    """An owner whose database is on the server, and still empty."""
    return make_owner(tmp_path / "owner", url)


def make_owner(folder: Path, url: str, **sections: Any) -> Site:
    made = make_site(folder, target={"replicas": 1}, **sections)
    Owner.create(made.workspace)
    made.import_model()
    return on_server(made, url)


FIRST_ROWS = [Decision.AUTHENTICATED, Decision.ISSUING_KEY_ROTATED]
"""The rows of a new database: the key that authenticates rows, and the issuing key of attested serving."""


@pytest.fixture
def second(site: Site, tmp_path: Path) -> Workspace:
    """Another machine with the files of a broker, except the key that authenticates rows."""
    site.certify()
    site.build_release()
    made = Workspace(tmp_path / "second")
    made.create()
    shutil.copy(site.workspace.deployment_file, made.deployment_file)
    first = site.workspace.owner
    for path in (first.broker_tls, first.issuing, first.trust, site.workspace.vendor.root):
        shutil.copytree(path, made.directory / path.relative_to(site.workspace.directory), dirs_exist_ok=True)
    for path in (first.audit_signing_key, first.master_key, first.token_signing_key):
        shutil.copy2(path, made.owner.root / path.name)
    return made


def decisions(workspace: Workspace) -> list[str]:
    with open_database(workspace, create=False) as database, database.read() as connection:
        return [row.decision for row in connection.execute(AUDIT.select().order_by(AUDIT.c.seq))]


def remove_tags(workspace: Workspace) -> None:
    with open_database(workspace, create=False) as database, database.write() as connection:
        for table in TABLES:
            connection.execute(update(table).values(changed=None, tag=None))
        connection.execute(update(AUDIT).values(changes=None, tag=None))


def empty(workspace: Workspace) -> None:
    with open_database(workspace, create=False) as database, database.write() as connection:
        connection.exec_driver_sql("TRUNCATE " + ", ".join(table.name for table in (*TABLES, AUDIT)) + " CASCADE")


def test_the_creation_of_the_key_is_the_first_row(site: Site) -> None:
    assert not site.workspace.owner.row_key.exists()
    with Owner.open(site.workspace).database(create=True):
        pass
    assert site.workspace.owner.row_key.exists()
    assert decisions(site.workspace) == [Decision.AUTHENTICATED]
    with Owner.open(site.workspace).database(create=True):
        pass
    assert decisions(site.workspace) == [Decision.AUTHENTICATED]
    site.certify()
    site.build_release()
    assert decisions(site.workspace) == FIRST_ROWS
    provisioning.verify_log(site.workspace)


def test_the_certificates_are_the_first_use(site: Site) -> None:
    """The issuing key needs the database before the first release does."""
    site.certify()
    assert site.workspace.owner.row_key.exists()
    assert decisions(site.workspace) == FIRST_ROWS
    provisioning.verify_log(site.workspace)


@pytest.mark.parametrize("attack", [None, remove_tags, empty])
def test_a_broker_never_creates_the_key(site: Site, second: Workspace, attack: object) -> None:
    """The administrator of the server can remove each trace of the key. A new key would accept foreign rows."""
    if callable(attack):
        attack(site.workspace)
    with (
        raises(OwnerCode.ROW_KEY_MISSING, match="this command does not create it") as caught,
        provisioning.open_broker(second, site.deployment),
    ):
        pass
    assert caught.value.hint is not None
    assert "Copy owner/row-key" in caught.value.hint
    assert not [path.name for path in second.owner.root.glob("row-key*")]


@pytest.mark.parametrize("attack", [None, remove_tags])
def test_no_command_on_another_machine_creates_the_key(site: Site, second: Workspace, attack: object) -> None:
    if callable(attack):
        attack(site.workspace)
    with raises(OwnerCode.ROW_KEY_MISSING, match="is not empty"), Owner.open(second).database(create=True):
        pass
    assert not [path.name for path in second.owner.root.glob("row-key*")]


@pytest.mark.parametrize("attack", [None, remove_tags, empty])
@pytest.mark.parametrize("released", [True, False])  # without a release, the issuing key is the only key
def test_an_owner_who_lost_the_key_does_not_accept_foreign_rows(site: Site, attack: object, released: bool) -> None:
    site.certify()
    if released:
        site.build_release()
    if callable(attack):
        attack(site.workspace)
    site.workspace.owner.row_key.unlink()
    lost = "The key that authenticates the rows of the broker's database"
    with pytest.raises(IdentityLostError, match=lost):
        site.build_release()
    with pytest.raises(IdentityLostError, match=lost):
        certificates.rotate_issuing(site.workspace, site.deployment, now=site.now)
    assert not site.workspace.owner.row_key.exists()


def first_use(site: Site) -> None:
    """Do what uses the database first: attested serving needs the issuing key, before the first release."""
    if site.deployment.server.attested:
        site.certify()
    else:
        site.build_release()


@pytest.fixture(params=[True, False], ids=["attested", "owner-tls-key"])
def before_first_use(request: pytest.FixtureRequest, tmp_path: Path, url: str) -> Site:
    """An owner whose database is empty, until `first_use`."""
    if request.param:
        return make_owner(tmp_path / "owner", url)
    made = make_owner(tmp_path / "owner", url, server={"dangerous_owner_tls_key": True})
    made.certify()
    return made


def test_a_planted_row_stops_the_first_use(before_first_use: Site) -> None:
    """The administrator can stop the owner, but cannot make the owner accept a row."""
    site = before_first_use
    with open_database(site.workspace, create=True) as database, database.write() as connection:
        connection.execute(insert(PLATFORMS).values(_PLATFORM))
    with raises(OwnerCode.ROW_KEY_MISSING, match="the database is not empty"):
        first_use(site)
    assert not site.workspace.owner.row_key.exists()
    with open_database(site.workspace, create=False) as database, database.write() as connection:
        connection.execute(delete(PLATFORMS))
    first_use(site)
    site.build_release()
    provisioning.verify_log(site.workspace)


def test_a_planted_trace_of_a_key_stops_the_first_use(before_first_use: Site) -> None:
    site = before_first_use
    with open_database(site.workspace, create=True) as database, database.write() as connection:
        connection.execute(insert(PLATFORMS).values({**_PLATFORM, "changed": 1, "tag": "ab" * 32}))
    with raises(OwnerCode.ROW_KEY_MISSING, match="is not empty"):
        first_use(site)
    assert not site.workspace.owner.row_key.exists()


def test_only_one_of_two_owners_creates_the_key(site: Site, tmp_path: Path, url: str) -> None:
    sites = [site, make_owner(tmp_path / "other", url)]
    with open_database(site.workspace, create=True):
        pass
    together = threading.Barrier(len(sites))
    errors: list[str] = []

    def use(each: Site) -> None:
        together.wait()
        try:
            with Owner.open(each.workspace).database(create=True):
                pass
        except SealserveError as error:
            errors.append(error.code)

    threads = [threading.Thread(target=use, args=(each,)) for each in sites]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 1
    assert sum(each.workspace.owner.row_key.exists() for each in sites) == 1
    assert decisions(site.workspace) == [Decision.AUTHENTICATED]


@pytest.mark.parametrize("committed", [False, True])
def test_an_interrupted_creation_is_completed(site: Site, committed: bool) -> None:
    with ended_at(row_key, "_publish" if committed else "adopt"), Owner.open(site.workspace).database(create=True):
        pass
    assert not site.workspace.owner.row_key.exists()
    with Owner.open(site.workspace).database(create=True):
        pass
    assert decisions(site.workspace) == [Decision.AUTHENTICATED]
    assert [path.name for path in site.workspace.owner.root.glob("row-key*")] == ["row-key"]


def test_an_earlier_file_is_authenticated_before_its_import(tmp_path: Path, url: str) -> None:
    """A file of a version without this key: its rows get their tags while only the owner can write to them."""
    made = make_site(tmp_path / "earlier", target={"replicas": 1})
    Owner.create(made.workspace)
    made.import_model()
    made.certify()
    made.build_release()
    with Database.open(made.workspace.owner.database) as database, database.write() as connection:
        for table in TABLES:
            connection.execute(update(table).values(changed=None, tag=None))
        connection.execute(update(AUDIT).values(changes=None, tag=None))
    made.workspace.owner.row_key.unlink()
    moved = on_server(made, url)
    row_key.authenticate_file(moved.workspace)
    import_database(moved.workspace, Owner.open(moved.workspace).audit_keys())
    provisioning.verify_log(moved.workspace)
    with open_database(moved.workspace, create=False) as database, database.read() as connection:
        assert all(row.tag for row in connection.execute(REFERENCE_VALUES.select()))
