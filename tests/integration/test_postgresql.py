"""The broker's database on a real PostgreSQL server: its limits, its failures, and what it must not reveal."""

import contextlib
import ipaddress
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from scripts.errors import causes
from sqlalchemy import func, insert, select, update
from tests.harness.errors import raises
from tests.harness.postgresql import USER, Server, created

from sealserve.broker import audit, platforms, postgresql_engine
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.tables import AUDIT, EVALUATION_FLOOR, KEYS, METADATA
from sealserve.cluster import ports
from sealserve.deployment.database_url import PostgresqlUrl, parse_database_url
from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.private_file import PrivateFileExposedError
from sealserve.regular_file import InputFileMissingError
from sealserve.terms import PlatformKind

pytestmark = pytest.mark.integration

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PASSWORD = "p4ss-%-word"


def _key(number: int) -> dict[str, object]:
    return {"key_id": f"{number:032x}", "wrapper": "file", "format": 2, "wrapped": b"w", "created": "t"}


def _open(url: PostgresqlUrl, **options: Any) -> Database:
    opened = Database.connect(url, **options)
    assert opened is not None
    return opened


def _count(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(KEYS)).scalar_one())


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that the test may stop."""
    with created() as server:
        yield server


def test_a_key_leaves_only_after_its_row_is_on_the_servers_disk(postgresql: Server) -> None:
    """The role's own default would lose the newest rows in a crash of the server."""
    name = postgresql.new_database()
    with postgresql.administer() as connection:
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off".encode())
    with _open(postgresql.parsed(name)) as database, database.write() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
        connection.execute(insert(KEYS).values(_key(1)))
    with postgresql.administer() as connection:
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = remote_apply".encode())
    with _open(postgresql.parsed(name)) as database, database.read() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "remote_apply"


def test_a_server_that_does_not_sync_is_refused(own: Server) -> None:
    own.start(fsync="off")
    url = own.parsed(own.new_database())
    with raises(BrokerCode.DATABASE, match="expected `fsync` = on, .* got `fsync` = off"):
        Database.connect(url)


def test_a_crash_of_the_server_loses_no_committed_row(own: Server) -> None:
    own.start()
    with _open(own.parsed(own.new_database())) as database:
        with database.write() as connection:
            connection.execute(insert(KEYS).values(_key(1)))
        own.signal_all(signal.SIGKILL)
        assert own.process is not None
        own.process.wait(60)
        with raises(BrokerCode.DATABASE, match="failed: .*(connection|socket)"):
            _count(database)
        own.process = None
        own.start()
        assert _count(database) == 1  # the same object: no restart of the broker


def test_a_restart_of_the_server_is_one_error_at_most(own: Server) -> None:
    own.start()
    with _open(own.parsed(own.new_database())) as database:
        with database.write() as connection:
            connection.execute(insert(KEYS).values(_key(1)))
        own.stop()
        with raises(BrokerCode.DATABASE, match="failed: ") as caught:
            _count(database)
        assert caught.value.hint is not None
        assert "Check that the server runs" in caught.value.hint
        own.start()
        assert _count(database) == 1


