import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.harness.command_line import CommandLine
from tests.harness.workspaces import Site

from sealserve.broker import admin, audit
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.cli import completion
from sealserve.owner import provisioning
from sealserve.owner.owner import Owner
from sealserve.sealing.release import VerifiedRelease
from sealserve.terms import PlatformKind

PLATFORM = "ab" * 16
NOW = datetime.now(UTC)


def append(site: Site, *entries: Entry) -> None:
    with Owner.open(site.workspace).database(create=True) as database, database.write() as connection:
        for entry in entries:
            audit.append(connection, entry)


def refusal(code: str, *, ago: timedelta = timedelta(), **changes: Any) -> Entry:
    return Entry(
        time=NOW - ago, peer="192.0.2.1:5", decision=Decision.REFUSED, code=code, detail=f"é {code}", **changes
    )


@pytest.fixture
def logged(ready: Site, released: VerifiedRelease) -> Site:
    """A log with several decisions: the issuing authority (just now), `allow`, an enrolment, and refusals.

    The refusals differ in code, time, release and platform.
    """
    provisioning.allow(ready.workspace, ready.deployment, released.folder, now=NOW - timedelta(days=9))
    with Owner.open(ready.workspace).database() as database:
        (known,) = admin.every_release(database)
        admin.enrol_platform(database, PlatformKind.SIMULATED, PLATFORM, label="rack 1", now=NOW - timedelta(days=8))
    append(
        ready,
        refusal("policy.isv-svn", ago=timedelta(days=3), release_id=known.release.release_id),
        refusal("policy.isv-svn", ago=timedelta(hours=3), release_id="cd" * 32, platform_id=PLATFORM),
        refusal("broker.handshake", ago=timedelta(minutes=3)),
    )
    return ready


def numbers(cli: CommandLine, *arguments: str) -> list[int]:
    return [row["seq"] for row in cli.json("broker", "log", *arguments)]


def test_rows_are_selected(cli: CommandLine, logged: Site, released: VerifiedRelease) -> None:
    assert numbers(cli) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert numbers(cli, "--last", "2") == [7, 8]
    assert numbers(cli, "--code", "policy.isv-svn") == [6, 7]
    assert numbers(cli, "--code", "policy.isv-svn", "--last", "1") == [7]
    assert numbers(cli, "--code", "policy.isv-svn", "--code", "broker.handshake") == [6, 7, 8]
    assert numbers(cli, "--code", "unheard-of") == []
    assert numbers(cli, "--since", "2h") == [1, 8]
    assert numbers(cli, "--since", "7d") == [1, 6, 7, 8]
    assert numbers(cli, "--since", (NOW - timedelta(hours=4)).isoformat()) == [1, 7, 8]
    assert numbers(cli, "--release", released.folder.name) == [2, 3, 4, 6]
    assert numbers(cli, "--release", "cdcdcd") == [7]
    assert numbers(cli, "--release", "cd" * 32, "--code", "ok") == []
    assert numbers(cli, "--platform", PLATFORM) == [5, 7]
    assert numbers(cli, "--platform", PLATFORM[:6], "--since", "1d") == [7]
    assert numbers(cli, "--platform", "rack 1") == [5, 7]
    assert cli.ok("broker", "log", "--code", "unheard-of") == "No rows match.\n"
    del logged


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--since", "soon"], "logs.invalid-since"), (["--release", "nothing"], "broker.release-unknown"),
     (["--release", "%"], "broker.release-unknown"), (["--platform", "rack 2"], "broker.platform-not-enrolled"),
     (["--release", "ab"], "broker.release-unknown")],
)  # fmt: skip
def test_a_wrong_condition_is_an_error(cli: CommandLine, logged: Site, arguments: list[str], code: str) -> None:
    del logged
    error = cli.error("broker", "log", *arguments)
    assert (error["code"], error["status"]) == (code, 2)


