"""The benchmarks' client: h2load (package ``nghttp2-client``), which sends a gRPC request repeatedly.

A Python client would use more of the machine than the servers under comparison. This client uses almost nothing, and
is the same for all servers. Source of its output format: h2load(1), "--log-file" and the line "traffic".
"""

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The result of one run of the client.

    Args:
        rate: Requests per second.
        p50: Median of the latencies, in seconds.
        p99: Their 99th percentile.
    """

    rate: float
    p50: float
    p99: float


def has_client() -> bool:
    """Return whether the client is installed."""
    return shutil.which("h2load") is not None


def require_client() -> None:
    """End the program if the client is not installed."""
    if not has_client():
        sys.exit("bench: h2load is missing. Run `make bench-peers`, or as root `apt-get install nghttp2-client`")


def send(
    port: int, path: str, message: bytes, *, answer_size: int, concurrency: int, requests: int, tls: bool = False
) -> Load:
    """Send ``requests`` requests over ``concurrency`` connections, one at a time on each.

    Args:
        port: The server's port on this machine.
        path: The gRPC method.
        message: The request.
        answer_size: Size of the correct answer in bytes. Other sizes end the program (errors have no content).
        concurrency: Number of connections.
        requests: Total number of requests.
        tls: Whether the server uses TLS.
    """
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "request", Path(folder) / "log"
        body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        url = f"http{'s' if tls else ''}://127.0.0.1:{port}{path}"
        command = [
            *("h2load", "-t", "1", "-m", "1", "-c", str(concurrency), "-n", str(requests), "-d", str(body)),
            *("-H", "content-type: application/grpc", "-H", "te: trailers", f"--log-file={log}", url),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = re.search(r"finished in .*?, ([\d.]+) req/s", done.stdout)
        data = re.search(r"\((\d+)\) data", done.stdout)
        assert found, done.stdout
        assert data, done.stdout
        expected = requests * (answer_size + 5)  # 5: the prefix of a gRPC message
        assert int(data[1]) == expected, f"expected answers of {expected} bytes, got {data[1]}:\n{done.stdout}"
        seconds = np.loadtxt(log, usecols=2, ndmin=1) / 1e6
    p50, p99 = np.percentile(seconds, [50, 99])
    return Load(rate=float(found[1]), p50=float(p50), p99=float(p99))
