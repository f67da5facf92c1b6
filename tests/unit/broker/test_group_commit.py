import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import pytest
from sqlalchemy.exc import OperationalError
from tests.harness.errors import raises

from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.codes import BrokerCode
from sealserve.broker.group_commit import GroupCommit
from sealserve.cluster.local.processes import wait_until
from sealserve.errors import SealserveError

NOW = datetime(2026, 11, 29, tzinfo=UTC)
PATIENT = 60.0


def _entry(code: str) -> Entry:
    return Entry(time=NOW, peer="192.0.2.1:1", decision=Decision.RELEASED, code=code)


@dataclass(slots=True)
class Transaction:
    """A transaction that collects codes. The store gets them at the commit."""

    codes: list[str] = field(default_factory=list)
    fails_at: str = ""

    def append(self, entry: Entry) -> None:
        if entry.code == self.fails_at:
            raise ValueError(f"the row {entry.code} cannot be written")
        self.codes.append(entry.code)


@dataclass(slots=True)
class Store:
    """Stands in for the database. A test may hold transactions, or let them fail."""

    committed: list[list[str]] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    failures: dict[int, BaseException] = field(default_factory=dict)  # by the number of the transaction
    count: int = 0
    fails_at: str = ""

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        self.begun.set()
        assert self.go_on.wait(PATIENT)
        found = Transaction(fails_at=self.fails_at)
        yield found
        self.count += 1
        if self.count in self.failures:
            raise self.failures[self.count]
        self.committed.append(found.codes)


@pytest.fixture
def store() -> Store:
    made = Store()
    made.go_on.set()
    return made


@pytest.fixture
def group(store: Store) -> GroupCommit[Transaction]:
    return GroupCommit(store.transaction, maximum=8)


def _queue(
    group: GroupCommit[Transaction], store: Store, threads: ThreadPoolExecutor, prepares: list[Callable[[], Entry]]
) -> list[Callable[[], None]]:
    """Hold the first decision in its transaction until the others have queued. Return functions that await each one."""
    store.go_on.clear()
    store.begun.clear()
    futures = []
    for number, prepare in enumerate(prepares):
        futures.append(threads.submit(group.submit, _rows_of(prepare)))
        assert store.begun.wait(PATIENT)
        assert wait_until(partial(_has_queued, group, number), seconds=PATIENT)
    store.go_on.set()
    return [partial(future.result, PATIENT) for future in futures]


def _rows_of(prepare: Callable[[], Entry]) -> Callable[[Transaction], list[Entry]]:
    return lambda _: [prepare()]


def _has_queued(group: GroupCommit[Transaction], number: int) -> bool:
    return len(group) == number


def _ok(code: str) -> Callable[[], Entry]:
    return lambda: _entry(code)


def _refuse(error: BaseException) -> Callable[[], Entry]:
    def prepare() -> Entry:
        raise error

    return prepare


def test_a_lone_decision_is_committed_at_once(group: GroupCommit[Transaction], store: Store) -> None:
    group.submit(lambda _: [_entry("a"), _entry("b")])
    group.submit(lambda _: [_entry("c")])
    assert store.committed == [["a", "b"], ["c"]]


def test_decisions_that_queue_during_a_commit_share_the_next_one(group: GroupCommit[Transaction], store: Store) -> None:
    with ThreadPoolExecutor(6) as threads:
        for done in _queue(group, store, threads, [_ok(code) for code in "abcdef"]):
            done()
    assert store.committed == [["a"], ["b", "c", "d", "e", "f"]]


def test_a_group_has_a_maximum_size(group: GroupCommit[Transaction], store: Store) -> None:
    with ThreadPoolExecutor(12) as threads:
        for done in _queue(group, store, threads, [_ok(code) for code in "abcdefghijkl"]):
            done()
    assert [len(codes) for codes in store.committed] == [1, 8, 3]


def test_a_failed_check_refuses_only_its_own_decision(group: GroupCommit[Transaction], store: Store) -> None:
    refusal = BrokerCode.RELEASE_FINAL.error("The release is revoked.")
    with ThreadPoolExecutor(4) as threads:
        first, second, third, fourth = _queue(
            group, store, threads, [_ok("a"), _refuse(refusal), _ok("c"), _refuse(ZeroDivisionError("a bug"))]
        )
        first()
        with pytest.raises(SealserveError, match="revoked") as caught:
            second()
        assert caught.value is refusal
        third()
        with pytest.raises(ZeroDivisionError):
            fourth()
    assert store.committed == [["a"], ["c"]]


def test_a_row_that_cannot_be_written_refuses_its_group(group: GroupCommit[Transaction], store: Store) -> None:
    store.fails_at = "b"
    with ThreadPoolExecutor(3) as threads:
        first, *others = _queue(group, store, threads, [_ok("a"), _ok("b"), _ok("c")])
        first()
        for done in others:
            with pytest.raises(ValueError, match="the row b cannot be written"):
                done()
    assert store.committed == [["a"]]


def test_a_decision_is_never_written_in_part(group: GroupCommit[Transaction], store: Store) -> None:
    store.fails_at = "b"
    with pytest.raises(ValueError, match="the row b"):
        group.submit(lambda _: [_entry("a"), _entry("b")])
    assert store.committed == []


@pytest.mark.parametrize("in_check", [False, True])
def test_a_failed_database_refuses_the_whole_group(
    group: GroupCommit[Transaction], store: Store, *, in_check: bool
) -> None:
    failure = BrokerCode.DATABASE.error("The disk is full.", hint="Free some space.")
    broken = OperationalError("INSERT", {}, Exception("disk I/O error"))
    if not in_check:
        store.failures[2] = failure
    with ThreadPoolExecutor(3) as threads:
        first, *others = _queue(group, store, threads, [_ok("a"), _ok("b"), _refuse(broken) if in_check else _ok("c")])
        first()
        errors = []
        for done in others:
            with pytest.raises(Exception, match="disk") as caught:
                done()
            errors.append(caught.value)
    assert store.committed == [["a"]]
    if not in_check:
        # Threads raise separate objects with the same code and text.
        assert errors[0] is not errors[1]
        assert all((error.code, error.hint) == ("broker.database", failure.hint) for error in errors)  # type: ignore[attr-defined]
    # The next decision is written again.
    group.submit(lambda _: [_entry("d")])
    assert store.committed == [["a"], ["d"]]


def test_a_database_that_cannot_be_opened_refuses_the_decision() -> None:
    def closed() -> contextlib.AbstractContextManager[Transaction]:
        raise BrokerCode.DATABASE.error("The database is locked.")

    group = GroupCommit(closed)
    for _ in range(2):
        with raises(BrokerCode.DATABASE, match="locked"):
            group.submit(lambda _: [_entry("a")])


def test_each_of_many_decisions_is_committed_before_it_returns(group: GroupCommit[Transaction], store: Store) -> None:
    def decide(number: int) -> None:
        for round_ in range(20):
            code = f"{number}-{round_}"
            group.submit(_rows_of(_ok(code)))
            assert any(code in codes for codes in list(store.committed))

    with ThreadPoolExecutor(32) as threads:
        list(threads.map(decide, range(32)))
    written = [code for codes in store.committed for code in codes]
    assert len(written) == len(set(written)) == 32 * 20
    assert len(group) == 0
