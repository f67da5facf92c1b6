"""The model server compared with its limit and its peers in one run. Only the ratios are meaningful.

    .venv/bin/python bench/serving.py [--quick] [--json FILE] [--only resnet50|half-plus-two|start]

- resnet50: compared with TensorFlow in a loop in its own process, with the same threads and concurrency.
- half-plus-two: compared with KServe's and MLServer's Python servers, if ``make bench-peers`` has created their
  environments.
- start: time from the start of the process to an open port, minus the time to load TensorFlow and the model; and the
  time of each stage until the first answer.

All servers get the same client, which uses almost no processor time (`http2_load`). Rounds alternate between the
servers, and the median is reported.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from http2_load import Load, has_client, require_client, send
from model_servers import (
    ENVIRONMENTS,
    HERE,
    NAME,
    PREDICT,
    Served,
    has_environment,
    start_kserve,
    start_mlserver,
    start_ours,
)

from sealserve.model.convert import import_model
from sealserve.model.resnet50 import INPUT, OUTPUT, build_frozen_graph
from sealserve.model.tensorflow_import import import_tensorflow
from sealserve.serving.runtime.protos import PredictRequest, TensorProto

ANSWER = struct.pack("<3f", 2.5, 3.0, 4.5)
Row = dict[str, Any]


def save_half_plus_two(folder: Path) -> None:
    """Save the model under ``folder/1``."""
    tf = import_tensorflow()
    module = tf.Module()
    module.half = tf.Variable(0.5)
    call = tf.function(
        lambda x: {"y": module.half * x + 2.0}, input_signature=[tf.TensorSpec([None], tf.float32, name="x")]
    )
    tf.saved_model.save(module, str(folder / "1"), signatures={"serving_default": call})


def save_resnet50(folder: Path) -> Path:
    """Save ResNet50 as `sealserve model convert` does, under ``folder/m/1``; return ``folder/m``."""
    build_frozen_graph(folder / "resnet50.pb")
    import_model(folder / "resnet50.pb", folder, name=NAME, version=1, inputs=[INPUT], outputs=[OUTPUT])
    return Path(folder / NAME)


def predict_request(name: str, values: Any) -> bytes:
    """Return a serialized PredictRequest with one input of floats."""
    request = PredictRequest()
    request.model_spec.name = NAME
    proto: TensorProto = request.inputs[name]
    proto.dtype = 1
    for size in values.shape:
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_content = values.astype(np.float32).tobytes()
    return bytes(request.SerializeToString())


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A server, its request, and the size of the correct answer."""

    server: Served
    message: bytes
    answer_size: int
    tls: bool

    def send(self, requests: int, concurrency: int) -> Load:
        """Send ``requests`` requests, ``concurrency`` at a time."""
        return send(
            self.server.port,
            self.server.method,
            self.message,
            answer_size=self.answer_size,
            concurrency=concurrency,
            requests=requests,
            tls=self.tls,
        )

    def rate(self, requests: int, concurrency: int) -> float:
        """Return requests per second, sent by h2load, or by a client in Python where h2load is not installed."""
        if has_client():
            return self.send(requests, concurrency).rate
        return self.server.rate(self.message, answer_size=self.answer_size, concurrency=concurrency, requests=requests)


