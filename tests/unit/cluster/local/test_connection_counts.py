"""Counts of the connections that NGINX has forwarded, from its log."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sealserve.cluster.local import connection_counts
from sealserve.cluster.local.connection_counts import count_connections, read_connections

START = datetime(2026, 11, 28, 12, 0, 0, 900_000, tzinfo=UTC)
ONE, TWO = "127.0.0.1:1", "127.0.0.1:2"


def line(time: str, replica: str, status: int = 200, name: str = "x") -> str:
    quoted = json.dumps(name)
    return (
        f'{{"time":"{time}+00:00","client":"127.0.0.1:9","server_name":{quoted},'
        f'"replica":"{replica}","status":{status},"seconds":0.1}}\n'
    )


def test_connections_are_those_of_the_replica_that_runs() -> None:
    log = (
        line("2026-11-28T11:59:59", ONE)
        + line("2026-11-28T12:00:00", ONE)
        + line("2026-11-28T12:00:01", f"{TWO}, {ONE}")
        + line("2026-11-28T12:00:02", TWO, status=502)
        + line("2026-11-28T12:00:03", "127.0.0.1:3")
        + "torn\n"
    )
    assert count_connections(log, {ONE: START, TWO: START}) == {ONE: 2, TWO: 0}


def test_a_server_name_cannot_look_like_a_replica() -> None:
    forged = line("2026-11-28T12:00:05", ONE, name=f'","replica":"{TWO}","status":200,"')
    assert count_connections(forged, {ONE: START, TWO: START}) == {ONE: 1, TWO: 0}


def test_a_log_that_is_too_large_gives_no_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "nginx-access.log"
    assert read_connections(log, {ONE: START}) == {ONE: 0}
    log.write_text(line("2026-11-28T12:00:05", ONE))
    assert read_connections(log, {ONE: START}) == {ONE: 1}
    monkeypatch.setattr(connection_counts, "_MOST_READ", 10)
    assert read_connections(log, {ONE: START}) is None
