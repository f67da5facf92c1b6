"""What the verification of a service costs its users.

    .venv/bin/python bench/attested.py [--quick] [--json FILE]

- *bundle*: the six steps with a bundle in memory, and their parts, and the size of the bundle. The goals: 20 ms and
  64 KiB. ``first`` is the first verification of a process, which also loads the root and compiles patterns.
- *connect*: a new channel until the first answer, with and without ``attested``.
- *requests*: requests per second and the median latency on open channels, with and without ``attested``, in turns.
  No difference is expected, because only the roots of the channel differ.

The service is a small gRPC server in another process of this machine, with evidence from a simulated vendor. Its quote
and its collateral have the formats of genuine ones.
Times are the best of the rounds, unless they are named medians: other work on the machine only makes a round slower.
"""

import argparse
import gc
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from scripts.attested_example import Example  # noqa: E402  # the scripts are beside this folder
from tests.harness.attested_service import NAME, AttestedService  # noqa: E402

from sealserve.attested.evidence import EvidenceBundle  # noqa: E402
from sealserve.attested.evidence_conversation import PresentedService  # noqa: E402
from sealserve.attested.user_policy import parse_user_policy  # noqa: E402
from sealserve.client.attested import AttestedPolicy  # noqa: E402
from sealserve.client.channel import ServiceChannel, open_channel  # noqa: E402
from sealserve.client.predict import Predictor  # noqa: E402

GOAL_SECONDS: Final = 0.020
GOAL_BYTES: Final = 64 * 1024
INPUT: Final = {"x": np.array([1.0, 2.0], np.float32)}


def timed(action: Callable[[], object], rounds: int) -> list[float]:
    """Return the seconds of each round."""
    found = []
    gc.disable()
    try:
        for _ in range(rounds):
            began = time.perf_counter()
            action()
            found.append(time.perf_counter() - began)
    finally:
        gc.enable()
    return found


def summary(seconds: list[float]) -> dict[str, float]:
    """Return the best, the median and the 99th percentile in milliseconds."""
    ordered = sorted(seconds)
    return {
        "best_ms": ordered[0] * 1e3,
        "median_ms": statistics.median(ordered) * 1e3,
        "p99_ms": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3,
    }


def measure_bundle(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure the verification of a bundle in memory."""
    example = Example(folder / "vendor")
    content, policy, now = example.bundle().to_bytes(), example.policy, example.now + timedelta(minutes=1)

    def verify() -> None:
        PresentedService.of_bundle(EvidenceBundle.parse(content)).verify(policy, now=now)

    first = timed(verify, 1)[0]
    presented = PresentedService.of_bundle(EvidenceBundle.parse(content))
    verified = presented.verify(policy, now=now)
    return {
        "bytes": len(content),
        "first_ms": first * 1e3,
        "verify": summary(timed(verify, rounds)),
        "parse": summary(timed(lambda: EvidenceBundle.parse(content), rounds)),
        "six_steps": summary(timed(lambda: presented.verify(policy, now=now), rounds)),
        "known_replica": summary(timed(lambda: verified.check_connection(presented.certificate, now=now), rounds)),
    }


def serve(folder: str, connection: Connection) -> None:
    """Run the service until the other process closes the connection."""
    from tests.unit.client.conftest import Behaviour, Service  # noqa: PLC0415  # imports pytest

    with AttestedService(Path(folder), handlers=[Service(Behaviour(instance="0" * 32))]) as service:
        connection.send((service.address, service.ca, service.policy_file))
        try:
            connection.recv()
        except EOFError:
            return


def measure_service(folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure connections and requests to a service in another process."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(str(folder), there), daemon=True)
    process.start()
    there.close()
    address, ca, policy_file = here.recv()
    policy = parse_user_policy(policy_file.encode())
    try:
        return {
            "connect": measure_connect(address, ca, policy, rounds),
            "requests": measure_requests(address, ca, policy, seconds),
        }
    finally:
        here.close()
        process.join(10)
        process.terminate()


def measure_connect(address: str, ca: bytes, policy: AttestedPolicy, rounds: int) -> dict[str, Any]:
    """Measure a new channel until the first answer, in turns. Closing the channel is not measured."""
    seen: dict[str, list[float]] = {"plain": [], "attested": []}
    for _ in range(rounds):
        for name, found in seen.items():
            began = time.perf_counter()
            attested = policy if name == "attested" else None
            with open_channel(address, server_name=NAME, ca=ca, attested=attested) as channel:
                Predictor([channel]).predict("toy", INPUT)
                found.append(time.perf_counter() - began)
    return {name: summary(found) for name, found in seen.items()}


def measure_requests(address: str, ca: bytes, policy: AttestedPolicy, seconds: float) -> dict[str, Any]:
    """Measure requests on two open channels, with and without evidence, in turns of short slices."""
    with (
        open_channel(address, server_name=NAME, ca=ca) as plain,
        open_channel(address, server_name=NAME, ca=ca, attested=policy) as attested,
    ):
        channels: dict[str, ServiceChannel] = {"plain": plain, "attested": attested}
        latencies: dict[str, list[float]] = {name: [] for name in channels}
        end = time.monotonic() + 2 * seconds
        while time.monotonic() < end:
            for name, channel in channels.items():
                predictor = Predictor([channel])
                latencies[name] += timed(lambda predictor=predictor: predictor.predict("toy", INPUT), 100)  # type: ignore[misc]
    return {
        name: {"requests_per_second": len(found) / sum(found), "p50_ms": statistics.median(found) * 1e3}
        for name, found in latencies.items()
    }


def main() -> None:
    """Measure, and print or write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="measure for a few seconds only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "processors": len(os.sched_getaffinity(0)),
    }
    with tempfile.TemporaryDirectory(prefix="sealserve-bench-") as name:
        folder = Path(name)
        (folder / "bundle").mkdir()
        result["bundle"] = measure_bundle(folder / "bundle", 50 if arguments.quick else 500)
        (folder / "service").mkdir()
        result |= measure_service(folder / "service", 5 if arguments.quick else 50, 2.0 if arguments.quick else 20.0)
    bundle = result["bundle"]
    print(f"bundle: {bundle['bytes']} bytes (goal: at most {GOAL_BYTES})")
    for part in ("verify", "parse", "six_steps", "known_replica"):
        print("{}: best {best_ms:.2f} ms, median {median_ms:.2f} ms, p99 {p99_ms:.2f} ms".format(part, **bundle[part]))
    print(f"first verification of the process: {bundle['first_ms']:.1f} ms")
    for part, found in result["connect"].items():
        print(
            "new channel and first answer, {}: best {best_ms:.1f} ms, median {median_ms:.1f} ms".format(part, **found)
        )
    for part, found in result["requests"].items():
        print("open channel, {}: {requests_per_second:.0f} requests/s, p50 {p50_ms:.2f} ms".format(part, **found))
    met = bundle["bytes"] <= GOAL_BYTES and bundle["verify"]["best_ms"] <= GOAL_SECONDS * 1e3
    print(f"goals: {'met' if met else 'MISSED'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
