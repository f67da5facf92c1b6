"""The usual gRPC client of Node.js against the model server's process: TLS, keepalive, many calls at once.

The client differs from Python's: it is written in JavaScript, one connection carries all its calls, and it sends them
all at once.
"""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from scripts.node_packages import MODULES, PREDICT, installed
from tests.harness.missing import missing
from tests.harness.model_server import (
    LONG,
    SERVICE,
    Start,
    Tls,
    half_plus_two,
    predict_request,
    prediction_stub,
)

pytestmark = [pytest.mark.integration, pytest.mark.tensorflow]

MANY = 500
MOMENT = 2.0
"""Seconds in which the client starts and sends its calls. If it takes longer, the test checks less."""


@pytest.fixture(scope="module")
def descriptors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the descriptors of TensorFlow Serving's official stubs."""
    if not installed():
        missing("@grpc/grpc-js is missing: `make node-packages` installs it (requires Node.js)")
    from tensorflow_serving.apis import prediction_service_pb2  # noqa: PLC0415  # imports TensorFlow

    found = FileDescriptorSet()
    for file in _with_dependencies(prediction_service_pb2.DESCRIPTOR, set()):
        file.CopyToProto(found.file.add())
    path = tmp_path_factory.mktemp("descriptors") / "services.binpb"
    path.write_bytes(found.SerializeToString())
    return path


def _with_dependencies(file: FileDescriptor, seen: set[str]) -> Iterator[FileDescriptor]:
    """Yield the files that ``file`` imports, and then ``file``."""
    for dependency in file.dependencies:
        if dependency.name not in seen:
            yield from _with_dependencies(dependency, seen)
    seen.add(file.name)
    yield file


def node(descriptors: Path, port: int, **settings: Any) -> dict[str, Any]:
    """Run the client; return how often each outcome occurred, and how often the connection was lost."""
    done = subprocess.run(
        ["node", str(PREDICT), str(descriptors)],
        input=json.dumps({"address": f"127.0.0.1:{port}", "calls": 1, **settings}),
        env={**os.environ, "NODE_PATH": str(MODULES)},
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_tls(descriptors: Path, start: Start, model: Path, tls: Tls, tmp_path: Path) -> None:
    trusted = {"ca": tls.service.certificate_pem.decode(), "name": SERVICE}
    identity = {"cert": tls.client.chain_pem.decode(), "key": tls.client.key_pem.reveal().decode()}
    for two_way, outcome_without_certificate in ((False, "answer"), (True, "UNAVAILABLE")):
        settings = tmp_path / "ssl.cfg"
        settings.write_bytes(tls.settings(two_way=two_way))
        port = start(f"--model_base_path={model}", f"--ssl_config_file={settings}").port()
        assert node(descriptors, port, **trusted, **identity)["outcomes"] == {"answer": 1}
        assert node(descriptors, port, **trusted)["outcomes"] == {outcome_without_certificate: 1}


def test_many_calls_at_once_wait_and_are_served(descriptors: Path, start: Start, model: Path, tmp_path: Path) -> None:
    """One thread, which is busy until the calls have begun: all calls wait, and clients take turns."""
    server = start(f"--model_base_path={model}", "--dangerous_plaintext", "--grpc_max_threads=1")
    port = server.port()
    first, second = tmp_path / "first", tmp_path / "second"
    os.mkfifo(first)
    os.mkfifo(second)
    outcomes: dict[str, Any] = {}
    client = threading.Thread(target=lambda: outcomes.update(node(descriptors, port, calls=MANY)))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        busy = prediction_stub(channel).Predict.future(
            predict_request("write", first=str(first), second=str(second)), timeout=LONG
        )
        assert first.read_bytes() == b"started"
        client.start()
        time.sleep(MOMENT)
        assert second.read_bytes() == b"ending"
        busy.result()
        assert half_plus_two(channel, 1.0) == [2.5]
    client.join()
    assert outcomes == {"outcomes": {"answer": MANY}, "lost": 0}


@pytest.mark.parametrize("permitted", [True, False], ids=["permitted", "too-many-pings"])
def test_an_idle_channel_that_pings_keeps_its_connection(
    descriptors: Path, start: Start, model: Path, permitted: bool
) -> None:
    """The same client against gRPC's own limit of one ping in five minutes: there it loses the connection."""
    arguments = f"grpc.http2.min_ping_interval_without_data_ms={500 if permitted else 300_000}"
    flags = f"--grpc_channel_arguments={arguments}"
    port = start(f"--model_base_path={model}", "--dangerous_plaintext", flags).port()
    pings = {"grpc.keepalive_time_ms": 1200, "grpc.keepalive_permit_without_calls": 1}
    found = node(descriptors, port, options=pings, idleMs=6000)
    assert found == {"outcomes": {"answer": 2}, "lost": 0 if permitted else 1}
