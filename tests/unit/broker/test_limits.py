"""The limit on the keys of a platform, counted from the audit log of all brokers."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from tests.harness.errors import raises

from sealserve.broker import admin
from sealserve.broker.audit_entry import Decision
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.decision import Broker
from sealserve.broker.limits import PlatformLimit
from sealserve.errors import SealserveError
from sealserve.sgx.simulated.platform import SimulatedPlatform

LIMIT = PlatformLimit(keys=2, period=timedelta(hours=1))


def ask(stage: Any, broker: Broker, platform: SimulatedPlatform | None = None) -> None:
    broker.release_key(stage.ratls(platform).certificate, peer="127.0.0.1:1").wipe()


def test_the_third_key_is_refused_until_the_period_of_the_first_is_over(stage: Any) -> None:
    broker = stage.broker(limit=LIMIT)
    ask(stage, broker)
    stage.now += timedelta(minutes=30)
    ask(stage, broker)
    with raises(
        BrokerCode.POLICY_LIMIT,
        match=r"gets no further key now: expected at most 2 in 60 minutes, got one more request\. "
        r"Wait until 2026-11-23 13:00:00 UTC, or raise broker\.limits\.keys_per_platform",
    ) as caught:
        ask(stage, broker)
    assert caught.value.code == "policy.limit"
    stage.now += timedelta(minutes=30)
    ask(stage, broker)
    with raises(BrokerCode.POLICY_LIMIT):
        ask(stage, broker)
    decisions = [(row.entry.decision, row.entry.code) for row in stage.rows() if row.entry.decision != "allowed"]
    released, refused = (Decision.RELEASED, "ok"), (Decision.REFUSED, "policy.limit")
    assert decisions == [released, released, refused, released, refused]


def test_a_changed_database_does_not_lower_the_count_of_a_running_broker(stage: Any) -> None:
    broker = stage.broker(limit=LIMIT)
    ask(stage, broker)
    ask(stage, broker)
    with stage.database.write() as connection:
        connection.execute(text("UPDATE audit SET platform_id = NULL WHERE decision = 'released'"))
    with raises(BrokerCode.POLICY_LIMIT, match="Wait until 2026-11-23 13:00:00 UTC"):
        ask(stage, broker)
    with raises(BrokerCode.AUDIT_CHAIN):
        admin.verify_log(stage.database)
    stage.now += timedelta(hours=1)
    ask(stage, broker)


def test_attestation_results_have_a_limit_of_their_own(stage: Any) -> None:
    broker = stage.broker(limit=PlatformLimit(keys=1, results=2, period=timedelta(hours=1)))

    def attest() -> None:
        broker.attest(stage.ratls().certificate, peer="127.0.0.1:1", purpose="a result")

    ask(stage, broker)
    attest()
    attest()
    with raises(
        BrokerCode.POLICY_LIMIT,
        match=r"gets no further attestation result now: expected at most 2 .* broker\.limits\.results_per_platform",
    ):
        attest()
    with raises(BrokerCode.POLICY_LIMIT, match="gets no further key now"):
        ask(stage, broker)
    stage.now += timedelta(hours=1)
    attest()
    unlimited = stage.broker(limit=PlatformLimit(keys=1, period=timedelta(hours=1)))
    for _ in range(3):
        unlimited.attest(stage.ratls().certificate, peer="127.0.0.1:1", purpose="a result")


def test_another_platform_has_its_own_limit(stage: Any) -> None:
    broker = stage.broker(limit=LIMIT)
    other = SimulatedPlatform.create(stage.vendor, stage.folder / "other", now=stage.now)
    for platform in (None, None, other, other):
        ask(stage, broker, platform)
    for platform in (None, other):
        with raises(BrokerCode.POLICY_LIMIT):
            ask(stage, broker, platform)


def test_a_second_broker_and_a_restart_count_together(stage: Any) -> None:
    for _ in range(2):
        ask(stage, stage.broker(limit=LIMIT))
    with raises(BrokerCode.POLICY_LIMIT):
        ask(stage, stage.broker(limit=LIMIT))
    ask(stage, stage.broker())  # a broker without the setting


def test_requests_at_once_do_not_exceed_the_limit(stage: Any) -> None:
    brokers = [stage.broker(limit=LIMIT) for _ in range(8)]

    def received(broker: Broker) -> str:
        try:
            ask(stage, broker)
        except SealserveError as error:
            return error.code
        return "ok"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(received, brokers)) == ["ok"] * 2 + ["policy.limit"] * 6


def test_refusals_do_not_count(stage: Any) -> None:
    broker = stage.broker(limit=LIMIT)
    for _ in range(3):
        with pytest.raises(SealserveError):
            broker.release_key(stage.ratls(isv_svn=1).certificate, peer="127.0.0.1:1")
    ask(stage, broker)


def test_the_count_uses_an_index(tmp_path: Path) -> None:
    query = (
        "EXPLAIN QUERY PLAN SELECT time FROM audit WHERE platform_id = 'x' AND time > 'y' ORDER BY time DESC LIMIT 2"
    )
    with Database.open(tmp_path / "own.sqlite") as database, database.read() as connection:
        (plan,) = connection.execute(text(query)).all()
    assert "USING INDEX ix_audit_platform_id_time (platform_id=? AND time>?)" in plan[3].replace("COVERING ", "")