class Loop:
    """TensorFlow in a loop, in a separate process.

    Args:
        saved_model: The SavedModel.
        batch: Number of pictures in a request.
    """

    def __init__(self, saved_model: Path, batch: int) -> None:
        command = [sys.executable, str(HERE / "tensorflow_loop.py"), str(saved_model), INPUT, OUTPUT, str(batch), "1"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    def rate(self, requests: int, concurrency: int) -> float:
        """Return requests per second."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{requests} {concurrency}\n")
        self._process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def measure_resnet50(scratch: Path, *, quick: bool) -> list[Row]:
    """Return the rates of the server with and without TLS, and their ratios to the loop's rate."""
    base = save_resnet50(scratch)
    rows = []
    for batch, concurrencies in ((1, (1, 8) if quick else (1, 2, 4, 8)), (8, (1,) if quick else (1, 2, 4, 8))):
        pictures = np.random.default_rng(0).random((batch, 224, 224, 3), np.float32)
        message = predict_request(INPUT, pictures)
        with ExitStack() as stack:
            loop = Loop(base / "1", batch)
            stack.callback(loop.close)
            servers = {
                name: stack.enter_context(start_ours(base, scratch, tls=name == "TLS")) for name in ("plain", "TLS")
            }
            sizes = {name: len(server.ask(message)) for name, server in servers.items()}
            for concurrency in concurrencies:
                requests = max(concurrency * (2 if quick else 4), 8 if batch > 1 else 16)
                measures: dict[str, Callable[[], float]] = {
                    "loop": lambda n=requests, c=concurrency, there=loop: there.rate(n, c)  # type: ignore[misc]
                }
                for name, server in servers.items():
                    case = Case(server=server, message=message, answer_size=sizes[name], tls=name == "TLS")
                    measures[name] = lambda n=requests, c=concurrency, this=case: this.rate(n, c)  # type: ignore[misc]
                pids = {"loop": loop.pid, **{name: server.process.pid for name, server in servers.items()}}
                spent: dict[str, list[float]] = {name: [] for name in measures}
                counted = {
                    name: count_cpu(measure, pids[name], requests, spent[name]) for name, measure in measures.items()
                }
                rates = alternate(counted, rounds=3 if quick else 5)
                cpu = {name: statistics.median(seconds) for name, seconds in spent.items()}
                rows.append(
                    {
                        "batch": batch,
                        "concurrency": concurrency,
                        "requests_per_second": rates,
                        "ratio": {name: rates[name] / rates["loop"] for name in servers},
                        "cpu_seconds_per_request": cpu,
                        "cpu_ratio": {name: cpu["loop"] / cpu[name] for name in servers},
                    }
                )
                ratios = "  ".join(
                    f"{name} {rates[name] / rates['loop']:.3f} (by processor time {cpu['loop'] / cpu[name]:.3f})"
                    for name in servers
                )
                print(
                    f"resnet50 batch {batch} x {concurrency}: loop {rates['loop']:6.2f}/s  ratio: {ratios}", flush=True
                )
    return rows


def count_cpu(measure: Callable[[], float], pid: int, requests: int, spent: list[float]) -> Callable[[], float]:
    """Return ``measure`` with an additional record of a process's processor time per request.

    Other programs on the machine hardly affect this time. Source: proc(5), ``stat``, fields 14 and 15.
    """

    def seconds() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def counted() -> float:
        before = seconds()
        rate = measure()
        spent.append((seconds() - before) / requests)
        return rate

    return counted


def alternate(measures: dict[str, Callable[[], float]], *, rounds: int) -> dict[str, float]:
    """Run all measurements in turn, several times, and return the medians."""
    seen: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            seen[name].append(measure())
    return {name: statistics.median(values) for name, values in seen.items()}


def measure_half_plus_two(scratch: Path, *, quick: bool) -> list[Row]:
    """Return rates and latencies of all servers, and the ratios to the better peer."""
    base = scratch / "half_plus_two"
    save_half_plus_two(base)
    ours = predict_request("x", np.array([1.0, 2.0, 5.0]))
    rows = []
    with ExitStack() as stack:
        servers: dict[str, tuple[Served, bytes]] = {
            "sealserve": (stack.enter_context(start_ours(base, scratch)), ours),
            "sealserve, TLS": (stack.enter_context(start_ours(base, scratch, tls=True)), ours),
        }
        for name, start in (("kserve", start_kserve), ("mlserver", start_mlserver)):
            if not has_environment(name):
                print(
                    f"half_plus_two: {name} is not measured: create its environment with `make bench-peers`", flush=True
                )
                continue
            subprocess.run(
                [ENVIRONMENTS / name / "bin/python", HERE / "peers/infer_request.py", scratch / f"{name}.request"],
                check=True, capture_output=True,
            )  # fmt: skip
            servers[name] = (
                stack.enter_context(start(base / "1", scratch)),
                (scratch / f"{name}.request").read_bytes(),
            )
        sizes = {}
        for name, (server, message) in servers.items():
            answer = server.ask(message)
            assert ANSWER in answer, f"{name} answers {answer!r}"
            sizes[name] = len(answer)
        for concurrency in (1, 8, 32):
            seen: dict[str, list[Load]] = {name: [] for name in servers}
            for _ in range(3 if quick else 7):
                for name, (server, message) in servers.items():
                    count = (3000 if quick else 6000) if name.startswith("sealserve") else (1000 if quick else 2000)
                    case = Case(server=server, message=message, answer_size=sizes[name], tls="TLS" in name)
                    seen[name].append(case.send(count, concurrency))
            rows.append(summarise(concurrency, seen))
    return rows


def summarise(concurrency: int, seen: dict[str, list[Load]]) -> Row:
    """Print and return the medians for one concurrency."""
    row: Row = {"concurrency": concurrency}
    for name, loads in seen.items():
        rate, p50, p99 = (statistics.median(getattr(load, field) for load in loads) for field in ("rate", "p50", "p99"))
        row[name] = {"requests_per_second": rate, "p50_ms": p50 * 1e3, "p99_ms": p99 * 1e3}
        print(
            f"half_plus_two x {concurrency:2}: {name:<15} {rate:7.0f}/s  p50 {p50 * 1e3:6.2f}  p99 {p99 * 1e3:6.2f} ms"
        )
    peers = [row[name] for name in ("kserve", "mlserver") if name in row]
    if peers:
        best = max(peer["requests_per_second"] for peer in peers)
        row["ratio_to_better_peer"] = row["sealserve"]["requests_per_second"] / best
        row["p99_ratio_to_better_peer"] = row["sealserve"]["p99_ms"] / min(peer["p99_ms"] for peer in peers)
        print(
            f"half_plus_two x {concurrency:2}: {row['ratio_to_better_peer']:.2f} times the better peer;"
            f" p99 {row['p99_ratio_to_better_peer']:.2f} times that of the better peer", flush=True,
        )  # fmt: skip
    return row


_LOAD = """
import sys
from pathlib import Path
from sealserve.serving.runtime.libtensorflow import library
from sealserve.serving.runtime.session import Session
Session.load(library(), Path(sys.argv[1]), tags=["serve"], intra_op_threads=1, inter_op_threads=1)
print("loaded", flush=True)
"""


def measure_start(scratch: Path, *, quick: bool) -> Row:
    """Return the seconds from the process's start to an open port, and to a model that is only loaded."""
    base = scratch / "start"
    save_half_plus_two(base)

    def loaded() -> float:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _LOAD, base / "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        process.stdout.readline()
        took = time.perf_counter() - started
        process.kill()
        process.communicate()
        return took

    def ready(*flags: str) -> float:
        started = time.perf_counter()
        with start_ours(base, scratch, *flags):
            return time.perf_counter() - started

    def ready_with_rest() -> float:
        return ready(f"--rest_api_port={_free_port()}", "--dangerous_plaintext_rest")

    loaded()
    seconds = alternate(
        {"loaded": loaded, "ready": ready, "ready with REST": ready_with_rest}, rounds=5 if quick else 9
    )
    stages = start_stages(base, rounds=3 if quick else 7)
    print("start: " + ", ".join(f"{stage} {took:.2f} s" for stage, took in stages.items()))
    seconds.update({f"stage: {stage}": took for stage, took in stages.items()})
    for name in ("ready", "ready with REST"):
        seconds[f"beyond: {name}"] = seconds[name] - seconds["loaded"]
        print(
            f"start: loaded {seconds['loaded']:.2f} s, {name} {seconds[name]:.2f} s:"
            f" {seconds[f'beyond: {name}']:.2f} s beyond"
        )
    return dict(seconds)


def start_stages(base: Path, *, rounds: int) -> dict[str, float]:
    """Return the medians of the seconds that each stage of a start takes, from the process to the first answer."""
    message = predict_request("x", np.array([1.0, 2.0, 5.0]))
    seen: dict[str, list[float]] = {}
    for _ in range(rounds):
        port, started = _free_port(), time.monotonic()
        process = subprocess.Popen(
            [sys.executable, HERE / "start_stages.py", str(started), f"--port={port}", f"--model_name={NAME}",
             f"--model_base_path={base}", "--bind_address=127.0.0.1", "--dangerous_plaintext",
             "--tensorflow_session_parallelism=1"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert process.stderr is not None
            ends = json.loads(next(line for line in process.stderr if line.startswith("{")))
            Served(process=process, port=port, method=PREDICT).ask(message)
            ends["first answer"] = time.monotonic() - started
        finally:
            process.kill()
            process.communicate()
        before = 0.0
        for stage, end in ends.items():
            seen.setdefault(stage, []).append(end - before)
            before = end
    return {stage: statistics.median(took) for stage, took in seen.items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print or write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds and cases")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=("resnet50", "half-plus-two", "start"))
    chosen = parser.parse_args(arguments)
    if chosen.only in (None, "half-plus-two"):  # check this first; the other measurements do not need it
        require_client()
    measures: dict[str, Callable[..., Any]] = {
        "start": measure_start,
        "half-plus-two": measure_half_plus_two,
        "resnet50": measure_resnet50,
    }
    result: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": chosen.quick,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in measures.items():
            if chosen.only in (None, name):
                scratch = Path(folder) / name
                scratch.mkdir()
                result[name] = measure(scratch, quick=chosen.quick)
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
