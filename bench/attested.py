"""The cost of attested serving, side by side with the old way and with plain TLS, in one run.

    .venv/bin/python bench/attested.py [--quick] [--json FILE] [--only bundle|start|requests|receipts]

- *bundle*: the six steps with a bundle in memory, and the size of the bundle. ``first`` is the first verification of a
  process, which also loads the root and compiles patterns. ``known replica`` is the check of a verified certificate.
- *start*: a replica of a deployment on this machine, from its process to its open port. In the old way, the owner's TLS
  key is sealed into the release (``dangerous_owner_tls_key = true``).
- *requests*: half_plus_two in a deployment on this machine, through NGINX, in the ways of ``attested_requests``.
- *receipts*: the same model server without NGINX, with and without receipts (``receipts.py``).

The ways take turns in short rounds, because the speed of the processor and other work on the machine change. Compare
the ratios and differences only. A limit is beside each figure that has one.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow saves half_plus_two in this process

import receipts  # noqa: E402  # it imports the tests' parts, which are beside this folder
from attested_deployments import BenchDeployment  # noqa: E402
from attested_requests import WAYS, Requests, Row, measure_requests  # noqa: E402
from scripts.attested_example import Example  # noqa: E402
from serving import predict_request  # noqa: E402

from sealserve.attested.evidence import EvidenceBundle  # noqa: E402
from sealserve.attested.evidence_conversation import PresentedService  # noqa: E402

PARTS: Final = ("bundle", "start", "requests", "receipts")
MOST_BUNDLE_MS: Final = 20.0
MOST_BUNDLE_BYTES: Final = 64 * 1024
MOST_RECEIPT_US: Final = 100.0
LEAST_RECEIPT_RATE: Final = 0.9


def timed(action: Callable[[], object], rounds: int) -> dict[str, float]:
    """Return the best and the median of the rounds, in milliseconds."""
    seconds = []
    gc.disable()
    try:
        for _ in range(rounds):
            began = time.perf_counter()
            action()
            seconds.append(time.perf_counter() - began)
    finally:
        gc.enable()
    return {"best_ms": min(seconds) * 1e3, "median_ms": statistics.median(seconds) * 1e3}


def measure_bundle(folder: Path, rounds: int) -> Row:
    """Measure the verification of a bundle in memory."""
    example = Example(folder / "vendor")
    content, policy, now = example.bundle().to_bytes(), example.policy, example.now + timedelta(minutes=1)

    def verify() -> None:
        PresentedService.of_bundle(EvidenceBundle.parse(content)).verify(policy, now=now)

    first = timed(verify, 1)["best_ms"]
    presented = PresentedService.of_bundle(EvidenceBundle.parse(content))
    verified = presented.verify(policy, now=now)
    return {
        "bytes": len(content),
        "first_ms": first,
        "verify": timed(verify, rounds),
        "parse": timed(lambda: EvidenceBundle.parse(content), rounds),
        "six_steps": timed(lambda: presented.verify(policy, now=now), rounds),
        "known_replica": timed(lambda: verified.check_connection(presented.certificate, now=now), rounds),
    }


def measure_start(attested: BenchDeployment, rounds: int) -> Row:
    """Measure the start of a replica in both ways, in turns."""
    with BenchDeployment.running(owner_tls_key=True) as old:
        ways = {"old": old, "attested": attested}
        for deployment in ways.values():
            deployment.start_seconds()  # builds the enclave, and fills the page cache
        found = [{way: deployment.start_seconds() for way, deployment in ways.items()} for _ in range(rounds)]
    return {
        "median_s": {way: statistics.median(row[way] for row in found) for way in ways},
        "best_s": {way: min(row[way] for row in found) for way in ways},
        "difference_s": statistics.median(row["attested"] - row["old"] for row in found),
        "ratio": statistics.median(row["attested"] / row["old"] for row in found),
    }


def measure(parts: tuple[str, ...], *, quick: bool) -> Row:
    """Measure the chosen parts, and print each."""
    result: Row = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sealserve-bench-")))
        if "bundle" in parts:
            result["bundle"] = measure_bundle(folder, 50 if quick else 500)
            print_bundle(result["bundle"])
        if {"start", "requests"} & set(parts):
            deployment = stack.enter_context(BenchDeployment.running(owner_tls_key=False))
            if "start" in parts:
                result["start"] = measure_start(deployment, 3 if quick else 9)
                print_start(result["start"])
            if "requests" in parts:
                policy, file = deployment.policy()
                with deployment.proxy(file) as proxy:
                    message = predict_request("x", np.array([1.0, 2.0, 5.0]))
                    requests = Requests(deployment=deployment, policy=policy, proxy=proxy, message=message)
                    result["requests"] = measure_requests(requests, quick=quick)
                print_requests(result["requests"])
    if "receipts" in parts:
        with tempfile.TemporaryDirectory(prefix="sealserve-bench-") as name:
            result["receipts"] = receipts.measure(Path(name), quick=quick)
    return result


def print_bundle(row: Row) -> None:
    """Print the cost of a bundle."""
    print(f"bundle: {row['bytes']} bytes (limit {MOST_BUNDLE_BYTES})")
    for part, limit in (("verify", f" (limit {MOST_BUNDLE_MS:.0f} ms)"), ("parse", ""), ("six_steps", ""),
                        ("known_replica", "")):  # fmt: skip
        print(f"bundle, {part.replace('_', ' ')}: median {row[part]['median_ms']:.2f} ms, "
              f"best {row[part]['best_ms']:.2f} ms{limit}")  # fmt: skip
    print(f"bundle, first verification of the process: {row['first_ms']:.1f} ms")


def print_start(row: Row) -> None:
    """Print the time of a start."""
    for way, title in (("old", "old way"), ("attested", "attested")):
        print(f"start, {title}: median {row['median_s'][way]:.2f} s, best {row['best_s'][way]:.2f} s")
    print(f"start, attested / old way: {row['ratio']:.2f}, {row['difference_s']:+.2f} s")


def print_requests(row: Row) -> None:
    """Print connections, latencies and rates."""
    for way, found in row["connect_ms"].items():
        print(f"new connection and first answer, {way}: median {found['median']:.1f} ms, best {found['best']:.1f} ms")
    limits = {"attested": "no difference expected", "receipt": f"limit {MOST_RECEIPT_US:+.0f} us"}
    for way in WAYS:
        found = row["one_connection"][way]
        print(f"one connection, {way}: {found['requests_per_second']:.0f} requests/s, p50 {found['p50_us']:.0f} us, "
              f"{found['difference_us']:+.0f} us{_beside(limits.get(way))}")  # fmt: skip
    limits["receipt"] = f"limit {LEAST_RECEIPT_RATE}"
    for way in WAYS:
        found = row["rates"][way]
        print(f"eight connections, {way}: {found['requests_per_second']:.0f} requests/s, best {found['best']:.0f}, "
              f"ratio {found['ratio']:.2f}{_beside(limits.get(way))}")  # fmt: skip


def _beside(limit: str | None) -> str:
    return f" ({limit})" if limit else ""


def goals(result: Row) -> dict[str, bool]:
    """Return the goals of the measured parts, and whether each is met."""
    found: dict[str, bool] = {}
    if bundle := result.get("bundle"):
        found["bundle: bytes"] = bundle["bytes"] <= MOST_BUNDLE_BYTES
        found["bundle: verification"] = bundle["verify"]["median_ms"] <= MOST_BUNDLE_MS
    if row := result.get("requests"):
        found["receipts through NGINX: p50"] = row["one_connection"]["receipt"]["difference_us"] <= MOST_RECEIPT_US
        found["receipts through NGINX: rate"] = row["rates"]["receipt"]["ratio"] >= LEAST_RECEIPT_RATE
    if row := result.get("receipts"):
        found["receipts: p50"] = row["p50_difference_us"] <= MOST_RECEIPT_US
        found["receipts: rate"] = row["rate_ratio"] >= LEAST_RECEIPT_RATE
    return found


def main() -> None:
    """Measure, and print or write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure for about two minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part; repeatable")
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "processors": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
    }
    result |= measure(tuple(arguments.only or PARTS), quick=arguments.quick)
    result["goals"] = goals(result)
    for goal, met in result["goals"].items():
        print(f"goal {goal}: {'met' if met else 'MISSED'}")
    print(f"load of the machine: {result['load_before']:.1f} before, {os.getloadavg()[0]:.1f} after")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
