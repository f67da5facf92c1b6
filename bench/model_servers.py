"""Servers for the benchmarks: sealserve's, KServe's and MLServer's. Each process ends with the benchmark."""

import contextlib
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from sealserve.cluster.ports import find_free
from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.ssl_config import SslConfig

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parent / ".venv-peers"
NAME = "m"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
INFER = "/inference.GRPCInferenceService/ModelInfer"
_START = 120.0
_LARGEST = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running server.

    Args:
        process: Its process.
        port: Its gRPC port.
        method: The gRPC method that runs the model.
        ca: The authority that signed its certificate, or None for plaintext.
    """

    process: subprocess.Popen[str]
    port: int
    method: str
    ca: bytes | None = None

    def ask(self, message: bytes) -> bytes:
        """Return the answer to one request."""
        with self._channel() as channel:
            call: Any = channel.unary_unary(self.method)
            return bytes(call(message, timeout=60))

    def rate(self, message: bytes, *, answer_size: int, concurrency: int, requests: int) -> float:
        """Return requests per second of a Python client, with a connection for each of ``concurrency`` threads.

        Use it only for slow models, for which the cost of the client does not matter.

        Args:
            message: The request.
            answer_size: Size of the correct answer in bytes. Other sizes end the program.
            concurrency: Number of connections, with one request at a time on each.
            requests: Total number of requests.
        """
        with contextlib.ExitStack() as stack:
            channels = [stack.enter_context(self._channel()) for _ in range(concurrency)]
            calls: list[Any] = [channel.unary_unary(self.method) for channel in channels]
            for channel in channels:
                grpc.channel_ready_future(channel).result(timeout=60)
            numbers = itertools.count()  # its next() is atomic

            def work(call: Any) -> None:
                while next(numbers) < requests:
                    answer = call(message, timeout=600)
                    assert len(answer) == answer_size, f"expected an answer of {answer_size} bytes, got {len(answer)}"

            with ThreadPoolExecutor(concurrency) as pool:
                started = time.perf_counter()
                list(pool.map(work, calls))
                return requests / (time.perf_counter() - started)

    def _channel(self) -> grpc.Channel:
        options = [("grpc.max_receive_message_length", _LARGEST), ("grpc.ssl_target_name_override", "localhost")]
        address = f"127.0.0.1:{self.port}"
        if self.ca is None:
            return grpc.insecure_channel(address, options)
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(self.ca), options)


@contextlib.contextmanager
def _process(
    command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(environment or {})}
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def start_ours(
    base_path: Path, scratch: Path, *flags: str, tls: bool = False
) -> contextlib.AbstractContextManager[Served]:
    """Start ``sealserve-model-server`` with one TensorFlow thread. It answers when the block begins."""
    return _ours(base_path, scratch, flags, tls=tls)


@contextlib.contextmanager
def _ours(base_path: Path, scratch: Path, flags: Sequence[str], *, tls: bool) -> Iterator[Served]:
    security, ca = "--dangerous_plaintext", None
    if tls:
        now = datetime.now(UTC)
        authority = Authority.create(AuthorityKind.SERVICE, names=["localhost"], simulated=True, now=now)
        leaf = authority.issue_server(["localhost"], now=now)
        config = SslConfig(server_key=leaf.key_pem, server_cert=leaf.chain_pem)
        (scratch / "ssl.cfg").write_bytes(config.render().reveal())
        security, ca = f"--ssl_config_file={scratch}/ssl.cfg", authority.certificate_pem
    log = scratch / f"ours-{'tls' if tls else 'plain'}.log"
    command = [
        *(sys.executable, "-I", "-m", "sealserve.serving", f"--model_name={NAME}", f"--model_base_path={base_path}"),
        *("--port=0", "--bind_address=127.0.0.1", "--tensorflow_session_parallelism=1", security, *flags),
    ]
    with _process(command, log=log) as process:
        port = int(_wait_for(process, log, r"serving m version 1 on 127\.0\.0\.1:(\d+)")[1])
        yield Served(process=process, port=port, method=PREDICT, ca=ca)


def _wait_for(process: subprocess.Popen[str], log: Path, pattern: str) -> re.Match[str]:
    until = time.monotonic() + _START
    while time.monotonic() < until:
        if match := re.search(pattern, log.read_text()):
            return match
        if process.poll() is not None:
            break
        time.sleep(0.005)
    sys.exit(f"bench: a server did not start:\n{log.read_text()}")


def has_environment(peer: str) -> bool:
    """Whether ``make bench-peers`` has created the environment of a peer."""
    return (ENVIRONMENTS / peer / "bin" / "python").exists()


@contextlib.contextmanager
def start_kserve(saved_model: Path, scratch: Path) -> Iterator[Served]:
    """Start KServe's Python server."""
    port, http = find_free(), find_free()
    command = [str(ENVIRONMENTS / "kserve/bin/python"), str(HERE / "peers/kserve_server.py"), str(saved_model)]
    with _process([*command, str(port), str(http)], log=scratch / "kserve.log") as process:
        _wait_until_it_listens(process, port, scratch / "kserve.log")
        yield Served(process=process, port=port, method=INFER)


@contextlib.contextmanager
def start_mlserver(saved_model: Path, scratch: Path) -> Iterator[Served]:
    """Start MLServer without worker processes, whose cost exceeds their benefit for a small model."""
    folder = scratch / "mlserver"
    folder.mkdir()
    port = find_free()
    settings = {
        "parallel_workers": 0,
        "host": "127.0.0.1",
        "http_port": find_free(),
        "grpc_port": port,
        "metrics_port": find_free(),
        "debug": False,
    }
    model = {"name": NAME, "implementation": "mlserver_runtime.HalfPlusTwo", "parameters": {"uri": str(saved_model)}}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = [str(ENVIRONMENTS / "mlserver/bin/mlserver"), "start", str(folder)]
    log = scratch / "mlserver.log"
    with _process(command, log=log, environment={"PYTHONPATH": str(HERE / "peers")}) as process:
        _wait_until_it_listens(process, port, log)
        yield Served(process=process, port=port, method=INFER)


def _wait_until_it_listens(process: subprocess.Popen[str], port: int, log: Path) -> None:
    until = time.monotonic() + _START
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(2)  # KServe and MLServer listen before their start-up is complete
                return
        time.sleep(0.1)
    sys.exit(f"bench: a server did not start:\n{log.read_text()}")
