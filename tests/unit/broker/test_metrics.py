"""The broker's metrics page over HTTP."""

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.harness.errors import raises
from tests.unit.broker.conftest import Stage

from sealserve import __version__
from sealserve.broker import metrics, metrics_server
from sealserve.broker.codes import BrokerCode
from sealserve.broker.metrics import Decisions, Fetched, Observed, Outcome
from sealserve.broker.metrics_server import MetricsServer
from sealserve.errors import SealserveError, VerificationError

NOW = datetime(2026, 11, 25, tzinfo=UTC)
SECONDS = int(NOW.timestamp())


def observed(decisions: Decisions | None = None) -> Observed:
    return Observed(
        decisions=decisions or Decisions(),
        certificates=lambda: {"broker": NOW},
        collateral=lambda: {("sgx", "qe/identity"): Fetched(NOW, NOW)},
        ready=lambda: None,
    )


def values(page: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return the value of each sample, by its name and its labels' values without ``le``."""
    return {
        (sample.name, tuple(sample.labels[name] for name in _ORDER if name in sample.labels)): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.labels.get("le", "+Inf") == "+Inf"
    }


_ORDER = ("outcome", "code", "certificate", "vendor", "document", "stage", "file", "state", "version")


def ask(port: int, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_the_page() -> None:
    decisions = Decisions()
    decisions.count(Outcome.REFUSED, "policy.mr-enclave")
    decisions.count(Outcome.REFUSED, "policy.mr-enclave")
    with MetricsServer(observed(decisions), 0) as server:
        status, page = ask(server.port)
        assert ask(server.port, "/")[0] == 404
        assert ask(server.port, method="POST")[0] == 501
    assert status == 200
    found = values(page)
    assert found["sealserve_broker_decisions_total", ("refused", "policy.mr-enclave")] == 2
    assert found["sealserve_broker_decisions_total", ("released", "")] == 0
    assert found["sealserve_broker_certificate_expiry_timestamp_seconds", ("broker",)] == SECONDS
    assert found["sealserve_broker_collateral_fetched_timestamp_seconds", ("sgx", "qe/identity")] == SECONDS
    assert found["sealserve_broker_info", (__version__,)] == 1
    assert found["process_open_fds", ()] > 0
    assert "_created" not in page


def test_a_port_that_is_taken() -> None:
    with MetricsServer(observed(), 0) as server:
        with raises(
            BrokerCode.METRICS_PORT,
            match=r"The broker cannot serve its metrics page on 127\.0\.0\.1 port \d+: Address already in "
            r"use",
        ) as caught:
            MetricsServer(observed(), server.port)
        assert caught.value.code == "broker.metrics-port"


def test_what_cannot_be_read_for_now_is_said(caplog: pytest.LogCaptureFixture) -> None:
    def torn() -> Mapping[str, datetime]:
        raise VerificationError("the certificate is torn")

    broken = Observed(decisions=Decisions(), certificates=torn, collateral=dict, ready=lambda: None)
    with MetricsServer(broken, 0) as server:
        assert ask(server.port)[0] == 503
    assert "the certificate is torn" in caplog.text


def test_health_and_readiness() -> None:
    problems: list[SealserveError] = []

    def ready() -> None:
        for problem in problems:
            raise problem

    with MetricsServer(replace(observed(), ready=ready), 0) as server:
        assert ask(server.port, "/healthz") == (200, "ok\n")
        assert ask(server.port, "/readyz") == (200, "ok\n")
        problems.append(BrokerCode.BUSY.error("The file /secret/path failed."))
        assert ask(server.port, "/healthz") == (200, "ok\n")
        assert ask(server.port, "/readyz") == (503, "broker.busy\n")
        problems.clear()
        assert ask(server.port, "/readyz?verbose") == (200, "ok\n")


def test_garbage_ends_one_connection_alone() -> None:
    with MetricsServer(observed(), 0) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as stream:
            stream.sendall(b"\x16\x03\x01" + b"A" * 70000 + b"\r\n\r\n")
            stream.shutdown(socket.SHUT_WR)
            while stream.recv(4096):
                pass
        assert ask(server.port)[0] == 200


def drip(stream: socket.socket) -> None:
    while True:  # send a header line from time to time
        stream.sendall(b"X: y\r\n")
        time.sleep(0.05)


def test_slow_peers_keep_nobody_out_and_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "_SECONDS", 0.3)  # limits the total time, although each line arrives sooner
    with MetricsServer(observed(), 0) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(3)]
        for stream in slow:
            stream.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert ask(server.port)[0] == 200
        for stream in slow:
            stream.settimeout(10)
            with pytest.raises(OSError, match=r"Broken pipe|reset"):
                drip(stream)
        assert ask(server.port)[0] == 200