def test_a_server_that_hangs_is_an_error_within_the_limit(own: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql_engine, "_ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(postgresql_engine, "_CONNECT_SECONDS", 2)
    own.start()
    with _open(own.parsed(own.new_database())) as database:
        assert _count(database) == 0
        own.signal_all(signal.SIGSTOP)
        try:
            with raises(BrokerCode.DATABASE, match="connection timeout expired"):
                _count(database)
        finally:
            own.signal_all(signal.SIGCONT)
        try:
            with (
                raises(BrokerCode.DATABASE, match=r"the server did not answer within 0\.3 s"),
                database.write() as connection,
            ):
                own.signal_all(signal.SIGSTOP)
                connection.execute(insert(KEYS).values(_key(1)))
        finally:
            own.signal_all(signal.SIGCONT)
        monkeypatch.setattr(postgresql_engine, "_ANSWER_SECONDS", 25.0)
        assert _count(database) == 0


def test_a_lock_that_another_process_holds_is_an_error_within_the_limit(
    postgresql: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = postgresql.new_database()
    _open(postgresql.parsed(name)).close()
    monkeypatch.setattr(
        postgresql_engine,
        "_SESSION",
        postgresql_engine._SESSION.replace("'lock_timeout', '15s'", "'lock_timeout', '100'"),
    )
    with postgresql.administer(name) as other, _open(postgresql.parsed(name)) as database:
        other.execute("SELECT pg_advisory_lock(%s)", [postgresql_engine._LOCK])
        with raises(BrokerCode.DATABASE, match="lock timeout"), database.write():
            pass
        assert _count(database) == 0  # readers need no lock


def test_an_idle_writer_does_not_hold_up_the_others(postgresql: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is stopped in the middle of a transaction loses the transaction, and the lock."""
    session = postgresql_engine._SESSION.replace("session_timeout', '10s'", "session_timeout', '200'")
    monkeypatch.setattr(postgresql_engine, "_SESSION", session)
    url = postgresql.parsed(postgresql.new_database())
    with _open(url) as stopped, _open(url) as other:
        with raises(BrokerCode.DATABASE, match="idle-in-transaction"), stopped.write() as connection:
            connection.execute(insert(KEYS).values(_key(1)))
            with other.write() as writing:  # waits until the server ends the transaction
                writing.execute(insert(KEYS).values(_key(2)))
            connection.execute(insert(KEYS).values(_key(3)))
        with other.read() as connection:
            assert list(connection.execute(select(KEYS.c.key_id)).scalars()) == [f"{2:032x}"]


def test_a_server_without_a_free_connection_is_one_clear_error(own: Server) -> None:
    own.start(max_connections=4, superuser_reserved_connections=1)
    url = own.parsed(own.new_database())
    with (
        own.administer(),
        own.administer(),
        own.administer(),
        own.administer(),
        raises(BrokerCode.DATABASE, match="connection") as caught,
    ):
        Database.connect(url)
    assert caught.value.hint is not None
    assert "max_connections" in caught.value.hint


def test_a_role_without_rights_is_told_what_to_grant(postgresql: Server) -> None:
    name = postgresql.new_database()
    with postgresql.administer() as connection:
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'guest'").fetchone() is None:
            connection.execute("CREATE ROLE guest LOGIN")
    with raises(BrokerCode.DATABASE, match="permission denied for schema public") as caught:
        Database.connect(postgresql.parsed(name, user="guest"))
    assert caught.value.hint is not None
    assert "GRANT CREATE, USAGE ON SCHEMA public" in caught.value.hint


def test_a_missing_database_or_user_is_one_clear_error(postgresql: Server) -> None:
    with raises(BrokerCode.DATABASE, match='database "nowhere" does not exist') as caught:
        Database.connect(postgresql.parsed("nowhere"))
    assert caught.value.hint is not None
    assert "CREATE DATABASE" in caught.value.hint
    with raises(BrokerCode.DATABASE, match='role "nobody_else" does not exist'):
        Database.connect(postgresql.parsed(postgresql.new_database(), user="nobody_else"))


def test_another_encoding_is_refused(postgresql: Server) -> None:
    name = postgresql.new_database(options="ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    with raises(BrokerCode.DATABASE, match="expected the encoding UTF8, got LATIN1"):
        Database.connect(postgresql.parsed(name))


def test_the_order_of_texts_is_the_order_of_their_bytes(postgresql: Server) -> None:
    """In an ICU locale, "a" comes before "B". Every text column of the tables has the collation "C"."""
    name = postgresql.new_database(options="LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8'")
    with _open(postgresql.parsed(name)) as database, database.write() as connection:
        for label, number in (("a", 1), ("B", 2)):
            platforms.enrol(connection, PlatformKind.SGX, f"{number:032x}", label=label, now=NOW)
        query = "SELECT label FROM platforms ORDER BY label"
        assert connection.exec_driver_sql(query).scalars().all() == ["B", "a"]
        other = 'SELECT label COLLATE "en-x-icu" FROM platforms ORDER BY 1'
        assert connection.exec_driver_sql(other).scalars().all() == ["a", "B"]
        different = (
            "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'public' "
            "AND data_type = 'character varying' AND collation_name IS DISTINCT FROM 'C' "
            "AND table_name != 'alembic_version'"
        )
        assert connection.exec_driver_sql(different).scalar() == 0


def test_numbers_of_32_bits_without_a_sign_fit(postgresql: Server) -> None:
    with postgresql.database() as database, database.write() as connection:
        platforms.raise_evaluation_floor(connection, "ab" * 32, PlatformKind.SGX, 2**32 - 1, now=NOW)
        assert connection.execute(select(EVALUATION_FLOOR.c.number)).scalar() == 2**32 - 1
        audit.append(connection, _entry())
        connection.execute(update(AUDIT).where(AUDIT.c.seq == 2).values(seq=2**40))  # row 1 records the floor
        assert audit.head(connection)[0] == 2**40


@pytest.mark.parametrize("text", ["nul \0 nul", "\ud800", "\u202e", "x" * 65, "two\nlines"])
def test_a_label_that_the_server_cannot_store_is_an_error_of_the_input(postgresql: Server, text: str) -> None:
    with postgresql.database() as database, raises(BrokerCode.PLATFORM_ID), database.write() as connection:
        platforms.enrol(connection, PlatformKind.SGX, "ab" * 16, label=text, now=NOW)


def test_each_code_fits_its_column() -> None:
    width = AUDIT.c.code.type.length  # type: ignore[attr-defined]
    assert max(len(cause.code) for cause in causes()) <= width


def test_an_error_names_no_value_and_no_password(postgresql: Server, tmp_path: Path) -> None:
    with postgresql.database() as database:
        row = {**_key(1), "wrapped": b"sealed-bytes"}
        with raises(BrokerCode.DATABASE, match="unique constraint") as caught, database.write() as connection:
            connection.execute(insert(KEYS).values([row, row]))
        assert f"{1:032x}" not in str(caught.value)
        assert b"sealed-bytes".hex() not in str(caught.value) + str(caught.value.__cause__)
    password_file = tmp_path / "password"
    password_file.write_text("s3cret-of-the-test\n")
    password_file.chmod(0o600)
    with raises(BrokerCode.DATABASE) as caught:
        Database.connect(postgresql.parsed("nowhere"), password_file=password_file)
    assert "s3cret" not in "".join(map(repr, (caught.value, caught.value.__cause__, caught.value.hint)))
    password_file.chmod(0o640)
    with pytest.raises(PrivateFileExposedError, match="Other users can access the database password"):
        Database.connect(postgresql.parsed("nowhere"), password_file=password_file)


def test_the_servers_name_and_the_password_are_verified(own: Server, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = Authority.create(AuthorityKind.BROKER, names=["db.example.com"], simulated=True, now=now,
                                 addresses=[ipaddress.ip_address("127.0.0.1")])  # fmt: skip
    for kind, names, addresses in (
        ("right", [], [ipaddress.ip_address("127.0.0.1")]), ("wrong", ["db.example.com"], [])
    ):  # fmt: skip
        authority.issue_server(names, addresses, now=now).write(
            certificate=own.folder / f"{kind}.pem", key=own.folder / f"{kind}.key"
        )
        if own.user is not None:
            shutil.chown(own.folder / f"{kind}.key", own.user)
    ca, password = tmp_path / "ca.pem", tmp_path / "password"
    ca.write_bytes(authority.certificate_pem)
    password.write_text(PASSWORD)
    password.chmod(0o600)
    port = ports.find_free()

    def serve(kind: str) -> None:
        own.start(listen_addresses="127.0.0.1", ssl="on", ssl_cert_file=own.folder / f"{kind}.pem",
                  ssl_key_file=own.folder / f"{kind}.key")  # fmt: skip

    own.port = port
    serve("right")
    name = own.new_database()
    with own.administer() as administrator:
        administrator.execute(f"ALTER ROLE {USER} PASSWORD '{PASSWORD}'".encode())
    url = parse_database_url(f"postgresql://{USER}@127.0.0.1:{port}/{name}?sslmode=verify-full")
    with _open(url, password_file=password, ca_file=ca) as database, database.read() as connection:
        assert connection.exec_driver_sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").scalar() is True
    password.write_text("wrong")
    with raises(BrokerCode.DATABASE, match="password authentication failed") as caught:
        Database.connect(url, password_file=password, ca_file=ca)
    assert caught.value.hint is not None
    assert "database.password_file" in caught.value.hint
    password.write_text(PASSWORD)
    other = Authority.create(AuthorityKind.BROKER, names=["x.example.com"], simulated=True, now=now)
    ca.write_bytes(other.certificate_pem)
    with raises(BrokerCode.DATABASE, match="certificate verify failed") as caught:
        Database.connect(url, password_file=password, ca_file=ca)
    assert caught.value.hint is not None
    assert "database.ca_file" in caught.value.hint
    ca.write_bytes(authority.certificate_pem)
    own.stop()
    serve("wrong")
    with raises(BrokerCode.DATABASE, match="does not match host name"):
        Database.connect(url, password_file=password, ca_file=ca)


def test_a_ca_file_is_read_also_for_a_server_on_this_machine(postgresql: Server, tmp_path: Path) -> None:
    url = postgresql.parsed(postgresql.new_database())
    with raises(InputFileMissingError, match="does not exist"):
        Database.connect(url, ca_file=tmp_path / "ca.pem")
    (tmp_path / "ca.pem").write_text("not a certificate")
    with raises(BrokerCode.DATABASE, match="has no certificate"):
        Database.connect(url, ca_file=tmp_path / "ca.pem")


def test_the_environment_cannot_weaken_a_connection(postgresql: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgresql.parsed(postgresql.new_database())
    monkeypatch.setenv("PGOPTIONS", "-c synchronous_commit=off -c search_path=pg_catalog")
    with _open(url) as database, database.write() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
        assert connection.exec_driver_sql("SHOW search_path").scalar() != "pg_catalog"


def test_writers_of_several_processes_take_turns(postgresql: Server) -> None:
    url = postgresql.parsed(postgresql.new_database())
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with _open(url) as opened:
                for _ in range(10):
                    with opened.write() as connection:
                        audit.append(connection, _entry())
        except BaseException as error:  # noqa: BLE001  # reported by the test's thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with _open(url) as database, database.read() as connection:
        assert audit.verify_chain(connection)[0] == 50


def test_a_reader_sees_one_moment_and_writes_nothing(postgresql: Server) -> None:
    with postgresql.database() as database:
        with database.read() as connection:
            connection.execute(select(KEYS)).all()
            with database.write() as writing:
                writing.execute(insert(KEYS).values(_key(1)))
            assert connection.execute(select(func.count()).select_from(KEYS)).scalar_one() == 0
        assert _count(database) == 1
        with raises(BrokerCode.DATABASE, match="read-only transaction"), database.read() as connection:
            connection.execute(insert(KEYS).values(_key(2)))


def _fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with path.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(65536))


def test_a_full_disk_writes_nothing_and_recovers() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    with created() as own:
        disk = own.folder / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0777", "tmpfs", str(disk)], capture_output=True, check=False
        )
        if own.user is not None:
            shutil.chown(disk, own.user)
        if mounted.returncode != 0:
            pytest.skip("this machine does not permit mounts")
        try:
            own.start()
            with own.administer() as connection:
                connection.execute(f"CREATE TABLESPACE small LOCATION '{disk}'".encode())
            name = own.new_database(options="TABLESPACE small")
            with _open(own.parsed(name)) as database:
                with database.write() as connection:
                    connection.execute(insert(KEYS).values(_key(1)))
                filler = disk / "filler"
                _fill(filler)
                with raises(BrokerCode.DATABASE, match="No space left") as caught, database.write() as connection:
                    for number in range(2, 5000):
                        connection.execute(insert(KEYS).values({**_key(number), "wrapped": os.urandom(4096)}))
                assert caught.value.hint is not None
                assert "disk" in caught.value.hint
                filler.unlink()
                assert _count(database) == 1
                with database.write() as connection:
                    connection.execute(insert(KEYS).values(_key(2)))
            own.stop()
        finally:
            own.stop()
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_snapshot_is_a_file_of_sqlite_with_the_same_chain(postgresql: Server, tmp_path: Path) -> None:
    with postgresql.database() as database:
        with database.write() as connection:
            for _ in range(3):
                audit.append(connection, _entry())
            connection.execute(insert(KEYS).values(_key(1)))
        path = tmp_path / "copy.sqlite"
        path.write_bytes(database.snapshot())
        with database.read() as connection:
            expected = audit.verify_chain(connection)
    with Database.open(path) as copy, copy.read() as connection:
        assert audit.verify_chain(connection) == expected
        assert _count(copy) == 1
        assert {table.name for table in METADATA.sorted_tables} >= {"keys", "audit"}


def _entry() -> Entry:
    return Entry(time=NOW, peer="192.0.2.1:1", decision=Decision.REFUSED, code="x", detail="d")
