"""Concurrent requests that share a transaction, while the state changes, the power fails or the disk is full."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

import pytest
from sqlalchemy import event
from tests.harness.broker_databases import ONLY_SQLITE

from sealserve.broker import audit, decision_records, releases
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.database import Database
from sealserve.broker.decision import Broker
from sealserve.broker.group_commit import GroupCommit
from sealserve.broker.keystore import Keystore
from sealserve.broker.releases import ReleaseId
from sealserve.cluster.local.processes import wait_until
from sealserve.errors import SealserveError
from sealserve.secret import SecretBytes
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.sgx.report import MrEnclave

PATIENT = 120.0
REQUESTS = 64
OTHER = MrEnclave(b"\x08" * 32)


class Stage(Protocol):
    """The fixture from conftest, whose type other modules cannot import."""

    database: Database
    keystore: Keystore
    release: releases.Release
    now: Any

    def broker(self, **changes: Any) -> Broker: ...
    def ratls(self, **changes: Any) -> Any: ...
    def allow(self, release: releases.Release, *references: ReferenceValues) -> None: ...
    def rows(self) -> list[Any]: ...


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SecretBytes]]:
    """All keys that the keystore decrypted."""
    loaded: list[SecretBytes] = []
    load = Keystore.decrypt

    def remember(self: Keystore, *arguments: Any) -> SecretBytes:
        loaded.append(key := load(self, *arguments))
        return key

    monkeypatch.setattr(Keystore, "decrypt", remember)
    yield loaded
    for key in loaded:
        key.wipe()


def _allow_another(stage: Stage) -> None:
    key_id = stage.keystore.create(stage.database, now=stage.now).key_id
    other = replace(stage.release, release_id=ReleaseId("b" * 64), name="other", key_id=key_id)
    stage.allow(other, ReferenceValues(mr_enclave=OTHER, mr_signer=_signer_of(stage), isv_prod_id=1, isv_svn=2))


def _signer_of(stage: Stage) -> Any:
    with stage.database.read() as connection:
        reference = releases.references_of(connection, stage.release.release_id)[0]
    return ReferenceValues.from_json(reference.values).mr_signer


def _ask(broker: Broker, certificate: bytes, number: int) -> str:
    try:
        with broker.release_key(certificate, peer=f"192.0.2.{number}:1") as key:
            assert len(key) == 16
    except SealserveError as error:
        return error.code
    return "ok"


def test_a_release_that_is_revoked_while_64_requests_wait_gets_none_of_their_keys(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, released: list[SecretBytes]
) -> None:
    _allow_another(stage)
    groups: list[GroupCommit[Any]] = []

    def make_group(open_: Any) -> GroupCommit[Any]:
        groups.append(GroupCommit(open_))
        return groups[0]

    monkeypatch.setattr(decision_records, "GroupCommit", make_group)
    broker = stage.broker()
    certificates = [stage.ratls().certificate, stage.ratls(mr_enclave=OTHER).certificate]
    assert _ask(broker, certificates[0], 100) == "ok"  # stores the evaluation number
    released.clear()
    with ThreadPoolExecutor(REQUESTS) as threads:
        # Hold the write lock until all requests have passed every check and wait for it.
        with stage.database.write() as connection:
            asked = [threads.submit(_ask, broker, certificates[number % 2], number) for number in range(REQUESTS)]
            assert wait_until(lambda: len(groups[0]) == REQUESTS - 1, seconds=PATIENT)
            assert len(released) == REQUESTS
            # Meanwhile the owner revokes the release of half of them.
            revoked = stage.release.release_id
            entry = Entry(time=stage.now, peer="owner", decision=Decision.REVOKED, code="ok", release_id=revoked)
            audit.append(connection, entry)
            releases.revoke(connection, revoked)
        codes = [future.result(PATIENT) for future in asked]
    assert set(codes[0::2]) == {"policy.release-revoked"}
    assert set(codes[1::2]) == {"ok"}
    # Each key has a row, each refusal has a row, and no key is left in memory.
    entries = [row.entry for row in stage.rows()]
    assert Counter(entry.code for entry in entries if entry.decision == "released") == {"ok": 33}
    assert Counter(entry.code for entry in entries if entry.decision == "refused") == {"policy.release-revoked": 32}
    assert all(len(key) == 0 for key in released)


def test_power_fails_between_a_row_and_its_commit(stage: Stage, released: list[SecretBytes]) -> None:
    class PowerCut(BaseException):
        pass

    def cut(connection: Any) -> None:
        options = connection.get_execution_options()
        if options.get("sealserve_write") or options.get("postgresql_readonly") is False:  # a writing transaction
            raise PowerCut

    broker, certificate = stage.broker(), stage.ratls().certificate
    assert _ask(broker, certificate, 0) == "ok"  # stores the evaluation number
    released.clear()
    event.listen(stage.database._engine.engine, "commit", cut)
    with pytest.raises(PowerCut):
        broker.release_key(certificate, peer="192.0.2.1:1")
    event.remove(stage.database._engine.engine, "commit", cut)
    assert [len(key) for key in released] == [0]
    assert [row.entry.decision for row in stage.rows()] == ["allowed", "released"]
    # The broker still works.
    assert _ask(broker, certificate, 1) == "ok"


@ONLY_SQLITE
def test_a_full_disk_releases_no_key_and_later_space_releases_it(
    stage: Stage, released: list[SecretBytes], caplog: pytest.LogCaptureFixture
) -> None:
    broker, certificate = stage.broker(), stage.ratls().certificate

    def limit(dbapi: Any, pages: int) -> None:
        dbapi.execute(f"PRAGMA max_page_count = {pages}")

    def full(dbapi: Any, *_: object) -> None:
        limit(dbapi, dbapi.execute("PRAGMA page_count").fetchone()[0])

    def space(dbapi: Any, *_: object) -> None:
        limit(dbapi, 1 << 20)

    # Fill the pages that the file already has. SQLite then reports a full disk, as the kernel does.
    event.listen(stage.database._engine.engine, "checkout", full)
    results = set()
    with ThreadPoolExecutor(8) as threads:
        for _ in range(40):
            results |= set(threads.map(lambda number: _ask(broker, certificate, number), range(8)))
            if "broker.database" in results:
                break
    assert results <= {"ok", "broker.database"}
    assert "broker.database" in results
    assert "database or disk is full" in caplog.text
    rows = [row.entry for row in stage.rows()]
    # Exactly the keys with a row were released, and no refused request left a key in memory.
    assert len(released) > sum(entry.decision == "released" for entry in rows)
    assert all(len(key) == 0 for key in released)
    # After the owner has freed space, the next request gets its key.
    event.remove(stage.database._engine.engine, "checkout", full)
    event.listen(stage.database._engine.engine, "checkout", space)
    assert _ask(broker, certificate, 1) == "ok"
