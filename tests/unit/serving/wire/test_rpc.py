import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tests.harness.errors import raises
from tests.harness.served import LONG, Served, served

from sealserve.serving.request_errors import RequestCode, RequestError, Status
from sealserve.serving.wire.lanes import Lane
from sealserve.serving.wire.rpc import INSTANCE, TRAILER, Method, Route, handlers, refusal

pytestmark = pytest.mark.usefixtures("transport")

PATH = "/s/Method"


def serving(method: Method, *, running: int = 1, waiting: int = 8) -> Any:
    """Serve ``method`` over a real connection."""
    route = Route(method=method, lane=Lane(running=running, waiting=waiting))
    return served(handlers({PATH: route}), trailer=TRAILER)


def refused(there: Served, content: bytes = b"") -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        there.call(PATH)(content, timeout=LONG)
    error: Any = caught.value
    return error.code(), error.details()


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for an action of another thread."""
    while not holds():
        time.sleep(0.001)


class CanaryError(RequestError):
    code = "test.canary"
    status = Status.FAILED_PRECONDITION


class Gate:
    """A method that waits until it is opened, and counts its calls."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.opened = threading.Event()
        self.calls = 0

    def __call__(self, content: bytes, _deadline: float | None) -> bytes:
        self.calls += 1
        self.started.release()
        self.opened.wait()
        return content


def test_bytes_go_in_and_come_out() -> None:
    with serving(lambda content, _: content[::-1]) as there:
        assert there.call(PATH)(b"abc") == b"cba"


def test_each_answer_names_the_process_that_gave_it() -> None:
    with serving(lambda content, _: content) as there:
        _, call = there.call(PATH).with_call(b"")
        assert dict(call.trailing_metadata())["x-sealserve-instance"] == INSTANCE


def test_a_deadline_arrives_when_there_is_one() -> None:
    deadlines: list[float | None] = []

    def method(_content: bytes, deadline: float | None) -> bytes:
        deadlines.append(deadline)
        return b""

    with serving(method) as there:
        there.call(PATH)(b"")
        there.call(PATH)(b"", timeout=1000)
    assert [deadline is None for deadline in deadlines] == [True, False]


def test_a_request_error_becomes_its_status() -> None:
    def method(content: bytes, _deadline: float | None) -> bytes:
        raise CanaryError("x" * len(content), hint="for the operator")

    with serving(method) as there:
        assert refused(there, b"abc") == (grpc.StatusCode.FAILED_PRECONDITION, "xxx")
        assert refused(there, b"x" * 2000)[1] == "x" * 1024 + "...TRUNCATED"


def test_what_is_unknown_is_internal_and_the_log_has_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    def method(content: bytes, _deadline: float | None) -> bytes:
        raise ValueError(content.decode())

    with caplog.at_level(logging.ERROR, logger="sealserve"), serving(method) as there:
        assert refused(there, b"canary") == (grpc.StatusCode.INTERNAL, "internal")
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError
    assert "canary" not in record.getMessage()


def test_more_than_may_wait_is_refused() -> None:
    gate = Gate()
    with serving(gate, waiting=0) as there:
        first = there.call(PATH).future(b"done")
        gate.started.acquire()
        code, details = refused(there)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details == "The server is busy: it has reached its limit of 1 requests."
        gate.opened.set()
        assert first.result() == b"done"
        assert there.call(PATH)(b"done") == b"done"


@pytest.mark.parametrize("passing", ["cancelled", "expired"])
def test_a_request_that_waits_leaves_the_queue_when_nobody_waits_for_it(passing: str) -> None:
    gate, lane = Gate(), Lane(running=1, waiting=1)
    with served(handlers({PATH: Route(method=gate, lane=lane)}), trailer=TRAILER) as there:
        first = there.call(PATH).future(b"1")
        gate.started.acquire()
        second = there.call(PATH).future(b"2", timeout=0.05 if passing == "expired" else LONG)
        if passing == "cancelled":
            wait_until(lambda: lane.pending == 2)
            second.cancel()
        else:
            assert second.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: lane.pending == 1)
        third = there.call(PATH).future(b"3")
        wait_until(lambda: lane.pending == 2)
        gate.opened.set()
        assert first.result() == b"1"
        assert third.result() == b"3"
    assert gate.calls == 2


def test_a_refusal_gives_its_reason() -> None:
    with serving(refusal("use Predict")) as there:
        assert refused(there) == (grpc.StatusCode.UNIMPLEMENTED, "use Predict")
    with raises(RequestCode.UNIMPLEMENTED, match="use Predict") as caught:
        refusal("use Predict")(b"", None)
    assert caught.value.code == "request.unimplemented"
