"""The model server in a separate process, its models, and TensorFlow Serving's stubs to call it."""

import json
import os
import queue
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from sealserve.pki.authority import Authority
from sealserve.pki.certificate import CertifiedKey
from sealserve.pki.ssl_config import SslConfig

SERVICE = "grpc.tf-serving.service.com"
CLIENT = "client.tf-serving.service.com"
CANARY = "canary-771177"
LONG = 120.0
"""Seconds after which a call that should have ended is a failure; no test waits for it."""

SERVER = ("-m", "sealserve.serving")
_UNTESTED = """
import sys
from sealserve.serving import main
from sealserve.serving.wire import transports
transports.TESTED = frozenset()
sys.exit(main())
"""
SERVER_ON_THE_PUBLIC_API = ("-c", _UNTESTED)
"""The server as it runs with a version of grpcio that the fast transport was not tested with."""

both_transports = pytest.mark.parametrize(
    "start",
    [pytest.param(SERVER, id="completion-queue"), pytest.param(SERVER_ON_THE_PUBLIC_API, id="public-api")],
    indirect=True,
)
"""Runs a test with each transport."""


def save_models(folder: Path) -> None:
    """Save ``several/1``: half_plus_two; one that writes two files in turn; one that turns text into a number."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf  # noqa: PLC0415  # seconds, and only here

    class Models(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        def __init__(self) -> None:
            super().__init__()
            self.half = tf.Variable(0.5)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def half_plus_two(self, x: Any) -> dict[str, Any]:
            return {"y": self.half * x + 2.0}

        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[tf.TensorSpec([], tf.string, name="first"), tf.TensorSpec([], tf.string, name="second")]
        )
        def write(self, first: Any, second: Any) -> dict[str, Any]:
            tf.io.write_file(first, "started")
            tf.io.write_file(second, "ending")
            return {"answer": tf.constant("done")}

        @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="text")])  # type: ignore[untyped-decorator]
        def number(self, text: Any) -> dict[str, Any]:
            return {"number": tf.strings.to_number(text)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])  # type: ignore[untyped-decorator]
        def regress(self, inputs: Any) -> dict[str, Any]:
            features = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})
            return {"outputs": self.half * features["x"] + 2.0}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])  # type: ignore[untyped-decorator]
        def classify(self, inputs: Any) -> dict[str, Any]:
            return {"scores": self.regress(inputs)["outputs"]}

    models = Models()
    signatures = {
        "serving_default": models.half_plus_two,
        "write": models.write,
        "number": models.number,
        "regress": models.regress,
        "classify": models.classify,
    }
    tf.saved_model.save(models, str(folder / "1"), signatures=signatures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """What the service and its users hold."""

    service: Authority
    users: Authority
    server: CertifiedKey
    client: CertifiedKey

    def settings(self, *, two_way: bool) -> bytes:
        config = SslConfig(
            server_key=self.server.key_pem,
            server_cert=self.server.chain_pem,
            custom_ca=self.users.certificate_pem if two_way else None,
            client_verify=two_way,
        )
        return config.render().reveal()


class Process:
    """A running server, and its output so far."""

    def __init__(self, flags: Sequence[str], program: Sequence[str] = SERVER) -> None:
        command = [sys.executable, "-I", *program, "--model_name=m", "--bind_address=127.0.0.1"]
        self.process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines: list[str] = []
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line)
        self._queue.put(None)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until a line matches."""
        while (line := self._queue.get(timeout=LONG)) is not None:
            self.lines.append(line)
            if match := re.search(pattern, line):
                return match
        pytest.fail(f"ended without {pattern!r}:\n{self.output}")

    def port(self) -> int:
        return int(self.wait_for(r"serving m version 1 on 127\.0\.0\.1:(\d+)")[1])

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait for the end; return the exit status."""
        status = self.process.wait(timeout=LONG)
        self._reader.join()
        while (line := self._queue.get()) is not None:
            self.lines.append(line)
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


Start = Callable[..., Process]
"""Starts a server with some flags."""


def secure_channel(port: int, tls: Tls, *, authority: bytes, client: CertifiedKey | None) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(
        root_certificates=authority,
        private_key=client.key_pem.reveal() if client else None,
        certificate_chain=client.chain_pem if client else None,
    )
    name = tls.server and SERVICE
    return grpc.secure_channel(f"127.0.0.1:{port}", credentials, [("grpc.ssl_target_name_override", name)])


def predict_request(signature: str = "", **inputs: Any) -> Any:
    import tensorflow as tf  # noqa: PLC0415  # the model's fixture has paid for it
    from tensorflow_serving.apis import predict_pb2  # noqa: PLC0415

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    request.model_spec.signature_name = signature
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return request


def prediction_stub(channel: grpc.Channel) -> Any:
    from tensorflow_serving.apis import prediction_service_pb2_grpc  # noqa: PLC0415

    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def predict(channel: grpc.Channel, signature: str = "", **inputs: Any) -> Any:
    return prediction_stub(channel).Predict(predict_request(signature, **inputs), timeout=LONG)


def half_plus_two(channel: grpc.Channel, *values: float) -> list[float]:
    return list(predict(channel, x=[float(value) for value in values]).outputs["y"].float_val)


def raw(channel: grpc.Channel, method: str) -> Any:
    return channel.unary_unary(method)


def refused(call: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str, body: Any = None, context: ssl.SSLContext | None = None) -> Any:
    content = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(url, content, timeout=LONG, context=context) as response:  # noqa: S310  # our server
        return response.read().decode()
