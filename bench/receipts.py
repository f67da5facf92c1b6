"""The cost of a receipt: an attested server with half_plus_two, with and without receipts, in one run.

    .venv/bin/python bench/receipts.py [--quick] [--json FILE]

Only the ratios and differences are meaningful. Requests with and without a receipt alternate on the same connection, so
that other programs on the machine affect both equally. The client is in Python: its own cost is part of each latency,
and it limits the rate. So the server's processor time for each request is reported too, and the rate that follows.

- p50: one connection, one request at a time.
- rate: several connections, each with one request at a time.
- processor time: of the server's process, from the same requests.
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
from serving import predict_request, save_half_plus_two  # noqa: E402
from tests.harness.attested_identity import PROGRAM  # noqa: E402
from tests.harness.certificates import NAME as SERVICE  # noqa: E402
from tests.harness.model_server import Process  # noqa: E402

from sealserve.canonical_document import FileListDocument, ListedFile  # noqa: E402
from sealserve.serving_interface import RECEIPT_HEADER  # noqa: E402

WITH = ((RECEIPT_HEADER, "1"),)
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
        """Return the processor time of the server until now. Source: proc(5), ``stat``, fields 14 and 15."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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


def measure_rate(service: Service, message: bytes, *, requests: int, connections: int) -> Callable[[bool], Row]:
    """Return a function that returns requests per second and the server's processor time for each request."""

    def run(receipts: bool) -> Row:
        with ExitStack() as stack:
            channels = [stack.enter_context(service.channel()) for _ in range(connections)]
            calls: list[Any] = [channel.unary_unary(PREDICT) for channel in channels]
            for call in calls:
                call(message)
            numbers, metadata = count(), WITH if receipts else None

            def work(call: Any) -> None:
                while next(numbers) < requests:
                    call(message, metadata=metadata)

            before, started = service.cpu_seconds(), time.perf_counter()
            with ThreadPoolExecutor(connections) as pool:
                list(pool.map(work, calls))
            took = time.perf_counter() - started
            return {"rate": requests / took, "cpu": (service.cpu_seconds() - before) / requests}

    return run


def measure(scratch: Path, *, quick: bool) -> Row:
    """Return and print the cost of a receipt."""
    message = predict_request("x", np.array([1.0, 2.0, 5.0]))
    with start(scratch) as service:
        latencies = measure_latency(service, message, requests=1500 if quick else 6000)
        run = measure_rate(service, message, requests=3000 if quick else 8000, connections=8)
        rounds: dict[str, list[Row]] = {"without": [], "with": []}
        for _ in range(3 if quick else 7):
            for name, seen in rounds.items():
                seen.append(run(name == "with"))
    p50 = {name: statistics.median(values) for name, values in latencies.items()}
    median = {
        name: {field: statistics.median(row[field] for row in rows) for field in ("rate", "cpu")}
        for name, rows in rounds.items()
    }
    row = {
        "p50_us": {name: value * 1e6 for name, value in p50.items()},
        "p50_difference_us": (p50["with"] - p50["without"]) * 1e6,
        "requests_per_second": {name: values["rate"] for name, values in median.items()},
        "rate_ratio": median["with"]["rate"] / median["without"]["rate"],
        "server_cpu_us": {name: values["cpu"] * 1e6 for name, values in median.items()},
        "server_cpu_difference_us": (median["with"]["cpu"] - median["without"]["cpu"]) * 1e6,
    }
    print(f"receipts, p50 without {row['p50_us']['without']:.0f} us, with {row['p50_us']['with']:.0f} us: "
          f"{row['p50_difference_us']:+.0f} us (limit +100 us)")  # fmt: skip
    print(f"receipts, rate without {median['without']['rate']:.0f}/s, with {median['with']['rate']:.0f}/s: "
          f"ratio {row['rate_ratio']:.3f} (limit 0.9)")  # fmt: skip
    print(f"receipts, server's processor time without {median['without']['cpu'] * 1e6:.0f} us, with "
          f"{median['with']['cpu'] * 1e6:.0f} us: {row['server_cpu_difference_us']:+.0f} us")  # fmt: skip
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
