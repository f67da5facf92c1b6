"""A deployment in a cluster: time from `scale` to ready, time of a roll-out, and distribution of requests.

    .venv/bin/python bench/cluster.py --directory FOLDER [--rounds 3] [--json FILE]

FOLDER has a deployment that serves with two replicas, such as the one in docs/tutorial/laptop-to-cluster.md. The
benchmark uses the commands that a person would use. Afterwards two replicas serve a new release.

For an added replica, the pod's own times are also shown, in whole seconds: Kubernetes does not record finer times. The
share is the busiest replica's share of the requests. 1 / replicas means an even distribution.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from sealserve.cli import connection
from sealserve.cli.context import Place
from sealserve.cli.generated_input import random_array
from sealserve.client.load import Request, run_load
from sealserve.client.predict import Predictor
from sealserve.cluster.kubernetes.cluster_client import ClusterClient
from sealserve.deployment import Deployment, read
from sealserve.serving_interface import DEFAULT_SIGNATURE

REPLICAS: Final = 2
CONNECTIONS: Final = 6
AGES: Final = 5


def verb(folder: Path, *arguments: str, check: bool = True) -> tuple[float, Any]:
    """Run a command, and return its duration in seconds and its JSON output."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "sealserve", *arguments, "--json", "--directory", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=check)
    return time.perf_counter() - began, json.loads(done.stdout)


def newest_pod(deployment: Deployment) -> dict[str, float]:
    """Return when the newest replica was fetched and ready, in seconds after its creation."""
    pods = ClusterClient().find(
        "v1", "Pod", deployment.kubernetes.namespace, "app.kubernetes.io/component=replicas"
    )  # fmt: skip
    pod = max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    made = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    reached = {item["type"]: item["lastTransitionTime"] for item in pod["status"]["conditions"]}
    return {
        name: (datetime.fromisoformat(reached[condition]) - made).total_seconds()
        for name, condition in (("fetched", "Initialized"), ("ready", "Ready"))
    }


def scale(folder: Path, deployment: Deployment) -> dict[str, Any]:
    """Measure adding and removing one replica."""
    up, _ = verb(folder, "scale", str(REPLICAS + 1))
    pod = newest_pod(deployment)
    down, _ = verb(folder, "scale", str(REPLICAS))
    return {"up_seconds": up, "pod": pod, "down_seconds": down}


def share(folder: Path, seconds: float) -> dict[str, Any]:
    """Return the busiest replica's share of all requests over some time, and the errors."""
    # The exit status shows whether a request failed. The report has the details.
    _, report = verb(
        folder, "bench", "--connections", str(CONNECTIONS), "--seconds", f"{seconds:g}", check=False
    )  # fmt: skip
    return {"busiest": max(report["instances"].values()) / report["answered"], "answered": report["answered"],
            "errors": report["errors"]}  # fmt: skip


def roll(folder: Path, deployment: Deployment) -> dict[str, Any]:
    """Measure a roll-out to a new release while single requests continue over a few connections."""
    verb(folder, "release", "build")
    reach = connection.find_access(
        Place(folder), target=None, server_name=None, ca=None, certificate=None, key=None
    )  # fmt: skip
    name = deployment.model.name
    with connection.channels(reach, REPLICAS, timeout=10) as channels, ThreadPoolExecutor(1) as pool:
        specs = Predictor(channels).metadata(name).signatures[DEFAULT_SIGNATURE].inputs
        request = Request(
            model=name, inputs={key: random_array(spec, np.random.default_rng(0), 1) for key, spec in specs.items()}
        )
        rolling = pool.submit(verb, folder, "up")
        answered, errors = 0, Counter[str]()
        while not rolling.done():
            report = run_load(channels, lambda _: request, seconds=1, concurrency=1, timeout=60)
            answered += report.answered
            errors.update(report.errors)
        return {"seconds": rolling.result()[0], "answered": answered, "errors": dict(errors)}


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--directory", type=Path, required=True, help="folder with sealserve.toml")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = arguments.directory.resolve()
    deployment = read(folder / "sealserve.toml")
    age = deployment.server.max_connection_age_seconds
    verb(folder, "scale", str(REPLICAS))
    result: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "rounds": []}
    for number in range(arguments.rounds):
        seen = {
            "scale": scale(folder, deployment), "share_young": share(folder, age / 10),
            "share_old": share(folder, age * AGES), "roll_out": roll(folder, deployment),
        }  # fmt: skip
        result["rounds"].append(seen)
        print(f"round {number + 1}: {json.dumps(seen)}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
