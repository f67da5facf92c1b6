"""A real PostgreSQL server of the distribution, for one worker of the tests, and a new database for each test."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import psycopg
from scripts.postgresql import BY_HAND, environment, programs
from tests.harness.leftovers import SHARED_MEMORY
from tests.harness.missing import missing

from sealserve.broker.database import Database
from sealserve.broker.tables import METADATA, REVISION, SCHEMA
from sealserve.deployment.database_url import PostgresqlUrl, parse_database_url

USER: Final = "sealserve"
_SECONDS: Final = 60.0
_SPACE: Final = 2 * 2**30  # bytes: the servers of several workers, each with its log of at most 1 GB
_HBA: Final = """
local all postgres trust
local all all trust
hostssl all all 127.0.0.1/32 scram-sha-256
"""


@dataclass(slots=True)
class Server:
    """A running server. It listens on a Unix socket, and on TCP if a test asks for it.

    Args:
        programs: The folder with its programs.
        folder: A folder with its data and its socket. The user of the server owns it.
        user: The user of the server: the server refuses to run as root.
    """

    programs: Path
    folder: Path
    user: str | None
    process: "subprocess.Popen[bytes] | None" = None
    port: int = 5432
    _numbers: Iterator[int] = field(default_factory=count)
    shared: str | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def socket(self) -> Path:
        return self.folder / "socket"

    def create(self) -> None:
        self.run("initdb", "--pgdata", self.data, "--username", "postgres", "--auth", "trust", "--encoding", "UTF8",
                 "--locale", "C.UTF-8", "--no-sync", "--no-instructions")  # fmt: skip
        (self.data / "pg_hba.conf").write_text(_HBA)

    def start(self, **settings: Any) -> None:
        """Start the server; the settings are those of ``postgresql.conf``."""
        all_settings: Mapping[str, Any] = {
            "listen_addresses": "",
            "port": self.port,
            "unix_socket_directories": self.socket,
            "max_connections": 60,
            "log_min_messages": "warning",
        } | settings
        options = [part for name, value in all_settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self.programs / "postgres"), "-D", str(self.data), *options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, user=self.user,
                extra_groups=None if self.user is None else [], group=self._group, env=environment(self.programs),
            )  # fmt: skip
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                return self.administer().close()
            except psycopg.OperationalError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.02)  # until it listens

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop the server: without waiting for clients, or with SIGQUIT as in a crash."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(_SECONDS)
            self.process = None

    def signal_all(self, number: int) -> None:
        """Send a signal to the server and to all processes that serve its clients."""
        assert self.process is not None
        # A server that was stopped starts no further process. One that runs starts and ends them at any time.
        self.process.send_signal(number)
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), number)

    def administer(self, database: str = "postgres") -> "psycopg.Connection[Any]":
        return psycopg.connect(host=str(self.socket), port=self.port, user="postgres", dbname=database, autocommit=True)

    def new_database(self, *, owner: str = USER, options: str = "") -> str:
        """Create a database, and return its name."""
        name = f"broker_{next(self._numbers)}"
        with self.administer() as connection:
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [owner]).fetchone() is None:
                connection.execute(f"CREATE ROLE {owner} LOGIN".encode())
            connection.execute(f"CREATE DATABASE {name} OWNER {owner} TEMPLATE template0 {options}".encode())
        return name

    def url(self, database: str, *, user: str = USER) -> str:
        return f"postgresql://{user}@/{database}?host={self.socket}&port={self.port}"

    def parsed(self, database: str, **options: Any) -> PostgresqlUrl:
        return parse_database_url(self.url(database, **options))

    @contextlib.contextmanager
    def database(self) -> Iterator[Database]:
        """Yield a database with empty tables. Tests that do not change the tables share it, one after the other."""
        if self.shared is None:
            self.shared = self.new_database()
        opened = Database.connect(self.parsed(self.shared))
        assert opened is not None
        with opened:
            yield opened
        tables = ", ".join(table.name for table in METADATA.sorted_tables if table not in (REVISION, SCHEMA))
        with self.administer(self.shared) as connection:
            connection.execute(f"TRUNCATE {tables}".encode())

    @property
    def _group(self) -> int | None:
        return None if self.user is None else pwd.getpwnam(self.user).pw_gid

    def run(self, program: str, *arguments: object) -> None:
        command = [str(self.programs / program), *map(str, arguments)]
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self.folder, user=self.user, group=self._group,
            extra_groups=None if self.user is None else [], env=environment(self.programs),
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr


@contextlib.contextmanager
def running(**settings: Any) -> Iterator[Server]:
    """Yield a server that has started."""
    with created() as server:
        server.start(**settings)
        yield server


def _memory() -> Path | None:
    """Return a folder in memory with space for a server, or None.

    The broker refuses a server with ``fsync = off``. In memory, the server does not wait for a disk either, and the
    kernel keeps the files if the server is killed.
    """
    usable = os.access(SHARED_MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(SHARED_MEMORY).free >= _SPACE
    return SHARED_MEMORY if usable else None


@contextlib.contextmanager
def created(*, folder: Path | None = None) -> Iterator[Server]:
    """Yield a server that has not started, and stop it at the end."""
    found = programs()
    if found is None:
        missing(f"PostgreSQL's server is missing: `make postgresql` gets it, or: {BY_HAND}")
    # The server's user cannot enter pytest's folders, and the path of a socket has at most 107 bytes.
    place = Path(tempfile.mkdtemp(prefix="sealserve-pg-", dir=folder or _memory()))
    server = Server(found, place, "nobody" if os.geteuid() == 0 else None)
    try:
        (place / "socket").mkdir()
        if server.user is not None:
            for path in (place, place / "socket"):
                shutil.chown(path, server.user)
        place.chmod(0o755)
        server.create()
        yield server
    finally:
        server.stop(signal.SIGQUIT)  # without a checkpoint: its data is deleted
        shutil.rmtree(place)
