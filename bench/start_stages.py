"""Runs the model server, and prints when each stage of its start ended. `bench/serving.py` starts this program.

    python bench/start_stages.py STARTED FLAG...

STARTED is the time of the process's start on the system's monotonic clock, in seconds. The program prints a line of
JSON to standard error, with the seconds since then at the end of each stage, and serves until it is killed.
"""

import json
import sys
import time
from typing import Any
from unittest.mock import patch


def main() -> None:
    """Run the server."""
    started, flags = float(sys.argv[1]), sys.argv[2:]
    ends = {"Python": time.monotonic() - started}

    def mark(stage: str) -> None:
        ends[stage] = time.monotonic() - started

    from sealserve.serving import program, server  # noqa: PLC0415  # the import is a stage
    from sealserve.serving.lifecycle.models import Models  # noqa: PLC0415
    from sealserve.serving.lifecycle.warmup import warm_up  # noqa: PLC0415
    from sealserve.serving.runtime import libtensorflow  # noqa: PLC0415

    mark("import")
    libtensorflow.library()
    mark("library")
    start = Models.start

    def warm_up_and_mark(*arguments: Any, **named: Any) -> None:
        mark("load")
        warm_up(*arguments, **named)

    def start_and_mark(models: Any) -> None:
        start(models)
        mark("warm-up")

    stopped = server.Server._stopped_within  # noqa: SLF001  # the first wait follows the last port

    def report_and_wait(running: Any, seconds: float) -> Any:
        if "ports" not in ends:
            mark("ports")
            print(json.dumps(ends), file=sys.stderr, flush=True)
        return stopped(running, seconds)

    with (
        patch("sealserve.serving.lifecycle.loading.warm_up", warm_up_and_mark),
        patch.object(Models, "start", start_and_mark),
        patch.object(server.Server, "_stopped_within", report_and_wait),
    ):
        program.main(flags)


if __name__ == "__main__":
    main()
