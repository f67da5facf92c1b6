"""The broker's database on a PostgreSQL server, which several brokers can share.

A writing transaction first takes an advisory lock. Therefore only one writing transaction of all brokers exists at a
time, and it sees everything that earlier transactions committed. The audit log is one chain for all brokers. The lock
ends with its transaction, even if the broker fails.

Each operation has a time limit on this side, because a server that hangs does not enforce its own limits.

Source: PostgreSQL 15 documentation, sections 9.27.10 (advisory locks), 13.2 (isolation levels), 20.5.1
(``synchronous_commit``), 20.11.1 (timeouts), 34.1.2 (connection parameters), and appendix A (error codes).
"""

import contextlib
import threading
import time
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import Connection, create_engine, event, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from sealserve.broker.codes import BrokerCode
from sealserve.broker.copying import copy_rows
from sealserve.broker.database_file import BUSY_SECONDS
from sealserve.broker.sqlite_engine import SqliteEngine
from sealserve.deployment.database_url import VERIFIED, PostgresqlUrl
from sealserve.errors import SealserveError
from sealserve.private_file import read_private
from sealserve.regular_file import read_regular

OLDEST_SERVER: Final = 14
"""The oldest supported major version of the server."""

_LOCK: Final = 0x7365616C  # "seal"; an arbitrary number, in the database of the broker only
_CONNECT_SECONDS: Final = 5
_STATEMENT_SECONDS: Final = 20.0
_ANSWER_SECONDS: Final = 25.0  # longer than the server's limit, so that the server's error arrives first
_IDLE_SECONDS: Final = 10.0
_POOL: Final = 8  # more than the appraisals at a time; refusals and the health check use the rest
_LONGEST_PASSWORD: Final = 1024
_READING: Final = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
_WRITING: Final = {"isolation_level": "READ COMMITTED", "postgresql_readonly": False}

_SESSION: Final = f"""
SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit')
                  WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false),
       set_config('statement_timeout', '{_STATEMENT_SECONDS:g}s', false),
       set_config('lock_timeout', '{BUSY_SECONDS:g}s', false),
       set_config('idle_in_transaction_session_timeout', '{_IDLE_SECONDS:g}s', false)
"""
_FACTS: Final = """
SELECT current_setting('server_version_num')::integer / 10000, current_setting('server_encoding'),
       current_setting('fsync'), current_setting('synchronous_commit')
"""

_RISKS: Final = """
SELECT current_setting('full_page_writes'), has_schema_privilege('public', current_schema(), 'CREATE'),
       coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)
"""

_SERVER: Final = "Check that the server runs and is reachable, and that database.url is correct."
_HINTS: Final[Mapping[str, str]] = {
    "22": "Upgrade sealserve on each machine that uses the database, and report the error if it persists.",
    "28": "Check the user in database.url, database.password_file, and pg_hba.conf of the server.",
    "3D": "Create the database on the server: CREATE DATABASE name OWNER role ENCODING 'UTF8' TEMPLATE template0.",
    "42501": "Make the role the owner of the database, or grant its rights. GRANT CREATE, USAGE ON SCHEMA public TO "
    "role; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO role.",
    "53100": "The disk of the server is full: free space on the server.",
    "53300": "The server has no free connection: raise max_connections. Each process of a broker uses up "
    "to 8 connections.",
    "25006": "The server is a read-only standby: connect to the primary server.",
    "55P03": "Another broker or command holds the write lock for too long: find it in pg_stat_activity.",
    "57014": "The server took too long: check its load and its disk.",
    "57P": _SERVER,
    "CA": "Check that database.ca_file is the CA of the server's certificate, and that database.url has a name of the "
    "certificate.",
    "08": _SERVER,
    "XX": "Check the log of the server. If its files are damaged, restore a backup.",
}
"""The hints by SQLSTATE, or by its first characters. `CA` is a state of sealserve for a server's certificate."""

