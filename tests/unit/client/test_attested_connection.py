"""Requests reach only verified replicas: also after a replica was replaced, and through a load balancer."""

import dataclasses
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from scripts.attested_example import Example
from tests.harness.attested_service import NAME, AttestedService, Hostile
from tests.unit.client.conftest import Behaviour, Service

from sealserve.client.attested import StepFailedError, VerifiedEndpoint
from sealserve.client.channel import ServiceChannel, open_channel, open_channels
from sealserve.client.connection_fault import ServiceNameError, UnreachableError
from sealserve.client.predict import Prediction, Predictor
from sealserve.client.receipts import verify_received
from sealserve.client.rest import RestPredictor
from sealserve.errors import VerificationError

X = {"x": np.array([1.0, 2.0], np.float32)}


@pytest.fixture
def example(tmp_path: Path) -> Example:
    return Example(tmp_path / "vendor", now=datetime.now(UTC).replace(microsecond=0))


def service(folder: Path, example: Example, behaviour: Behaviour, **settings: object) -> AttestedService:
    return AttestedService(folder, example=example, handlers=[Service(behaviour)], **settings)  # type: ignore[arg-type]


def opened(found: AttestedService, **settings: object) -> ServiceChannel:
    return open_channel(found.address, server_name=NAME, ca=found.ca, attested=found.policy, **settings)  # type: ignore[arg-type]


def test_a_verified_service_answers_on_one_verified_channel(tmp_path: Path, example: Example) -> None:
    behaviour = Behaviour()
    with service(tmp_path, example, behaviour) as found, opened(found) as channel:
        for _ in range(3):
            assert Predictor([channel]).predict("toy", X)["x"].tolist() == [2, 4]
        assert found.observed.evidence == 1


@pytest.mark.parametrize("hostile", [Hostile.RELAY, Hostile.OTHER_RELEASE, Hostile.NO_RESULT, Hostile.NO_EVIDENCE])
def test_a_hostile_service_receives_no_byte_of_input(tmp_path: Path, example: Example, hostile: Hostile) -> None:
    behaviour = Behaviour()
    with service(tmp_path, example, behaviour, hostile=hostile) as found:
        with pytest.raises(Exception, match=r"failed|does not offer"):
            opened(found)
        assert not behaviour.requests
        assert not found.observed.inputs


def test_a_replaced_replica_is_verified_before_the_next_input(tmp_path: Path, example: Example) -> None:
    first, second = Behaviour(), Behaviour()
    with service(tmp_path, example, first) as former:
        channel = opened(former)
        Predictor([channel]).predict("toy", X)
    other = Example(tmp_path / "unused", name="new replica", shared=example, now=example.now)
    with channel, service(tmp_path, other, second, port=former.port) as found:
        assert Predictor([channel]).predict("toy", X)["x"].tolist() == [2, 4]
        assert found.observed.evidence == 1
        assert len(second.requests) == 1


def test_a_hostile_replacement_receives_no_byte_of_input(tmp_path: Path, example: Example) -> None:
    first, second = Behaviour(), Behaviour()
    with service(tmp_path, example, first) as former:
        channel = opened(former)
        Predictor([channel]).predict("toy", X)
    with channel, service(tmp_path, example, second, hostile=Hostile.RELAY, port=former.port):
        with pytest.raises(StepFailedError) as caught:
            Predictor([channel]).predict("toy", X)
        assert caught.value.code == "evidence.tls-key"
        assert not second.requests


