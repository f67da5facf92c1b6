"""The queue of notifications: order, retries, losses, and decisions that never wait for a receiver."""

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from tests.harness.webhook_receiver import WebhookReceiver, status, write_secret

from sealserve.broker import audit
from sealserve.broker.audit import AuditRow
from sealserve.broker.audit_entry import Content, Decision, Entry
from sealserve.broker.change_watch import ChangeWatch
from sealserve.broker.notification import CHANGES, TYPES, Notifier, Timing, body, message_id, pause
from sealserve.broker.webhook import NotDeliveredError, Receiver
from sealserve.errors import SealserveError

BOTH = (Decision.RELEASED, Decision.REFUSED)
QUICK = Timing(first=0.001, longest=0.002, report=0)


def row(seq: int, decision: Decision = Decision.RELEASED, **facts: Any) -> AuditRow:
    entry = Entry(time=datetime(2026, 11, 23, 12, tzinfo=UTC), peer="10.0.0.1:5", decision=decision, code="ok", **facts)
    return AuditRow(content=Content(seq=seq, previous_hash="0" * 64, entry=entry), hash="ab" * 32)


@dataclass
class Sent:
    """A function that sends, and fails as often as ``failures`` says. ``enough`` is set after ``wanted`` calls."""

    wanted: int = 1
    failures: list[NotDeliveredError] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    enough: threading.Event = field(default_factory=threading.Event)

    def __call__(self, message: str, _body: bytes) -> None:
        self.calls.append(int(message.split("-")[1]))
        if len(self.calls) >= self.wanted:
            self.enough.set()
        if self.failures:
            raise self.failures.pop(0)


def failure(*, retry: bool) -> NotDeliveredError:
    error = NotDeliveredError("the receiver failed.")
    error.retry = retry
    return error


def test_a_notification_has_the_facts_of_the_row_and_an_id_of_its_own() -> None:
    one = row(7, release_id="r" * 64, detail="\N{SNOWMAN}", claims={"key": "not included"}, broker="b1")
    assert body(one).isascii()
    assert json.loads(body(one)) == {
        "type": "key.released",
        "timestamp": "2026-11-23T12:00:00Z",
        "data": {
            "seq": 7, "hash": "ab" * 32, "peer": "10.0.0.1:5", "decision": "released", "code": "ok",
            "detail": "\N{SNOWMAN}", "release_id": "r" * 64, "broker": "b1",
        },
    }  # fmt: skip
    assert message_id(one) == f"audit-7-{'ab' * 16}"


def test_retries_keep_the_order() -> None:
    sent = Sent(wanted=5, failures=[failure(retry=True), failure(retry=True)])
    with Notifier(sent, decisions=BOTH, timing=QUICK) as notifier:
        for seq in (1, 2, 3):
            notifier(row(seq))
        assert sent.enough.wait(60)
    assert sent.calls == [1, 1, 1, 2, 3]


def test_a_refused_notification_is_not_retried_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    sent = Sent(wanted=2, failures=[failure(retry=False)])
    with caplog.at_level(logging.WARNING), Notifier(sent, decisions=BOTH, timing=QUICK) as notifier:
        notifier(row(1))
        notifier(row(2))
        assert sent.enough.wait(60)
    assert sent.calls == [1, 2]
    assert "notifications: 1 not delivered, 0 dropped" in caplog.text
    assert "the receiver failed." in caplog.text


def test_an_old_notification_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    sent = Sent(wanted=3, failures=[failure(retry=True)] * 2)
    timing = Timing(first=0.001, longest=0.001, patience=0)
    with caplog.at_level(logging.WARNING), Notifier(sent, decisions=BOTH, timing=timing) as notifier:
        for seq in (1, 2, 3):
            notifier(row(seq))
        assert sent.enough.wait(60)
    assert sent.calls == [1, 2, 3]
    # The first loss is logged at once, the second at the end.
    assert [line.split(",")[0] for line in caplog.messages] == ["notifications: 1 not delivered"] * 2


def test_an_unexpected_error_does_not_end_the_notifications(caplog: pytest.LogCaptureFixture) -> None:
    sent = Sent(wanted=2)

    def send(message: str, content: bytes) -> None:
        sent(message, content)
        if len(sent.calls) == 1:
            raise RuntimeError("a fault")

    with Notifier(send, decisions=BOTH, timing=QUICK) as notifier:
        notifier(row(1))
        notifier(row(2))
        assert sent.enough.wait(60)
    assert sent.calls == [1, 2]
    assert "internal error while sending the notification of row 1" in caplog.text


