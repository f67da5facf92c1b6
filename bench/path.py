"""The cost of each part of the request path: plain TensorFlow, one replica over TLS, with NGINX, both replicas.

All measurements alternate on one machine, so that the ratios are meaningful:

    .venv/bin/python bench/path.py [--rounds 3] [--requests 20] [--json FILE]

The limit is TensorFlow itself: serving can reach at most the ratio 1.0 to the plain loop with as many threads.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sealserve.cli import access, console
from sealserve.cli.demo import preparation
from sealserve.cli.demo.preparation import ModelChoice
from sealserve.cli.demo.screen import Screen
from sealserve.cli.demo.walk import Walk
from sealserve.client.channel import ServiceChannel, open_channel
from sealserve.client.load import Request, run_load
from sealserve.model.tensorflow_import import import_tensorflow
from sealserve.terms import TlsMode

SHAPE = (1, 224, 224, 3)
Measure = Callable[[int], float]


def plain_tensorflow(folder: Path) -> Measure:
    """Return a function that calls TensorFlow in a loop and returns requests per second."""
    tf = import_tensorflow()
    call = tf.saved_model.load(str(folder)).signatures["serving_default"]
    picture = tf.constant(np.random.default_rng(0).random(SHAPE, np.float32))
    call(input=picture)

    def measure(requests: int) -> float:
        started = time.perf_counter()
        for _ in range(requests):
            call(input=picture)["predict"].numpy()
        return requests / (time.perf_counter() - started)

    return measure


def served(channels: list[ServiceChannel], model: str, concurrency: int) -> Measure:
    """Return a function that sends requests over ``channels`` and returns requests per second."""
    picture = np.random.default_rng(0).random(SHAPE, np.float32)

    def make_request(_: int) -> Request:
        return Request(model=model, inputs={"input": picture})

    def measure(requests: int) -> float:
        report = run_load(channels, make_request, requests=requests, concurrency=concurrency)
        if report.first_error is not None:
            raise report.first_error
        return report.rate

    measure(len(channels))
    return measure


def measure_all(walk: Walk, stack: ExitStack, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Set up the deployment, measure in turns, and return requests per second by name."""
    workspace = walk.workspace
    import_tensorflow().config.threading.set_intra_op_parallelism_threads(1)  # as in a replica; must precede first use
    folder = walk.prepare(ModelChoice(path=None, inputs=("input",), outputs=("predict",)), seed=0, tls=TlsMode.TWO_WAY)
    walk.certify()
    walk.start_vendor()
    replicas = walk.start_replicas(walk.ship(walk.seal(), preparation.REPLICAS), preparation.REPLICAS)
    walk.start_front()
    reach = access.access(workspace, walk.deployment)

    def connect(target: str) -> ServiceChannel:
        return stack.enter_context(
            open_channel(
                target, server_name=reach.server_name, ca=reach.ca, certificate=reach.certificate, key=reach.key
            )
        )

    name = walk.deployment.model.name
    through_nginx = [connect(reach.target) for _ in range(4)]
    measures: dict[str, Measure] = {
        "tensorflow, 1 thread": plain_tensorflow(folder),
        "one replica, TLS": served([connect(f"127.0.0.1:{replicas[0].port}")], name, 1),
        "one replica, TLS, NGINX": served(through_nginx[:1], name, 1),
        "two replicas, TLS, NGINX, 4 at a time": served(through_nginx, name, 4),
    }
    rates: dict[str, list[float]] = {key: [] for key in measures}
    for _ in range(arguments.rounds):
        for key, measure in measures.items():
            rates[key].append(measure(arguments.requests))
    return rates


def main() -> None:
    """Measure, and print or write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack, console.quiet_libraries():
        workspace = preparation.reset(Path(folder))
        walk = Walk(workspace, Screen(as_json=True), tell=console.quietly)
        stack.callback(walk.stop)
        rates = measure_all(walk, stack, arguments)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    limit = next(iter(medians.values()))
    result: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": arguments.rounds,
        "requests": arguments.requests,
        "requests_per_second": medians,
        "ratio_to_tensorflow": {name: rate / limit for name, rate in medians.items()},
    }
    for name, rate in medians.items():
        print(f"{name:<40} {rate:8.2f} requests/s   {rate / limit:5.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
