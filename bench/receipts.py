"""The cost of a receipt: an attested server with half_plus_two, with and without receipts, in one run.

    .venv/bin/python bench/receipts.py [--quick] [--json FILE]

Only the ratios and differences are meaningful. Requests with and without a receipt alternate on the same connections,
so that other programs on the machine affect both equally. The client is in Python: its own cost is part of each
latency, and it limits the rate. So the server's processor time for each request is reported too.

- loop: the processor time of a receipt, and of its bare signature, in a loop without a server. The signature is the
  lowest possible cost of a receipt.
- p50: one connection, one request at a time; the median of the differences between a request and the next one.
- rate: several connections, each with one request at a time, in short slices; the median of the ratios of a slice to
  the next one.
- processor time: of the server's process, from the same slices.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from model_servers import NAME, PREDICT  # noqa: E402
from scripts.attested_example import Example  # noqa: E402
from serving import predict_request, save_half_plus_two  # noqa: E402
from tests.harness.attested_identity import PROGRAM  # noqa: E402
from tests.harness.certificates import NAME as SERVICE  # noqa: E402
from tests.harness.model_server import Process  # noqa: E402

from sealserve.attested.receipt_signer import ReceiptSigner  # noqa: E402
from sealserve.canonical_document import FileListDocument, ListedFile  # noqa: E402
from sealserve.serving.runtime.ed25519 import find_signer  # noqa: E402
from sealserve.serving_interface import RECEIPT_HEADER  # noqa: E402

Metadata = tuple[tuple[str, str], ...]
WITH: Metadata = ((RECEIPT_HEADER, "1"),)
SLICE = 400
"""Requests, or steps of a loop, until the other way's turn."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A running attested server.

    Args:
        process: Its process.
        port: Its gRPC port.
        ca: The CA of its certificate, PEM.
    """

    process: subprocess.Popen[str]
    port: int
    ca: bytes

    def channel(self) -> grpc.Channel:
        """Return a channel with a separate connection."""
        options = [("grpc.ssl_target_name_override", SERVICE), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(f"127.0.0.1:{self.port}", grpc.ssl_channel_credentials(self.ca), options)

    def cpu_seconds(self) -> float:
        """Return the processor time of the server's threads. Source: Linux, ``Documentation/scheduler/sched-stats``."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def start(scratch: Path) -> Iterator[Service]:
    """Start an attested server with half_plus_two and a file list."""
    model = scratch / NAME
    save_half_plus_two(model)
    rows = tuple(
        ListedFile(
            path=path.relative_to(scratch).as_posix(),
            size=path.stat().st_size,
            sha256=sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(model.rglob("*"))
        if path.is_file()
    )
    (scratch / "files.json").write_text(FileListDocument(version=1, files=rows).model_dump_json())
    identity = scratch / "identity"
    identity.mkdir()
    flags = [f"--model_base_path={model}", "--port=0", f"--file_list={scratch / 'files.json'}"]
    server = Process([*flags, "--tensorflow_session_parallelism=1"], ("-c", PROGRAM, str(identity)))
    try:
        port = server.port()
        yield Service(process=server.process, port=port, ca=(identity / "ca.pem").read_bytes())
    finally:
        server.close()


def measure_latency(service: Service, message: bytes, *, requests: int) -> dict[str, list[float]]:
    """Return the latencies in seconds without and with a receipt, of alternating requests on one connection."""
    seen: dict[str, list[float]] = {"without": [], "with": []}
    with service.channel() as channel:
        call: Any = channel.unary_unary(PREDICT)
        for number in range(requests + 200):
            for name, metadata in (("without", None), ("with", WITH)):
                started = time.perf_counter()
                _, ended = call.with_call(message, metadata=metadata)
                took = time.perf_counter() - started
                assert (RECEIPT_HEADER in dict(ended.trailing_metadata())) == (name == "with")
                if number >= 200:  # the first requests warm up both sides
                    seen[name].append(took)
    return seen


def measure_rate(service: Service, message: bytes, *, slices: int, connections: int) -> dict[str, list[Row]]:
    """Return requests per second and the server's processor time for each request, of short alternating slices."""
    seen: dict[str, list[Row]] = {"without": [], "with": []}
    with ExitStack() as stack:
        calls: list[Any] = [
            stack.enter_context(service.channel()).unary_unary(PREDICT) for _ in range(connections)
        ]  # fmt: skip
        for call in calls:
            call(message)
        pool = stack.enter_context(ThreadPoolExecutor(connections))
        for number in range(slices):
            ways = (("without", None), ("with", WITH))
            for name, metadata in ways if number % 2 else reversed(ways):
                seen[name].append(_measure_slice(service, pool, calls, message, metadata))
    return seen


def _measure_slice(
    service: Service, pool: ThreadPoolExecutor, calls: list[Any], message: bytes, metadata: Metadata | None
) -> Row:
    numbers = count()  # its next() is atomic

    def work(call: Any) -> None:
        while next(numbers) < SLICE:
            call(message, metadata=metadata)

    before, started = service.cpu_seconds(), time.perf_counter()
    list(pool.map(work, calls))
    took = time.perf_counter() - started
    return {"rate": SLICE / took, "cpu": (service.cpu_seconds() - before) / SLICE}


def measure_loop(rounds: int) -> dict[str, list[float]]:
    """Return the processor seconds of a receipt and of its bare signature, in a loop that does nothing else.

    The bare signature is the minimum that each receipt costs: ``signature`` with the function that the server uses,
    ``cryptography`` with the package. A server is slower than a loop, because its other work replaces the code and data
    in the processor's caches.
    """
    with tempfile.TemporaryDirectory() as folder:
        example = Example(Path(folder))
        sign = ReceiptSigner(example.keyset, example.identity, find_signer).for_version(
            model=NAME, model_version="1", model_sha256="0" * 64
        )
        content = sign(bytes(32), bytes(32)).rpartition(".")[0].encode()
        bare, package = find_signer(example.identity), example.identity.sign
    actions: dict[str, Callable[[], object]] = {
        "receipt": lambda: sign(sha256(content).digest(), sha256(content).digest()),
        "signature": lambda: bare(content),
        "cryptography": lambda: package(content),
    }
    seen: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            started = time.thread_time()
            for _ in range(SLICE):
                action()
            seen[name].append((time.thread_time() - started) / SLICE)
    return seen


def measure(scratch: Path, *, quick: bool) -> Row:
    """Return and print the cost of a receipt."""
    message = predict_request("x", np.array([1.0, 2.0, 5.0]))
    loop = {name: statistics.median(values) for name, values in measure_loop(20 if quick else 60).items()}
    with start(scratch) as service:
        latencies = measure_latency(service, message, requests=1500 if quick else 6000)
        slices = measure_rate(service, message, slices=25 if quick else 120, connections=8)
    p50 = {name: statistics.median(values) for name, values in latencies.items()}
    differences = [b - a for a, b in zip(latencies["without"], latencies["with"], strict=True)]
    median = {
        name: {field: statistics.median(row[field] for row in rows) for field in ("rate", "cpu")}
        for name, rows in slices.items()
    }
    pairs = list(zip(slices["without"], slices["with"], strict=True))
    row = {
        "loop_us": {name: value * 1e6 for name, value in loop.items()},
        "p50_us": {name: value * 1e6 for name, value in p50.items()},
        "p50_difference_us": statistics.median(differences) * 1e6,
        "requests_per_second": {name: values["rate"] for name, values in median.items()},
        # The median of the pairs' ratios: the processor's speed, and its other work, differ between pairs.
        "rate_ratio": statistics.median(b["rate"] / a["rate"] for a, b in pairs),
        "server_cpu_us": {name: values["cpu"] * 1e6 for name, values in median.items()},
        "server_cpu_difference_us": statistics.median(b["cpu"] - a["cpu"] for a, b in pairs) * 1e6,
    }
    print(f"receipts, in a loop: {row['loop_us']['receipt']:.1f} us of processor time for a receipt, of which "
          f"{row['loop_us']['signature']:.1f} us are the bare signature "
          f"({row['loop_us']['cryptography']:.1f} us with the package cryptography)")  # fmt: skip
    print(f"receipts, p50 without {row['p50_us']['without']:.0f} us, with {row['p50_us']['with']:.0f} us: "
          f"{row['p50_difference_us']:+.0f} us (limit +100 us)")  # fmt: skip
    print(f"receipts, rate without {median['without']['rate']:.0f}/s, with {median['with']['rate']:.0f}/s: "
          f"ratio {row['rate_ratio']:.3f} (limit 0.9)")  # fmt: skip
    print(f"receipts, server's processor time without {row['server_cpu_us']['without']:.0f} us, with "
          f"{row['server_cpu_us']['with']:.0f} us: {row['server_cpu_difference_us']:+.0f} us")  # fmt: skip
    return row


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="send fewer requests")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = measure(Path(folder), quick=arguments.quick)
    if arguments.json:
        arguments.json.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
