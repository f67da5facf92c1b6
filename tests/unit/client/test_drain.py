"""Servers that drain while a load runs: a call that none began is sent again, and no call is begun twice."""

import contextlib
import itertools
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tests.harness.served import make_settings
from tests.unit.client.conftest import Behaviour, Connect, Material, Serve

from sealserve.client import channel as channel_module
from sealserve.client.call import ServiceFailedError
from sealserve.client.channel import open_channel
from sealserve.client.connection_fault import UnreachableError, find_fault
from sealserve.client.load import Request, run_load
from sealserve.client.predict import Predictor
from sealserve.client.wire.predict_pb2 import PredictRequest
from sealserve.serving.wire import transports
from sealserve.serving.wire.rpc import TRAILER
from sealserve.serving.wire.transport import Call

pytestmark = pytest.mark.usefixtures("transport")

SERVICE = "grpc.tf-serving.service.com"
PREDICT = "/tensorflow.serving.PredictionService/Predict"


class Replica:
    """The wire of the model server, with an answer that is empty."""

    def __init__(self, material: Material, begun: Counter[int]) -> None:
        self._begun = begun
        self._lock = threading.Lock()
        self.transport = transports.choose()(
            make_settings({PREDICT: self.answer}, threads=2, calls=1000, trailer=TRAILER)
        )
        self.port = self.transport.listen(
            "127.0.0.1:0",
            grpc.ssl_server_credentials([(material.server.key_pem.reveal(), material.server.chain_pem)]),
        )
        self.transport.start()

    def answer(self, call: Call) -> None:
        with self._lock:
            self._begun[PredictRequest.FromString(call.content).model_spec.version.value] += 1
        call.answer(b"")


class Balancer:
    """A load balancer for TCP: each new connection goes to the first replica that accepts it."""

    def __init__(self) -> None:
        self.replicas: list[int] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._open: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        for port in list(self.replicas):
            with contextlib.suppress(OSError):
                replica = socket.create_connection(("127.0.0.1", port), timeout=30)
                replica.settimeout(None)
                self._open += [client, replica]
                for pair in ((client, replica), (replica, client)):
                    threading.Thread(target=self._copy, args=pair, daemon=True).start()
                return
        client.close()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(65_536):
                target.sendall(content)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()


@pytest.fixture
def balancer() -> Iterator[Balancer]:
    made = Balancer()
    yield made
    made.close()


def test_servers_that_drain_under_load_lose_no_request(material: Material, balancer: Balancer) -> None:
    begun: Counter[int] = Counter()
    replicas = [Replica(material, begun) for _ in range(6)]
    balancer.replicas = [replica.port for replica in replicas]
    channels = [
        open_channel(f"127.0.0.1:{balancer.port}", server_name=SERVICE, ca=material.service.certificate_pem)
        for _ in range(4)
    ]
    draining = threading.Semaphore(0)
    stopped: list[bool] = []

    def drain() -> None:
        for replica in replicas[:-1]:
            draining.acquire()
            stopped.append(replica.transport.stop(30.0))

    drainer = threading.Thread(target=drain)
    drainer.start()
    answers = itertools.count(1)

    def on_answer(_number: int, _prediction: Any) -> None:
        if next(answers) % 400 == 0:
            draining.release()

    report = run_load(
        channels,
        lambda number: Request(model="m", inputs={}, version=number + 1),
        requests=2400,
        concurrency=16,
        on_answer=on_answer,
    )
    drainer.join()
    for channel in channels:
        channel.close()
    # Each request that a server began was answered, and no request was begun twice.
    assert report.answered == len(begun), report.first_error
    assert set(begun.values()) == {1}
    # gRPC's core rejects a call that arrives during the shutdown. On a busy machine, it rarely closes the connection
    # before it has sent the rejection (measured: two of about 50 runs, with grpcio 1.85). The client cannot know
    # whether such a call has begun, so it reports the error.
    if (unsent := 2400 - len(begun)) > 0:
        assert report.errors == {UnreachableError.code: unsent}
        assert "GOAWAY received" in str(report.first_error)
    assert stopped == [True] * 5
    assert replicas[-1].transport.stop(30.0)