def test_there_are_few_at_a_time_and_the_oldest_goes() -> None:
    others = threading.active_count()  # threads of earlier tests in this process
    with MetricsServer(observed(), 0) as server, contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            for _ in range(metrics_server._PLACES + 3)
        ]
        assert ask(server.port)[0] == 200
        assert [stream.recv(1) for stream in streams[:3]] == [b""] * 3
        streams[-1].sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert streams[-1].recv(12) == b"HTTP/1.0 200"
    assert threading.active_count() - others < metrics_server._PLACES + 3  # stopping the server ends all of them


def test_the_broker_counts_what_it_decides(stage: Stage) -> None:
    broker = stage.broker()
    stage.allow(stage.release)
    with broker.release_key(stage.ratls().certificate, peer="192.0.2.1:1"):
        pass
    with pytest.raises(SealserveError) as refused:
        broker.release_key(stage.ratls(mr_enclave=b"x" * 32).certificate, peer="192.0.2.1:1")
    with pytest.raises(SealserveError) as nothing:
        broker.release_key(b"no certificate", peer="192.0.2.1:1")
    broker.turn_away(VerificationError("no"), peer="192.0.2.1:1")
    assert {key: count for key, count in broker.decisions.all().items() if count} == {
        (Outcome.RELEASED, ""): 1,
        (Outcome.REFUSED, refused.value.code): 1,
        (Outcome.TURNED_AWAY, nothing.value.code): 1,
        (Outcome.TURNED_AWAY, VerificationError.code): 1,
    }


def test_the_number_of_series_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_MOST_CODES", 5)
    monkeypatch.setattr(metrics, "_MOST_DOCUMENTS", 3)
    decisions = Decisions()
    for number in range(100):
        decisions.count(Outcome.TURNED_AWAY, f"code-{number}")
    documents = {
        ("sgx", f"tcb?fmspc={number}"): Fetched(NOW, NOW + timedelta(days=30 - number)) for number in range(10)
    }
    page = replace(observed(decisions), collateral=lambda: documents).page()
    found = values(page)
    assert sum(name == "sealserve_broker_decisions_total" for name, _ in found) == 6
    assert found["sealserve_broker_decisions_total", ("turned-away", "other")] == 99
    shown = {labels for name, labels in found if name == "sealserve_broker_collateral_fetched_timestamp_seconds"}
    assert shown == {("sgx", f"tcb?fmspc={number}") for number in (7, 8, 9)}  # the first ones to expire


def test_a_label_cannot_break_a_line() -> None:
    hostile = 'x"} 1\nforged_metric 1\n# \\'
    page = replace(observed(), collateral=lambda: {("sgx", hostile): Fetched(NOW, NOW)}).page()
    assert ("sealserve_broker_collateral_fetched_timestamp_seconds", ("sgx", hostile)) in values(page)
    assert not any(line.startswith("forged_metric") for line in page.splitlines())


def test_the_stages_of_a_request_are_measured(stage: Stage) -> None:
    broker = stage.broker()
    times = broker.stages.request()
    with broker.release_key(stage.ratls().certificate, peer="192.0.2.1:1", times=times):
        times.succeed()
    times.record()
    with pytest.raises(SealserveError):
        broker.release_key(stage.ratls(mr_enclave=b"x" * 32).certificate, peer="192.0.2.1:1", times=times)
    times.record()
    found = values(replace(observed(), stages=broker.stages).page())
    name = "sealserve_broker_stage_duration_seconds"
    counts = {labels[0]: int(value) for (found_name, labels), value in found.items() if found_name == f"{name}_count"}
    assert {stage for stage, count in counts.items() if count == 1} == {
        "collateral", "database", "keystore", "verification", "whole",
    }  # fmt: skip
    assert counts["certificate"] == 2  # a stage that succeeded counts, although the request was refused later
    parts = sum(found[f"{name}_sum", (part,)] for part in ("certificate", "collateral", "database", "keystore"))
    assert 0 < parts <= found[f"{name}_sum", ("whole",)] * 2


def test_notifications_are_counted_by_their_outcome() -> None:
    totals = {"sent": 3, "failed": 1, "dropped": 2}
    found = values(replace(observed(), notifications=lambda: totals, waiting=lambda: 7).page())
    assert {labels[0]: value for (name, labels), value in found.items() if name.endswith("notifications_total")} == {
        "sent": 3, "failed": 1, "dropped": 2
    }  # fmt: skip
    assert found["sealserve_broker_notifications_waiting", ()] == 7
    without = values(observed().page())  # no receiver is configured
    assert not any("notifications" in name for name, _ in without)
