"""The broker's metrics page over HTTP."""

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from tests.harness.errors import raises
from tests.unit.broker.conftest import Stage

from sealserve.broker import metrics
from sealserve.broker.codes import BrokerCode
from sealserve.broker.metrics import Decisions, Fetched, MetricsServer, Observed, Outcome
from sealserve.errors import SealserveError, VerificationError

NOW = datetime(2026, 11, 25, tzinfo=UTC)
SECONDS = int(NOW.timestamp())


def observed(decisions: Decisions | None = None) -> Observed:
    return Observed(
        decisions=decisions or Decisions(),
        certificates=lambda: {"broker": NOW},
        collateral=lambda: {("sgx", "qe/identity"): Fetched(NOW, NOW)},
    )


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
    assert 'sealserve_broker_decisions_total{outcome="refused",code="policy.mr-enclave"} 2\n' in page
    assert 'sealserve_broker_decisions_total{outcome="released",code=""} 0\n' in page
    assert f'sealserve_broker_certificate_expiry_timestamp_seconds{{certificate="broker"}} {SECONDS}\n' in page
    assert 'collateral_fetched_timestamp_seconds{vendor="sgx",document="qe/identity"} ' in page


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

    broken = Observed(decisions=Decisions(), certificates=torn, collateral=dict)
    with MetricsServer(broken, 0) as server:
        assert ask(server.port)[0] == 503
    assert "the certificate is torn" in caplog.text


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
    monkeypatch.setattr(metrics, "_SECONDS", 0.3)  # limits the total time, although each line arrives sooner
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
            for _ in range(metrics._PLACES + 3)
        ]
        assert ask(server.port)[0] == 200
        assert [stream.recv(1) for stream in streams[:3]] == [b""] * 3
        streams[-1].sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert streams[-1].recv(12) == b"HTTP/1.0 200"
    assert threading.active_count() - others < metrics._PLACES + 3  # stopping the server ends all of them


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
