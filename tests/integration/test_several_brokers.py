"""Several broker processes over one database: what one changes holds for the others, and one may die at any moment."""

import contextlib
import queue
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.harness.broker_process import PATIENT, RELEASE, Place, Running, open_place, place
from tests.harness.errors import raises
from tests.harness.postgresql import Server
from tests.harness.reports import REFERENCE

from sealserve.broker import admin
from sealserve.broker.audit_entry import Decision
from sealserve.enclave.codes import EnclaveCode
from sealserve.errors import SealserveError
from sealserve.terms import PlatformKind

pytestmark = [
    pytest.mark.integration,
    # Python's `ssl` leaves a socket open whose peer is gone before the handshake.
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

CLIENTS, AT_ONCE = 100, 8
_KILLS = 8


@pytest.fixture
def shared(tmp_path: Path, postgresql: Server) -> Iterator[Place]:
    with place(tmp_path, postgresql.url(postgresql.new_database())) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        where = str(tmp_path / "broker.sqlite")
    else:
        server: Server = request.getfixturevalue("postgresql")
        where = server.url(server.new_database())
    with place(tmp_path, where) as made:
        yield made


def test_a_broker_that_is_killed_costs_only_the_requests_in_flight(shared: Place) -> None:
    first, second = shared.start("first"), shared.start("second")
    counted, lock, killed = Counter[str](), threading.Lock(), threading.Event()

    def enclave(number: int) -> None:
        # The clients prefer the brokers in turn, as with a name that has two addresses.
        order = (first, second) if number % 2 else (second, first)
        with lock:
            begun_after = killed.is_set()
        try:
            assert shared.ask(*order) == shared.made.key.reveal()
            outcome = "got the key"
        except SealserveError as error:
            if begun_after or not error.code.startswith("provisioning."):  # it was not in flight
                raise
            outcome = "in flight"
        with lock:
            counted[outcome] += 1
            if counted["got the key"] == CLIENTS // 3 and not killed.is_set():
                first.kill()
                killed.set()
        if outcome == "in flight":  # an enclave without its key ends, and starts again
            assert shared.ask(second, first) == shared.made.key.reveal()

    with ThreadPoolExecutor(AT_ONCE) as enclaves:
        list(enclaves.map(enclave, range(CLIENTS)))
    assert killed.is_set()
    assert counted.total() == CLIENTS
    assert counted["in flight"] < AT_ONCE
    released = Counter(shared.released())  # the chain verifies
    assert released.keys() == {"first", "second"}
    assert released.total() >= CLIENTS  # a row without a key is possible, a key without a row is not
    assert released.total() - CLIENTS <= AT_ONCE
    assert shared.ask(second) == shared.made.key.reveal()


def test_a_change_takes_effect_on_each_broker_at_once(shared: Place) -> None:
    brokers = shared.start("first"), shared.start("second")
    for broker in brokers:
        assert shared.ask(broker) == shared.made.key.reveal()
    with open_place(shared.where) as database:
        now = datetime.now(UTC)
        known = admin.find_release(database, RELEASE).release
        # A policy that requires an enrolled platform, then the enrollment.
        platform_id = next(
            row.entry.platform_id for row in admin.log(database) if row.entry.decision is Decision.RELEASED
        )
        assert platform_id is not None
        enrolled_only = replace(known, policy=replace(known.policy, enrolled_platforms_only=True))
        admin.allow(database, enrolled_only, {"replica-0": REFERENCE}, now=now, reactivate=True)
        for broker in brokers:
            with raises(EnclaveCode.PROVISIONING_REFUSED):
                shared.ask(broker)
        admin.enrol_platform(database, PlatformKind.SIMULATED, platform_id, label="rack 1", now=now)
        for broker in brokers:
            assert shared.ask(broker) == shared.made.key.reveal()
        admin.withdraw_platform(database, PlatformKind.SIMULATED, platform_id, now=now)
        for broker in brokers:
            with raises(EnclaveCode.PROVISIONING_REFUSED):
                shared.ask(broker)
        admin.enrol_platform(database, PlatformKind.SIMULATED, platform_id, label="rack 1", now=now)
        admin.drain(database, RELEASE, deadline=datetime.now(UTC) + timedelta(hours=1), now=datetime.now(UTC))
        for broker in brokers:
            assert shared.ask(broker) == shared.made.key.reveal()
        admin.revoke(database, RELEASE, now=now)
        for broker in brokers:
            with raises(EnclaveCode.PROVISIONING_REFUSED):
                shared.ask(broker)
        refused = [(row.entry.broker, row.entry.code) for row in admin.log(database)][-2:]
    assert refused == [("first", "policy.release-revoked"), ("second", "policy.release-revoked")]


def test_a_kill_at_any_moment_loses_no_row_of_a_key(either: Place) -> None:
    """The broker is killed at different moments while clients ask, and starts again on the same database."""
    keys: list[bytes] = []
    for kills in range(_KILLS):
        broker = either.start(f"start-{kills}")
        got: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        with ThreadPoolExecutor(AT_ONCE) as enclaves:
            for _ in range(AT_ONCE):
                enclaves.submit(_ask_once, either, broker, got)
            # The moment: as soon as this number of clients got a key, while the others are in flight.
            received = [got.get(timeout=PATIENT) for _ in range(kills % AT_ONCE)]
            broker.kill()
        while not got.empty():
            received.append(got.get())
        keys += [key for key in received if key is not None]
        assert len(either.released()) >= len(keys)  # the chain verifies
    assert set(keys) == {either.made.key.reveal()}
    assert either.ask(either.start("again")) == either.made.key.reveal()


def _ask_once(place: Place, broker: Running, got: "queue.SimpleQueue[bytes | None]") -> None:
    key = None
    with contextlib.suppress(SealserveError):
        key = place.ask(broker)
    got.put(key)


def test_two_brokers_that_start_together_create_the_tables_once(tmp_path: Path, postgresql: Server) -> None:
    where, ready = postgresql.url(postgresql.new_database()), threading.Barrier(4)

    def open_it(_: int) -> None:
        ready.wait()
        open_place(where).close()

    with ThreadPoolExecutor(4) as brokers:
        list(brokers.map(open_it, range(4)))
    with place(tmp_path, where) as made:
        assert made.released() == []
