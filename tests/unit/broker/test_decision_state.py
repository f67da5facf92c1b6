"""Remembered rows decide nothing: each change of another process takes effect for the next request."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

import pytest
from sqlalchemy import Connection, update
from tests.harness.errors import raises
from tests.harness.reports import REFERENCE

from sealserve.attestation.ra_tls import parse_certificate
from sealserve.attestation.secret_provisioning import SecretForm
from sealserve.broker import admin, decision_state, platforms, stored_key
from sealserve.broker.audit_entry import Entry
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.decision import Broker
from sealserve.broker.decision_state import DecisionState
from sealserve.broker.keystore import Keystore, open_keystore, rotate_master_key
from sealserve.broker.releases import Release
from sealserve.broker.row_authentication import History
from sealserve.broker.row_key import KEY_SIZE, RowKey
from sealserve.broker.tables import EVALUATION_FLOOR, KEYS, REFERENCE_VALUES, RELEASES
from sealserve.errors import SealserveError
from sealserve.secret import SecretBytes
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.sgx.report import MrEnclave
from sealserve.terms import PlatformKind

PEER = "192.0.2.1:40000"


class Stage(Protocol):
    """The attributes of `conftest.Stage` that these tests use."""

    database: Database
    keystore: Keystore
    made: Any
    release: Release
    now: datetime
    folder: Any
    source: Any
    platform: Any

    def broker(self, **changes: Any) -> Broker: ...
    def ratls(self, platform: Any = None, **changes: Any) -> Any: ...
    def rows(self) -> list[Any]: ...


@contextlib.contextmanager
def _another_process(stage: Stage) -> Iterator[Database]:
    """Open the database as another process does: with its own connections and its own knowledge of the log."""
    url = getattr(stage.database._engine, "_url", None)
    opened = Database.open(stage.folder / "broker.sqlite") if url is None else Database.connect(url)
    assert opened is not None
    with opened:
        opened.history = History(RowKey(SecretBytes(b"k" * KEY_SIZE)))
        yield opened


def _with_remembered_rows(stage: Stage, **changes: Any) -> tuple[Broker, bytes]:
    """Return a broker that has released the key twice, so that it remembers the rows, and a certificate."""
    broker, certificate = stage.broker(**changes), stage.ratls().certificate
    for _ in range(2):
        assert broker.release_key(certificate, peer=PEER) == stage.made.key
    assert len(broker._states._states) == 1
    return broker, certificate


def _refused(stage: Stage, broker: Broker, certificate: bytes, code: str) -> Entry:
    with pytest.raises(SealserveError) as caught:  # each caller gives the code
        broker.release_key(certificate, peer=PEER)
    assert caught.value.code == code
    entry: Entry = stage.rows()[-1].entry
    assert (entry.decision, entry.code) == ("refused", code)
    return entry


def test_a_known_enclave_needs_no_reading_transaction(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(stage.source), "cached_for", lambda source, _: source.vendor.collateral(now=stage.now))
    broker, certificate = _with_remembered_rows(stage)

    def fail() -> Any:
        raise AssertionError("a reading transaction")

    broker.release_key(certificate, peer=PEER).wipe()
    monkeypatch.setattr(stage.database, "read", fail)
    assert broker.release_key(certificate, peer=PEER) == stage.made.key


def test_a_revocation_by_another_process_counts_at_once(stage: Stage) -> None:
    broker, certificate = _with_remembered_rows(stage)
    with _another_process(stage) as other:
        admin.revoke(other, "resnet50", now=stage.now)
    entry = _refused(stage, broker, certificate, "policy.release-revoked")
    assert entry.release_id == stage.release.release_id
    assert not broker._states._states


def test_the_end_of_draining_counts_at_once(stage: Stage) -> None:
    clock = [stage.now]
    broker, certificate = _with_remembered_rows(stage, clock=lambda: clock[0])
    with _another_process(stage) as other:
        admin.drain(other, "resnet50", deadline=stage.now + timedelta(hours=1), now=stage.now)
    assert broker.release_key(certificate, peer=PEER) == stage.made.key
    clock[0] += timedelta(hours=1)
    _refused(stage, broker, certificate, "policy.release-draining-ended")


def test_a_stricter_policy_an_enrolment_and_a_withdrawal_count_at_once(stage: Stage) -> None:
    broker, certificate = _with_remembered_rows(stage)
    strict = replace(stage.release, policy=replace(stage.release.policy, enrolled_platforms_only=True))
    platform_id = stage.platform.platform_id
    with _another_process(stage) as other:
        admin.allow(other, strict, {"replica-0": REFERENCE}, now=stage.now, reactivate=True)
        _refused(stage, broker, certificate, "policy.platform-unknown")
        admin.enrol_platform(other, PlatformKind.SIMULATED, platform_id, label="rack 1", now=stage.now)
        for _ in range(3):
            assert broker.release_key(certificate, peer=PEER) == stage.made.key
        admin.withdraw_platform(other, PlatformKind.SIMULATED, platform_id, now=stage.now)
    _refused(stage, broker, certificate, "policy.platform-unknown")


def test_a_raised_floor_counts_at_once(stage: Stage) -> None:
    broker, certificate = _with_remembered_rows(stage)
    with _another_process(stage) as other, other.write() as connection:
        _raise_floor(connection, stage.now)
    _refused(stage, broker, certificate, "collateral.rolled-back")


def _raise_floor(connection: Connection, now: datetime) -> None:
    ((series, row),) = platforms.floors(connection).rows.items()
    platforms.raise_evaluation_floor(connection, series, PlatformKind.SIMULATED, row["number"] + 1, now=now)


@pytest.mark.parametrize(
    "change",
    [
        update(REFERENCE_VALUES).values(label="replica-9"),
        update(RELEASES).values(name="another"),
        update(EVALUATION_FLOOR).values(number=1),
    ],
    ids=["reference values", "release", "floor"],
)
def test_a_row_that_another_program_changes_is_found_at_once(stage: Stage, change: Any) -> None:
    broker, certificate = _with_remembered_rows(stage)
    with stage.database.write() as connection:
        connection.execute(change)
    with raises(BrokerCode.DATABASE_AUTHENTICATION, match="its tag is missing or wrong"):
        broker.release_key(certificate, peer=PEER)


def test_a_release_that_is_deleted_is_unknown_in_the_audit_row_too(stage: Stage) -> None:
    broker, certificate = _with_remembered_rows(stage)
    with stage.database.write() as connection:
        connection.execute(REFERENCE_VALUES.delete())
    entry = _refused(stage, broker, certificate, "policy.mr-enclave-unknown")
    assert (entry.release_id, entry.platform_id) == (None, None)


def test_a_key_that_is_encrypted_again_is_read_again(stage: Stage) -> None:
    keystores = [stage.keystore]

    class Current:
        def decrypt(self, stored: Any) -> SecretBytes:
            return keystores[0].decrypt(stored)

    broker, certificate = _with_remembered_rows(stage, keystore=Current())
    master_key = stage.folder / "master.key"
    rotate_master_key(stage.database, stage.keystore, master_key)
    keystores[0] = open_keystore(stage.database, master_key, create=False)
    assert broker.release_key(certificate, peer=PEER) == stage.made.key


def test_a_key_that_is_replaced_after_its_decryption_is_decrypted_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, certificate = _with_remembered_rows(stage)
    decrypted = _meanwhile(monkeypatch, lambda: _encrypt_again(stage))
    assert broker.release_key(certificate, peer=PEER) == stage.made.key
    assert [len(key) for key in decrypted] == [0, 16]  # the first copy is wiped


def _encrypt_again(stage: Stage) -> None:
    fresh = open_keystore(stage.database, stage.folder / "master.key", create=False)
    with stage.database.read() as connection:
        stored = stored_key.find(connection, stage.release.key_id)
    with fresh.decrypt(stored) as key:
        again = stored_key.encrypt(stored.key_id, key, fresh._wrappers[stored.wrapper])
    with stage.database.write() as connection:
        connection.execute(update(KEYS).values(wrapped=again.wrapped))


def _meanwhile(monkeypatch: pytest.MonkeyPatch, change: Any, *, times: int = 1) -> list[SecretBytes]:
    """Make a change each time after a key is decrypted, before the audit row is written. Return the decrypted keys."""
    decrypted: list[SecretBytes] = []
    decrypt = Keystore.decrypt

    def decrypt_and_change(keystore: Keystore, stored: Any) -> SecretBytes:
        key = decrypt(keystore, stored)
        decrypted.append(key)
        if len(decrypted) <= times:
            with monkeypatch.context() as patch:
                patch.setattr(Keystore, "decrypt", decrypt)
                change()
        return key

    monkeypatch.setattr(Keystore, "decrypt", decrypt_and_change)
    return decrypted


@pytest.mark.parametrize("remembers", [False, True])
def test_a_form_that_changes_during_the_appraisal_is_the_form_of_the_key(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, remembers: bool
) -> None:
    broker, certificate = _with_remembered_rows(stage) if remembers else (stage.broker(), stage.ratls().certificate)
    text = replace(stage.release, secret_form=SecretForm.STRING)
    _meanwhile(
        monkeypatch,
        lambda: admin.allow(stage.database, text, {"replica-0": REFERENCE}, now=stage.now, reactivate=True),
    )
    with broker.release_key(certificate, peer=PEER) as key:
        assert key.reveal() == stage.made.key.reveal().hex().encode() + b"\0"


def test_a_floor_that_rises_during_the_appraisal_counts(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    broker, certificate = _with_remembered_rows(stage)

    def raise_it() -> None:
        with stage.database.write() as connection:
            _raise_floor(connection, stage.now)

    decrypted = _meanwhile(monkeypatch, raise_it)
    with raises(SgxCode.COLLATERAL_ROLLED_BACK, match="older than collateral seen before"):
        broker.release_key(certificate, peer=PEER)
    assert [len(key) for key in decrypted] == [0]


def test_rows_that_change_during_each_appraisal_end_in_a_refusal(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    broker, certificate = _with_remembered_rows(stage)
    decrypted = _meanwhile(monkeypatch, lambda: _encrypt_again(stage), times=100)
    with raises(BrokerCode.BUSY, match="the release changed while the broker appraised its enclave"):
        broker.release_key(certificate, peer=PEER)
    assert all(len(key) == 0 for key in decrypted)
    assert stage.rows()[-1].entry.code == "broker.busy"


def test_a_forged_quote_does_not_make_the_broker_forget(stage: Stage) -> None:
    broker, certificate = _with_remembered_rows(stage)
    forged = bytearray(found := parse_certificate(certificate).quote)
    forged[440] ^= 1  # a byte of the signature
    _refused(stage, broker, certificate.replace(found, bytes(forged)), "quote.signature")
    assert len(broker._states._states) == 1


def test_states_of_an_earlier_version_of_the_log_are_dropped(stage: Stage) -> None:
    broker, _ = _with_remembered_rows(stage)
    other = ReferenceValues(mr_enclave=MrEnclave(b"\x08" * 32), mr_signer=REFERENCE.mr_signer, isv_prod_id=1, isv_svn=2)
    admin.allow(stage.database, stage.release, {"replica-1": other}, now=stage.now)
    for _ in range(2):
        broker.release_key(stage.ratls(mr_enclave=other.mr_enclave).certificate, peer=PEER).wipe()
    assert [subject[0] for subject in broker._states._states] == [other.mr_enclave]


def test_many_enrolled_platforms_are_not_remembered(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_state, "_MOST_ROWS", 0)
    broker, certificate = stage.broker(), stage.ratls().certificate
    for _ in range(3):
        assert broker.release_key(certificate, peer=PEER) == stage.made.key
    assert not broker._states._states


def test_refused_clients_are_not_remembered_and_the_memory_is_bounded(stage: Stage) -> None:
    broker = stage.broker()
    with pytest.raises(SealserveError, match="ISVSVN"):
        broker.release_key(stage.ratls(isv_svn=1).certificate, peer=PEER)
    assert not broker._states._states
    states = decision_state.DecisionStates(stage.database, maximum=3)
    with stage.database.read() as connection:
        state = DecisionState.read(connection, REFERENCE.mr_enclave, REFERENCE.mr_enclave)
    for number in range(5):
        states._remember((REFERENCE.mr_enclave, type(REFERENCE.mr_enclave)(bytes([number]) * 32)), state)
    assert len(states._states) == 3