def test_a_call_waits_for_a_service_that_is_away_for_a_moment(
    material: Material, balancer: Balancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: Counter[int] = Counter()
    first, second = Replica(material, begun), Replica(material, begun)
    balancer.replicas = [first.port]
    faults = []

    def find_fault_and_recover(*given: Any, **named: Any) -> Any:
        faults.append(find_fault(*given, **named))
        balancer.replicas = [second.port]
        return faults[-1]

    monkeypatch.setattr(channel_module, "find_fault", find_fault_and_recover)
    with open_channel(
        f"127.0.0.1:{balancer.port}", server_name=SERVICE, ca=material.service.certificate_pem
    ) as channel:
        predictor = Predictor([channel])
        predictor.predict("m", {}, version=1)
        balancer.replicas = []  # as a load balancer whose replicas are all unready for a moment
        first.transport.stop(0.0)
        predictor.predict("m", {}, version=2)
    assert [type(fault) for fault in faults] == [UnreachableError, type(None)]
    assert begun == {1: 1, 2: 1}
    second.transport.stop(0.0)


def test_a_call_that_meets_a_path_without_answer_takes_another_path(material: Material, balancer: Balancer) -> None:
    replica = Replica(material, Counter())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        balancer.replicas = [silent.getsockname()[1]]

        def heal() -> None:
            with silent.accept()[0] as lost:
                balancer.replicas = [replica.port]
                lost.recv(65_536)
                gone.wait(60)

        gone = threading.Event()
        healer = threading.Thread(target=heal)
        healer.start()
        with open_channel(
            f"127.0.0.1:{balancer.port}", server_name=SERVICE, ca=material.service.certificate_pem
        ) as channel:
            Predictor([channel]).predict("m", {})
        gone.set()
        healer.join()
    replica.transport.stop(0.0)


@pytest.mark.parametrize(
    ("abort", "instance", "error", "calls"),
    [
        # gRPC's core says this, without the server's code, of a call that arrives while the server shuts down.
        ((grpc.StatusCode.CANCELLED, "CANCELLED"), None, UnreachableError, 5),
        # Each of these may follow work on the request.
        ((grpc.StatusCode.CANCELLED, "CANCELLED"), "a server that names itself", ServiceFailedError, 1),
        ((grpc.StatusCode.CANCELLED, ""), None, ServiceFailedError, 1),
        ((grpc.StatusCode.CANCELLED, "RunStep was cancelled"), None, ServiceFailedError, 1),
        ((grpc.StatusCode.UNAVAILABLE, "Cancelling all calls"), None, UnreachableError, 1),
        ((grpc.StatusCode.UNAVAILABLE, "Socket closed"), None, UnreachableError, 1),
        ((grpc.StatusCode.RESOURCE_EXHAUSTED, "The server is busy"), None, ServiceFailedError, 1),
    ],
)
def test_only_a_call_that_was_never_begun_is_sent_again(
    serve: Serve,
    connect: Connect,
    *,
    abort: tuple[grpc.StatusCode, str],
    instance: str | None,
    error: type[Exception],
    calls: int,
) -> None:
    behaviour = Behaviour(abort=abort, instance=instance)
    with pytest.raises(error):
        Predictor([connect(serve(behaviour))]).predict("toy", {"x": np.zeros(1, np.float32)})
    assert len(behaviour.requests) == calls


def test_a_call_that_has_begun_when_the_grace_period_ends_is_not_sent_again(material: Material) -> None:
    begun: list[Call] = []
    there = threading.Event()

    def hold(call: Call) -> None:
        begun.append(call)
        there.set()

    transport = transports.choose()(make_settings({PREDICT: hold}))
    port = transport.listen(
        "127.0.0.1:0", grpc.ssl_server_credentials([(material.server.key_pem.reveal(), material.server.chain_pem)])
    )
    transport.start()
    with open_channel(f"127.0.0.1:{port}", server_name=SERVICE, ca=material.service.certificate_pem) as channel:
        stopper = threading.Thread(target=lambda: there.wait(60) and transport.stop(0.0))
        stopper.start()
        with pytest.raises(UnreachableError, match="Cancelling all calls"):
            Predictor([channel]).predict("m", {})
        stopper.join()
    assert len(begun) == 1