def test_the_outcomes_are_counted() -> None:
    sent = Sent(wanted=3, failures=[failure(retry=False)])
    with Notifier(sent, decisions=BOTH, timing=QUICK, limit=3) as notifier:
        for seq in (1, 2, 3):
            notifier(row(seq))
        assert sent.enough.wait(60)
    assert notifier.totals() == {"sent": 2, "failed": 1, "dropped": 0}
    assert notifier.waiting() == 0
    notifier(row(4))  # after the end
    assert notifier.totals()["dropped"] == 1


def test_the_pause_that_the_receiver_asks_for_is_bounded() -> None:
    timing = Timing()
    for failures in (1, 5, 1000):
        longest = min(60, 2 ** min(failures - 1, 6))
        for asked in (None, 0.0, -5.0):
            assert longest / 2 <= pause(timing, failures, asked) <= longest
        assert pause(timing, failures, 200.0) == 200
        assert pause(timing, failures, 10.0**9) == pause(timing, failures, float("inf")) == 300


def test_a_long_pause_ends_when_the_broker_stops() -> None:
    later = failure(retry=True)
    later.retry_after = float("inf")
    sent = Sent(wanted=1, failures=[later])
    with Notifier(sent, decisions=BOTH) as notifier:
        notifier(row(1))
        assert sent.enough.wait(60)
    assert sent.calls == [1, 1]  # one more attempt at the end
    assert notifier.totals()["sent"] == 1


def test_each_change_has_a_type_of_its_own() -> None:
    assert set(TYPES) == set(Decision) - {Decision.FLOOR_RAISED}
    assert len(set(TYPES.values())) == len(TYPES)
    revoked = json.loads(body(row(1, Decision.REVOKED, actor="alice", release_id="r" * 64)))
    assert (revoked["type"], revoked["data"]["actor"]) == ("release.revoked", "alice")


def test_changes_of_other_processes_are_reported_once(stage: Any) -> None:
    """The stage's release was registered before. Rows of decisions are not changes."""
    seen: list[AuditRow] = []
    watch = ChangeWatch(stage.database, seen.append)
    watch.poll()
    assert seen == []
    with stage.database.write() as connection:
        for decision in (Decision.RELEASED, *sorted(CHANGES), Decision.REFUSED):
            audit.append(connection, row(0, decision).entry)
    watch.poll()
    watch.poll()
    assert [found.entry.decision for found in seen] == sorted(CHANGES)


