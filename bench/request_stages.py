"""Processor time of a half_plus_two request, by stage: what bounds the rate of small models.

    .venv/bin/python bench/request_stages.py [--quick] [--json FILE]

The stages are measured in one run:

- the whole server: processor time of its process for each request, at 1, 8 and 32 connections;
- the transport alone: a process with the same transport that answers every request with the same bytes. It has gRPC,
  its binding, the threads that it wakes up, and the kernel;
- the request: a loop on one thread from the bytes of the request to the bytes of the answer, with TensorFlow's run
  and protobuf's part measured separately;
- the remainder: what the whole server needs beyond the two parts. Threads wait for Python's lock, and evict each
  other's data from the processor's caches.

The client is h2load. Rounds alternate, and the median is reported.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from http2_load import require_client, send
from model_servers import NAME, PREDICT, start_ours
from serving import predict_request, save_half_plus_two

from sealserve.serving.api.predict import predict
from sealserve.serving.command_line.options import ServerOptions, parse
from sealserve.serving.lifecycle.models import Models
from sealserve.serving.metrics import Metrics
from sealserve.serving.runtime.protos import PredictRequest
from sealserve.serving.runtime.session import Session
from sealserve.serving.servables import Servables
from sealserve.serving.wire import transports
from sealserve.serving.wire.allowance import Allowance
from sealserve.serving.wire.rpc import TRAILER
from sealserve.serving.wire.transport import TransportSettings

CONNECTIONS = (1, 8, 32)
LARGEST = 256 * 2**20
TRANSPORT = "--transport-alone"


def serve_transport_alone(answer: bytes, threads: int) -> None:
    """Serve Predict with a constant answer until the process is killed; print the port."""
    settings = TransportSettings(
        handlers={PREDICT: lambda call: call.answer(answer)},
        threads=threads,
        calls=1024,
        patience=60,
        allowance=Allowance(LARGEST),
        trailer=TRAILER,
    )
    transport = transports.choose()(settings)
    print(transport.listen("127.0.0.1:0"), flush=True)
    transport.start()
    time.sleep(3600)


@contextmanager
def transport_alone(answer: bytes, threads: int) -> Iterator[tuple[int, int]]:
    """Run `serve_transport_alone` in a process; yield its process ID and port."""
    command = [sys.executable, __file__, TRANSPORT, answer.hex(), str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def used(pid: int) -> float:
    """Return the processor time of a process in seconds, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def per_call(work: Callable[[], object], calls: int) -> float:
    """Return the processor time of one call on this thread in us: the minimum of seven loops."""
    found = []
    for _ in range(7):
        started = time.thread_time()
        for _ in range(calls):
            work()
        found.append((time.thread_time() - started) / calls)
    return min(found) * 1e6


def measure_request(base: Path, message: bytes, calls: int) -> dict[str, float]:
    """Return the processor time of the parts between a request's bytes and the answer's, in us."""
    options = parse(
        [f"--model_name={NAME}", f"--model_base_path={base}", "--tensorflow_session_parallelism=1",
         "--dangerous_plaintext"]
    )  # fmt: skip
    assert isinstance(options, ServerOptions)
    servables = Servables(Metrics())
    models = Models(options, None, servables, None)
    models.start()
    original = Session.run
    runs: list[float] = []

    def answer() -> bytes:
        request = PredictRequest.FromString(message)
        response = predict(servables, request, max_tensor_bytes=LARGEST, deadline=None, as_content=False)
        return bytes(response.SerializeToString())

    def repeat(session: Session, *feeds_and_fetches: Any, **named: Any) -> Any:
        """Measure a run inside a request, because the inputs live only until its end."""
        runs.append(per_call(lambda: original(session, *feeds_and_fetches, **named), calls))
        return original(session, *feeds_and_fetches, **named)

    for _ in range(100):  # the first runs are slower
        answer()
    whole = per_call(answer, calls)
    with patch.object(Session, "run", repeat):
        answer()
    (run,) = runs
    parsed = PredictRequest.FromString(message)
    response = predict(servables, parsed, max_tensor_bytes=LARGEST, deadline=None, as_content=False)
    protobuf = per_call(lambda: PredictRequest.FromString(message), calls) + per_call(
        lambda: bytes(response.SerializeToString()), calls
    )
    models.close()
    return {"request_us": whole, "tensorflow_run_us": run, "protobuf_us": protobuf}


def measure(scratch: Path, *, quick: bool) -> dict[str, Any]:
    """Measure all stages."""
    base = scratch / "half_plus_two"
    save_half_plus_two(base)
    message = predict_request("x", np.array([1.0, 2.0, 5.0]))
    requests, rounds = (3000, 3) if quick else (8000, 7)
    rows = []
    with ExitStack() as stack:
        ours = stack.enter_context(start_ours(base, scratch))
        answer = ours.ask(message)
        threads = 4 * len(os.sched_getaffinity(0)) + 3  # as the server with its default flags
        alone = stack.enter_context(transport_alone(answer, threads))
        places = {"server": (ours.process.pid, ours.port), "transport": alone}
        for connections in CONNECTIONS:
            seen: dict[str, list[float]] = {name: [] for name in places}
            for _ in range(rounds):
                for name, (pid, port) in places.items():
                    before = used(pid)
                    send(port, PREDICT, message, answer_size=len(answer), concurrency=connections, requests=requests)
                    seen[name].append((used(pid) - before) / requests * 1e6)
            rows.append(
                {"connections": connections, **{f"{name}_us": statistics.median(v) for name, v in seen.items()}}
            )
    stages = measure_request(base, message, 1000 if quick else 5000)
    for row in rows:
        row["remainder_us"] = row["server_us"] - row["transport_us"] - stages["request_us"]
        print(
            f"{row['connections']:2d} connections: {row['server_us']:.0f} us = transport {row['transport_us']:.0f}"
            f" + request {stages['request_us']:.0f} (TensorFlow's run {stages['tensorflow_run_us']:.0f},"
            f" protobuf {stages['protobuf_us']:.0f}) + remainder {row['remainder_us']:.0f}"
        )
    return {"stages": stages, "connections": rows}


def main() -> None:
    """Run the benchmark."""
    if sys.argv[1:2] == [TRANSPORT]:
        serve_transport_alone(bytes.fromhex(sys.argv[2]), int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="send fewer requests")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    require_client()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), quick=arguments.quick)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