@contextmanager
def round_robin(ports: list[int]) -> Iterator[str]:
    """Forward each connection to the next port, like a load balancer that does not terminate TLS."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def pump(left: socket.socket, right: socket.socket) -> None:
        with left, right, selectors.DefaultSelector() as selector:
            selector.register(left, selectors.EVENT_READ, right)
            selector.register(right, selectors.EVENT_READ, left)
            while not stop.is_set():
                for key, _ in selector.select(0.05):
                    try:
                        content = key.fileobj.recv(65536)  # type: ignore[union-attr]
                        key.data.sendall(content)
                    except OSError:
                        return
                    if not content:
                        return

    def accept() -> None:
        number = 0
        while True:
            try:
                left, _ = listener.accept()
            except OSError:
                return
            right = socket.create_connection(("127.0.0.1", ports[number % len(ports)]))
            number += 1
            threads.append(threading.Thread(target=pump, args=(left, right)))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for thread in threads:
            thread.join()


def test_replicas_behind_a_load_balancer_are_verified_once_each(tmp_path: Path, example: Example) -> None:
    behaviours = [Behaviour() for _ in range(3)]
    with ExitStack() as stack:
        examples = [
            Example(tmp_path / "unused", name=f"replica {number}", shared=example, now=example.now)
            for number in range(len(behaviours))
        ]
        services = [
            stack.enter_context(service(tmp_path, replica, behaviour))
            for replica, behaviour in zip(examples, behaviours, strict=True)
        ]
        address = stack.enter_context(round_robin([found.port for found in services]))
        channels = stack.enter_context(
            open_channels(6, address, server_name=NAME, ca=services[0].ca, attested=example.policy)
        )
        predictor = Predictor(channels)
        for _ in range(12):
            predictor.predict("toy", X)
        assert sum(len(behaviour.requests) for behaviour in behaviours) == 12
        assert all(behaviour.requests for behaviour in behaviours)
        assert [found.observed.evidence for found in services] == [1, 1, 1]


def test_expired_evidence_is_requested_again(tmp_path: Path, example: Example) -> None:
    with service(tmp_path, example, Behaviour()) as found, opened(found) as channel:
        assert channel.attested is not None
        late = found.example.result().expires
        channel.attested._clock = lambda: late
        with pytest.raises(StepFailedError) as caught:
            Predictor([channel]).predict("toy", X)
        assert caught.value.code == "token.expired"
        channel.attested._clock = lambda: late - timedelta(seconds=1)
        Predictor([channel]).predict("toy", X)


def test_a_certificate_for_another_name_is_reported(tmp_path: Path, example: Example) -> None:
    with service(tmp_path, example, Behaviour()) as found, pytest.raises(ServiceNameError):
        open_channel(
            found.address, server_name="other.service.com", ca=found.ca, attested=found.policy, timeout=2
        ).close()


def test_a_service_that_is_down_is_reported(tmp_path: Path, example: Example) -> None:
    with service(tmp_path, example, Behaviour()) as found:
        pass
    with pytest.raises(UnreachableError):
        opened(found, timeout=0.5)


def test_rest_verifies_on_the_connection_itself(tmp_path: Path, example: Example) -> None:
    with (
        service(tmp_path, example, Behaviour(), rest=True) as found,
        RestPredictor(found.rest_address, server_name=NAME, ca=found.ca, attested=found.policy) as predictor,
    ):
        for _ in range(2):
            with pytest.raises(Exception, match="signatures"):  # the harness is no model server
                predictor.metadata("toy")
        assert found.observed.evidence == 1
        assert len(found.observed.inputs) == 2


def test_rest_sends_nothing_to_a_hostile_service(tmp_path: Path, example: Example) -> None:
    with (
        service(tmp_path, example, Behaviour(), rest=True, hostile=Hostile.RELAY) as found,
        RestPredictor(found.rest_address, server_name=NAME, ca=found.ca, attested=found.policy) as predictor,
    ):
        with pytest.raises(StepFailedError):
            predictor.metadata("toy")
        assert not found.observed.inputs


def predicted(found: AttestedService) -> tuple[Prediction, tuple[VerifiedEndpoint, ...]]:
    """Return an answer with a receipt from the harness, which echoes requests, and the verified replicas."""
    with opened(found) as channel:
        answer = Predictor([channel]).predict("toy", X, receipt=True)
        assert channel.attested is not None
        return answer, channel.attested.replicas.current(now=datetime.now(UTC))


def test_a_receipt_is_verified_with_the_replica_that_answered(tmp_path: Path, example: Example) -> None:
    other = Example(tmp_path / "unused", name="other replica", shared=example, now=example.now)
    with AttestedService(tmp_path, example=example) as found, AttestedService(tmp_path, example=other) as another:
        answer, replicas = predicted(found)
        _, others = predicted(another)
    assert answer.receipt is not None
    claims, replica = verify_received(answer.receipt, (*others, *replicas))
    assert replica == replicas[0]
    assert claims.sequence == 0
    with pytest.raises(VerificationError) as caught:
        verify_received(answer.receipt, others)
    assert caught.value.code == "receipt.header"
    with pytest.raises(VerificationError) as caught:
        verify_received(dataclasses.replace(answer.receipt, response=b"another"), replicas)
    assert caught.value.code == "receipt.response"


def test_a_service_without_receipts_is_reported(tmp_path: Path, example: Example) -> None:
    with service(tmp_path, example, Behaviour()) as found, pytest.raises(VerificationError) as caught:
        predicted(found)
    assert caught.value.code == "client.no-receipt"