def test_the_content_decides_and_not_the_column_for_queries(cli: CommandLine, logged: Site) -> None:
    with closing(sqlite3.connect(logged.workspace.owner.database)) as connection, connection:
        connection.execute("UPDATE audit SET code = 'ok' WHERE seq = 8")
    assert 8 not in numbers(cli, "--code", "ok")
    assert cli.error("broker", "log", "--verify")["code"] == "audit.chain"


def test_codes_are_completed() -> None:
    assert "ok" in completion.audit_codes("")
    assert "policy.isv-svn" in completion.audit_codes("policy.")
    assert "broker.database-authentication" in completion.audit_codes("broker.data")


@contextmanager
def following(site: Site, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "sealserve", "broker", "log", "--follow", *arguments]
    with subprocess.Popen(
        [*command, "--directory", str(site.directory)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read(process: "subprocess.Popen[str]", count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def test_new_rows_are_printed_once_until_an_interruption(logged: Site) -> None:
    with following(logged, "--json", "--last", "2", "--code", "policy.isv-svn", "--code", "second") as process:
        lines = read(process, 2)
        append(logged, refusal("first"), refusal("second"))  # a writer is not blocked
        lines += read(process, 1)
        append(logged, *(refusal("second") for _ in range(3)))
        lines += read(process, 3)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "")
    assert errors.startswith("warning: The code 'second' does not exist in this version of sealserve.")
    assert [json.loads(line)["seq"] for line in lines] == [6, 7, 10, 11, 12, 13]
    assert all(line.rstrip("\n").isprintable() for line in lines)


def test_the_reader_of_the_rows_may_end(logged: Site) -> None:
    with following(logged) as process:
        heading, first = read(process, 2)
        assert heading.startswith("#      TIME (UTC)")
        assert first.startswith("1      ")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        append(logged, refusal("first"))
        errors = process.stderr.read()
        process.wait(60)
    assert "Traceback" not in errors


def test_rows_are_followed_from_the_beginning_of_the_database(site: Site) -> None:
    with following(site, "--json") as process:
        append(site, refusal("first"))
        (line,) = read(process, 1)
    assert json.loads(line)["code"] == "first"


def test_a_log_that_is_truncated_while_it_is_followed(logged: Site) -> None:
    with following(logged, "--json") as process:
        read(process, 8)
        with closing(sqlite3.connect(logged.workspace.owner.database)) as connection, connection:
            connection.execute("DELETE FROM audit WHERE seq = 8")
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "audit.truncated" in rest + errors
    assert "Traceback" not in errors


_COLUMNS = {
    "audit": ("format", "content", "hash", "time", "decision", "code", "release_id", "changes", "tag"),
    "audit_heads": ("hash", "time", "signature"),
    "releases": ("name", "platform", "state", "policy", "changed", "tag"),
    "reference_values": ("label", "reference", "changed", "tag"),
    "platforms": ("label", "enrolled", "tag"),
}


def test_verification_never_ends_in_a_traceback(cli: CommandLine, logged: Site) -> None:
    """Whatever another program writes, the command reports it as an error of the database or of the log."""
    path = logged.workspace.owner.database
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '')")
        connection.commit()
    genuine = path.read_bytes()
    for table, columns in _COLUMNS.items():
        for column in columns:
            for value in ("NULL", "'[[[['", "x'ff'", "1e999"):
                path.write_bytes(genuine)
                with closing(sqlite3.connect(path)) as connection, connection:
                    changed = f"UPDATE {table} SET {column} = {value} WHERE {column} IS NOT {value}"  # noqa: S608
                    if connection.execute(changed).rowcount == 0:
                        continue
                result = cli("broker", "log", "--verify", "--json")
                assert result.status == 3, (table, column, value)
                assert result.json["error"]["code"] in {
                    "audit.chain", "audit.head-signature", "audit.state", "broker.database-authentication",
                }, (table, column, value)  # fmt: skip