def test_many_changes_are_reported_in_pages(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealserve.broker.change_watch._PAGE", 2)
    seen: list[AuditRow] = []
    watch = ChangeWatch(stage.database, seen.append, seconds=0.001)
    with stage.database.write() as connection:
        for _ in range(5):
            audit.append(connection, row(0, Decision.REVOKED).entry)
    with watch:
        pass
    assert len({found.seq for found in seen}) == len(seen) == 5


def test_a_database_that_fails_is_logged_once_and_tried_again(
    stage: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[AuditRow] = []
    watch = ChangeWatch(stage.database, seen.append)
    with stage.database.write() as connection:
        audit.append(connection, row(0, Decision.REVOKED).entry)
    for error, text in ((SealserveError("no.", code="broker.database"), "cannot read"), (RuntimeError(), "internal")):
        with monkeypatch.context() as patched:

            def fail(*_: object, error: Exception = error) -> None:
                raise error

            patched.setattr(audit, "head", fail)
            watch.poll()
            watch.poll()
        assert caplog.text.count(text) == 1
    watch.poll()
    assert [found.entry.decision for found in seen] == [Decision.REVOKED]


def test_other_decisions_are_not_reported() -> None:
    sent = Sent()
    with Notifier(sent, decisions=[Decision.RELEASED], timing=QUICK) as notifier:
        notifier(row(1, Decision.REFUSED))
        notifier(row(2, Decision.REVOKED))
        notifier(row(3))
        assert sent.enough.wait(60)
    assert sent.calls == [3]


def test_a_flood_is_dropped_and_counted_while_the_receiver_hangs(caplog: pytest.LogCaptureFixture) -> None:
    hanging, release = threading.Event(), threading.Event()

    def hang(_message: str, _body: bytes) -> None:
        hanging.set()
        release.wait(60)

    timing = Timing(flush=0)
    with caplog.at_level(logging.WARNING), Notifier(hang, decisions=BOTH, limit=10, timing=timing) as notifier:
        notifier(row(0, Decision.REFUSED))
        assert hanging.wait(60)
        for seq in range(1, 10_001):
            notifier(row(seq, Decision.REFUSED))
    release.set()
    (line,) = caplog.messages
    assert line == (
        "notifications: 10 not delivered, 9991 dropped because too many were waiting, 0 waiting. "
        "The audit log contains all decisions."
    )


def test_waiting_notifications_are_sent_at_the_end() -> None:
    sent = Sent(failures=[failure(retry=True)])
    with Notifier(sent, decisions=BOTH, timing=Timing(first=600, longest=600, flush=60)) as notifier:
        for seq in (1, 2, 3):
            notifier(row(seq))
        assert sent.enough.wait(60)
    assert sent.calls[-2:] == [2, 3]


def ask(stage: Any, broker: Any, **changes: Any) -> str:
    try:
        broker.release_key(stage.ratls(**changes).certificate, peer="127.0.0.1:1").wipe()
    except SealserveError as error:
        return error.code
    return "ok"


def test_each_row_of_a_decision_is_reported_with_its_place_in_the_log(stage: Any, tmp_path: Path) -> None:
    with (
        WebhookReceiver() as server,
        Receiver(server.url, secret_file=write_secret(tmp_path / "secret")) as receiver,
        Notifier(receiver.send, decisions=BOTH, timing=QUICK) as notifier,
    ):
        broker = stage.broker(notify=notifier, name="b1")
        server.answers.append(status(503))
        answers = [ask(stage, broker), ask(stage, broker, isv_svn=1), ask(stage, broker)]
        first, *received = [server.next() for _ in range(4)]
    assert answers == ["ok", "policy.isv-svn", "ok"]
    assert all(request.verifies() for request in received)
    assert first.headers["webhook-id"] == received[0].headers["webhook-id"]
    data = [request.document["data"] for request in received]
    logged = [(entry.seq, entry.hash) for entry in stage.rows() if entry.entry.decision in BOTH]
    assert [(one["seq"], one["hash"]) for one in data] == logged
    assert [request.document["type"] for request in received] == ["key.released", "key.refused", "key.released"]
    assert [one["code"] for one in data] == answers
    assert {one["broker"] for one in data} == {"b1"}


def test_decisions_do_not_wait_for_a_receiver_that_hangs(stage: Any) -> None:
    hanging, release = threading.Event(), threading.Event()

    def hang(_message: str, _body: bytes) -> None:
        hanging.set()
        assert release.wait(60)

    # The receiver is released only after all decisions. If a decision waited for it, the test would not end in time.
    with Notifier(hang, decisions=BOTH, limit=2, timing=Timing(flush=0)) as notifier:
        broker = stage.broker(notify=notifier)
        assert ask(stage, broker) == "ok"
        assert hanging.wait(60)
        assert [ask(stage, broker) for _ in range(5)] == ["ok"] * 5
        assert not release.is_set()
    release.set()


def test_a_decision_that_is_rolled_back_is_not_reported(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[AuditRow] = []
    broker = stage.broker(notify=reported.append)
    append: Callable[..., AuditRow] = audit.append

    def fail(*arguments: Any) -> AuditRow:
        append(*arguments)
        raise OperationalError("INSERT", {}, Exception("disk full"))

    with monkeypatch.context() as patch:
        patch.setattr(audit, "append", fail)
        assert ask(stage, broker) != "ok"
    assert reported == []
    assert ask(stage, broker) == "ok"
    assert [one.entry.decision for one in reported] == [Decision.RELEASED]


def test_a_key_is_in_no_notification(stage: Any) -> None:
    reported: list[AuditRow] = []
    broker = stage.broker(notify=reported.append)
    with broker.release_key(stage.ratls().certificate, peer="127.0.0.1:1") as key:
        (one,) = reported
        assert key.reveal() not in body(one)
        assert key.reveal().hex().encode() not in body(one)
