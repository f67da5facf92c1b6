import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from tests.unit.client.conftest import Behaviour, Connect, Serve

from sealserve.client.call import ServiceFailedError
from sealserve.client.load import Request, run_load
from sealserve.client.predict import Prediction


def numbered(number: int) -> Request:
    return Request(model="toy", inputs={"x": np.full(3, number, np.float32)})


def test_every_request_is_sent_once_and_answered(serve: Serve, connect: Connect) -> None:
    ports = [serve(Behaviour(instance="a")), serve(Behaviour(instance="b"))]
    answers: dict[int, float] = {}

    def keep(number: int, prediction: Prediction) -> None:
        answers[number] = float(prediction["x"][0])

    report = run_load([connect(port) for port in ports], numbered, requests=20, concurrency=4, on_answer=keep)
    assert answers == {number: number * 2.0 for number in range(20)}
    assert (report.requests, report.answered, report.errors) == (20, 20, {})
    assert report.channels == [10, 10]
    assert report.instances == {"a": 10, "b": 10}
    assert report.first_error is None
    assert report.latency is not None
    assert 0 < report.latency.p50 <= report.latency.p90 <= report.latency.p99 <= report.latency.maximum
    assert report.rate == pytest.approx(20 / report.seconds)


def test_errors_are_counted_and_the_load_goes_on(serve: Serve, connect: Connect) -> None:
    failing = Behaviour(abort=(grpc.StatusCode.INTERNAL, "internal"))
    channels = [connect(serve(Behaviour())), connect(serve(failing))]
    report = run_load(channels, numbered, requests=10, concurrency=2)
    assert (report.answered, report.errors, report.channels) == (5, {"client.service-failed": 5}, [5, 0])
    assert isinstance(report.first_error, ServiceFailedError)
    assert report.instances == {}


def test_nothing_answered_has_no_latency(serve: Serve, connect: Connect) -> None:
    failing = Behaviour(abort=(grpc.StatusCode.INTERNAL, "internal"))
    report = run_load([connect(serve(failing))], numbered, requests=2, concurrency=8)
    assert report.latency is None
    assert report.rate == 0


def test_a_callers_exception_ends_the_load(serve: Serve, connect: Connect) -> None:
    behaviour = Behaviour()

    def check(number: int, _: Prediction) -> None:
        if number == 3:
            raise AssertionError("a wrong answer")

    with pytest.raises(AssertionError, match="a wrong answer"):
        run_load([connect(serve(behaviour))], numbered, requests=1000, concurrency=2, on_answer=check)
    assert len(behaviour.requests) < 1000


def test_a_machine_without_a_thread_left_ends_the_load(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour = Behaviour()
    channel = connect(serve(behaviour))

    class Pool(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **named: Any) -> Any:
            if self._threads:
                raise RuntimeError("can't start new thread")
            return super().submit(*arguments, **named)

    monkeypatch.setattr("sealserve.client.load.ThreadPoolExecutor", Pool)
    with pytest.raises(RuntimeError, match="new thread"):
        run_load([channel], numbered, requests=3000, concurrency=2)
    assert len(behaviour.requests) < 3000


def test_an_interrupted_load_does_not_wait_for_answers(serve: Serve, connect: Connect) -> None:
    class Hold(threading.Event):
        ended = False

        def wait(self, timeout: float | None = None) -> bool:
            held = super().wait(timeout)
            self.ended = True
            return held

    behaviour = Behaviour(hold=Hold())
    channel = connect(serve(behaviour))
    behaviour.hold.clear()

    def interrupt() -> None:
        while not behaviour.requests:
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    main = threading.get_ident()
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_load([channel], numbered, requests=4, concurrency=2)
        assert not behaviour.hold.ended  # type: ignore[attr-defined]
    finally:
        behaviour.hold.set()
        interrupter.join()


def test_a_load_for_some_time(serve: Serve, connect: Connect) -> None:
    report = run_load([connect(serve(Behaviour()))], numbered, seconds=0.2, concurrency=2)
    assert report.answered == report.requests > 0
    assert 0.2 <= report.seconds < 5


@pytest.mark.parametrize(
    "arguments",
    [{"requests": 0, "concurrency": 1}, {"requests": 1, "concurrency": 0}, {"concurrency": 1}],
)
def test_a_load_of_nothing_or_without_end_is_a_mistake(
    serve: Serve, connect: Connect, arguments: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="at least one"):
        run_load([connect(serve(Behaviour()))], numbered, **arguments)
