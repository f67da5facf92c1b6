"""Reading the audit log over the network: filters, pages, new rows, and a broker that gives odd answers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from tests.harness.administration import RemoteSite
from tests.harness.errors import raises

from sealserve.broker import admin, audit
from sealserve.broker.administration import log_reader
from sealserve.broker.administration.log_reader import rows_forever, selected_rows
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.audit_selection import LogPage, Selection, page
from sealserve.broker.codes import BrokerCode
from sealserve.broker.releases import ReleaseUnknownError
from sealserve.errors import InputError
from sealserve.terms import AdministratorRole, PlatformKind

VIEWER = AdministratorRole.VIEWER
PLATFORM = "0" * 32
LABEL = "rack 3 & ü=%2f"


@pytest.fixture
def logged(remote: RemoteSite) -> RemoteSite:
    """Rows of two platforms with several codes. Row 1 is the issuing authority's, and row 2 registers the release."""
    admin.enrol_platform(remote.database, PlatformKind.SIMULATED, PLATFORM, label=LABEL, now=remote.site.now)
    for number in range(8):
        append(remote, code="policy.isv-svn" if number % 2 else "policy.limit", platform_id=f"{number % 4:032x}")
    return remote


def append(remote: RemoteSite, *, code: str, platform_id: str | None = None, age: timedelta = timedelta()) -> None:
    entry = Entry(
        time=datetime.now(UTC) - age,
        peer="192.0.2.1:1",
        decision=Decision.REFUSED,
        code=code,
        platform_id=platform_id,
    )
    with remote.database.write() as connection:
        audit.append(connection, entry)


@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(last=3),
        Selection(codes=("policy.limit",)),
        Selection(codes=("policy.limit", "ok")),
        Selection(codes=("policy.limit",), last=2),
        Selection(platform=LABEL),
        Selection(platform="000000", codes=("policy.isv-svn",)),
        Selection(release="resnet50"),
        Selection(release="a" * 6),
        Selection(since=datetime.now(UTC) - timedelta(days=1)),
        Selection(since=datetime.max.replace(tzinfo=UTC)),
        Selection(since=datetime.min.replace(tzinfo=UTC)),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_filters_select_the_same_rows_as_on_the_owners_machine(
    logged: RemoteSite, selection: Selection, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "LARGEST_PAGE", size)
    expected, _ = admin.select_log(logged.database, selection)
    with logged.client(VIEWER) as client:
        rows, end = selected_rows(client, selection)
    assert (list(rows), end) == (expected, 11)


def test_a_filter_that_no_row_can_match_has_the_same_result(logged: RemoteSite) -> None:
    with logged.client(VIEWER) as client:
        assert selected_rows(client, Selection(codes=("No Code",))) == ([], 11)
        assert selected_rows(client, Selection(codes=("nope",))) == ([], 11)
        for release in ("nowhere", "../x", "a" * 5):
            with pytest.raises(InputError) as found:
                selected_rows(client, Selection(release=release))
            assert found.value.code == ReleaseUnknownError.code
        with raises(BrokerCode.PLATFORM_NOT_ENROLLED, match="No enrolled platform has the label"):
            selected_rows(client, Selection(platform="nowhere"))


def test_new_rows_are_followed_once(logged: RemoteSite) -> None:
    def grow() -> None:
        append(logged, code="policy.limit")
        append(logged, code="policy.isv-svn")

    with logged.client(VIEWER) as client:
        follower = rows_forever(client, Selection(codes=("policy.limit",), last=1), grow)
        assert [row.seq for row in islice(follower, 4)] == [10, 12, 14, 16]
        # A code that no row can have is followed without a request.
        waits = iter(range(3))
        silent = rows_forever(client, Selection(codes=("No Code",)), lambda: next(waits))
        with pytest.raises(RuntimeError, match="StopIteration"):
            next(silent)


def test_a_shorter_log_is_reported(logged: RemoteSite) -> None:
    with logged.client(VIEWER) as client:
        follower = rows_forever(client, Selection(), lambda: None)
        list(islice(follower, 11))
        with logged.database.write() as connection:
            connection.exec_driver_sql("DELETE FROM audit WHERE seq > 5")
        with raises(BrokerCode.AUDIT_TRUNCATED, match="it had 11 rows, but now has 5"):
            next(follower)


def test_rows_of_a_page_that_is_cut_by_a_changed_column_are_not_lost(logged: RemoteSite) -> None:
    """The query finds a row by its column, but its content has another code. The page is empty, and not the last."""
    with logged.database.write() as connection:
        connection.exec_driver_sql("UPDATE audit SET code = 'ok' WHERE seq IN (4, 5)")
    with logged.database.read() as connection:
        cut = page(connection, Selection(codes=("ok",)), after=3, limit=2)
    assert (cut.rows, cut.next, cut.end) == ([], 5, 11)


def test_rows_out_of_order_are_an_odd_answer(logged: RemoteSite, monkeypatch: pytest.MonkeyPatch) -> None:
    with logged.client(VIEWER) as client:
        genuine = client.log_page(Selection(), after=0, limit=1000)
        answers = {
            "reversed": replace(genuine, rows=genuine.rows[::-1]),
            "twice": replace(genuine, rows=[genuine.rows[0], genuine.rows[0]]),
            "no progress": replace(genuine, rows=[], next=0),
            "backwards": replace(genuine, next=1),
        }
        for answer in answers.values():
            monkeypatch.setattr(type(client), "_call", lambda *_, found=answer: Answered(found))
            with raises(BrokerCode.ADMINISTRATION_REPLY, match="not in order"):
                client.log_page(Selection(), after=0, limit=1000)


class Answered:
    """A reply document with a value."""

    def __init__(self, found: LogPage) -> None:
        self.found = found

    def value(self) -> LogPage:
        """Return the value."""
        return self.found