_CERTIFICATES: Final = (b"-----BEGIN CERTIFICATE-----", b"-----BEGIN TRUSTED CERTIFICATE-----")
"""The headings of the certificates that OpenSSL reads from a PEM file."""

_T = TypeVar("_T")


class _BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed if the server does not answer an operation within `_ANSWER_SECONDS`."""

    def wait(self, gen: PQGen[_T], *arguments: Any, **options: Any) -> _T:
        return super().wait(_until(gen, time.monotonic() + _ANSWER_SECONDS, self), *arguments, **options)


def _until(gen: PQGen[_T], deadline: float, connection: psycopg.Connection[Any]) -> PQGen[_T]:
    """Pass on the operation ``gen``. The caller resumes it at least every 0.1 s, even without an answer."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                connection.pgconn.finish()  # SQLAlchemy discards a closed connection
                raise psycopg.OperationalError(f"the server did not answer within {_ANSWER_SECONDS:g} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        result: _T = end.value
        return result


class PostgresqlEngine:
    """Transactions on a PostgreSQL server.

    Args:
        url: The database.
        password_file: A private file with the password. It is read for each new connection, so that the password can
            be changed without a restart. None: no password.
        ca_file: The CA that verifies the server's certificate.
    """

    def __init__(self, url: PostgresqlUrl, *, password_file: Path | None = None, ca_file: Path | None = None) -> None:
        self.name = str(url)
        self._url = url
        self._password_file = password_file
        self._ca_file = ca_file
        self._writing = threading.Lock()
        self.engine = create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            hide_parameters=True,
            max_overflow=0,
            pool_pre_ping=True,  # replaces connections that a restart of the server closed
            pool_size=_POOL,
            pool_timeout=BUSY_SECONDS,
        )
        event.listen(self.engine, "connect", self._prepare)

    def options(self, *, write: bool) -> dict[str, Any]:
        """Return the execution options of a transaction."""
        return dict(_WRITING if write else _READING)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until no other thread writes, so that waiting threads do not occupy the connections."""
        if not self._writing.acquire(timeout=BUSY_SECONDS):
            raise BrokerCode.DATABASE.error(
                f"The database {self.name} failed: other transactions of this process took more than "
                f"{BUSY_SECONDS:g} s.",
                hint=_HINTS["57014"],
            )
        try:
            yield
        finally:
            self._writing.release()

    def begun(self, connection: Connection, *, write: bool) -> None:
        """Take the lock of all brokers, if the transaction writes."""
        if write:
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))

    def explain(self, error: SQLAlchemyError) -> tuple[str, str]:
        """Return the reason of a failure, without values of the database, and a hint."""
        if isinstance(error, PoolTimeoutError):
            return f"all {_POOL} connections of this process are busy", _HINTS["57014"]
        cause = getattr(error, "orig", None)
        if not isinstance(cause, psycopg.Error):
            return type(error).__name__, _SERVER
        state = cause.sqlstate or _state_in(str(cause))
        hint = next((_HINTS[state[:length]] for length in (5, 3, 2) if state[:length] in _HINTS), _SERVER)
        # The other fields of the server's message can contain values.
        return _line(cause.diag.message_primary or str(cause)), hint

    def snapshot(self, connection: Connection) -> bytes:
        """Return a copy of the rows as the content of an SQLite file."""
        copy = SqliteEngine.empty("the copy in memory", read_only=False)
        with contextlib.closing(copy.engine.connect()) as target, target.begin():
            copy_rows(connection, target)
        with contextlib.closing(copy.engine.connect()) as target:
            return copy.snapshot(target)

    def risks(self, connection: Connection) -> list[str]:
        """Return what weakens the database, although it can be used."""
        full_page_writes, public, secured = connection.exec_driver_sql(_RISKS).one()
        return [
            *(["full_page_writes is off: a crash of the server can damage pages"] if full_page_writes != "on" else []),
            *(["every user of the server may create objects in the schema of the broker"] if public else []),
            *([] if secured or self._url.is_local else ["the connection to the server is not encrypted"]),
        ]

    def _connect(self) -> psycopg.Connection[Any]:
        url = self._url
        parameters: dict[str, Any] = {
            "gssencmode": "disable",
            "sslmode": VERIFIED if url.is_verified else "prefer",
            "target_session_attrs": "read-write" if len(url.hosts) > 1 else "any",
            **url.parameters,
            "host": ",".join(url.hosts),
            "port": ",".join(url.ports),
            "dbname": url.database,
            "user": url.user,
            "application_name": "sealserve",
            "client_encoding": "UTF8",
            "connect_timeout": _CONNECT_SECONDS,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,  # milliseconds
            "options": "",  # ignores PGOPTIONS in the environment
        }
        if self._ca_file is not None:
            _check_certificates(self._ca_file)  # the driver can ignore a missing file
            parameters["sslrootcert"] = str(self._ca_file)
        if self._password_file is None:
            return _BoundedConnection.connect(**parameters)
        with read_private(self._password_file, what="database password", limit=_LONGEST_PASSWORD) as password:
            try:
                return _BoundedConnection.connect(**parameters, password=password.reveal().decode())
            except UnicodeDecodeError as error:
                raise BrokerCode.DATABASE.error(f"The password in {self._password_file} is not valid UTF-8.") from error

    def _prepare(self, driver: Any, _record: object) -> None:
        with driver.cursor() as cursor:
            cursor.execute(_SESSION)
            version, encoding, fsync, durable = cursor.execute(_FACTS).fetchone()
        driver.commit()
        # A key is released only after its audit row is on the disk of the server.
        if version < OLDEST_SERVER:
            raise self._unsuitable(f"PostgreSQL {OLDEST_SERVER} or later", f"version {version}")
        if encoding != "UTF8":
            raise self._unsuitable("the encoding UTF8", str(encoding))
        if fsync != "on":
            raise self._unsuitable("`fsync` = on, so that a power failure loses no audit row", f"`fsync` = {fsync}")
        if durable not in {"on", "remote_apply"}:
            raise self._unsuitable("synchronous_commit = on", f"synchronous_commit = {durable}")

    def _unsuitable(self, expected: str, got: str) -> SealserveError:
        return BrokerCode.DATABASE.error(
            f"The database {self.name} is not suitable: expected {_line(expected)}, got {_line(got)}.",
            hint="See the guide docs/how-to/postgresql.md for the requirements on the server.",
        )


def _check_certificates(path: Path) -> None:
    """Check that a file contains certificates. Raises `InputFileError` if it cannot be read."""
    if not any(marker in read_regular(path) for marker in _CERTIFICATES):
        raise BrokerCode.DATABASE.error(
            f"The file {path} has no certificate: expected the CA of the database server in PEM format.",
            hint="Set database.ca_file to the CA of the server's certificate.",
        )


def _state_in(text: str) -> str:
    """Return the SQLSTATE of a failed connection, of which the driver keeps only the message."""
    for part, state in (
        ("root certificate file", "CA"),
        ("certificate verify failed", "CA"),
        ("does not match host name", "CA"),
        ("too many clients", "53300"),
        ("remaining connection slots", "53300"),
        ("too many connections", "53300"),
        ("authentication failed", "28P01"),
        ("no password supplied", "28P01"),
        ("no pg_hba.conf entry", "28000"),
    ):
        if part in text:
            return state
    return "3D000" if 'database "' in text and "does not exist" in text else "08001"


def _line(text: str) -> str:
    """Return at most 500 characters of ``text`` in one line, without control characters."""
    shown = " ".join("".join(" " if unicodedata.category(c)[0] == "C" else c for c in text).split())
    return shown[:500].rstrip(".")
