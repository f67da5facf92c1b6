"""Memory of a replica compared with a plain TensorFlow process with the same ResNet50.

    .venv/bin/python bench/memory.py [--json FILE]

The result is the resident set (RSS) of the process and the size of files in memory (tmpfs), after a few requests. In an
enclave the decrypted model is in memory too. The server empties these files after TensorFlow has its own copy.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
from model_servers import HERE, NAME, start_ours
from serving import predict_request

from sealserve.model.convert import import_model
from sealserve.model.resnet50 import INPUT, OUTPUT, build_frozen_graph

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # a tmpfs, as an enclave's private memory is
REQUESTS = 5


def resident(pid: int) -> int:
    """Return a process's resident set, in bytes (Linux, ``Documentation/filesystems/proc.rst``, ``VmRSS``)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def size(folder: Path) -> int:
    """Return the bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def plain_tensorflow(saved_model: Path) -> Iterator[int]:
    """Yield the process ID of a Python process that has loaded the model with TensorFlow and called it."""
    command = [sys.executable, str(HERE / "tensorflow_loop.py"), str(saved_model), INPUT, OUTPUT, "1", "1"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdout.readline()
        process.stdin.write(f"{REQUESTS} 1\n")
        process.stdin.flush()
        process.stdout.readline()
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def replica(base: Path, scratch: Path, *flags: str) -> dict[str, int]:
    """Return the memory of the server with the model in a tmpfs."""
    message = predict_request(INPUT, np.random.default_rng(0).random((1, 224, 224, 3), np.float32))
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as memory:
        copytree(base, Path(memory) / NAME)
        with start_ours(Path(memory) / NAME, scratch, *flags) as server:
            for _ in range(REQUESTS):
                server.ask(message)
            return {"rss": resident(server.process.pid), "tmpfs": size(Path(memory))}


def main() -> None:
    """Measure, and print or write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="seconds")}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        build_frozen_graph(scratch / "resnet50.pb")
        for kind, keep_frozen in (("variables", False), ("constants", True)):
            import_model(
                scratch / "resnet50.pb", scratch / kind, name=NAME, version=1,
                inputs=[INPUT], outputs=[OUTPUT], keep_frozen=keep_frozen,
            )  # fmt: skip
            base = scratch / kind / NAME
            with plain_tensorflow(base / "1") as pid:
                plain = resident(pid)
            emptied = replica(base, scratch, "--empty_files_after_load")
            kept = replica(base, scratch)
            result[kind] = {
                "plain_tensorflow": {"rss": plain},
                "replica": {**emptied, "ratio": sum(emptied.values()) / plain},
                "replica_files_kept": {**kept, "ratio": sum(kept.values()) / plain},
            }
            print(f"{kind}: plain TensorFlow {plain / 1e6:.0f} MB", flush=True)
            for name, seen in (("files emptied", emptied), ("files kept", kept)):
                print(
                    f"{kind}: replica, {name}: {seen['rss'] / 1e6:.0f} MB resident + {seen['tmpfs'] / 1e6:.0f} MB of"
                    f" files: {sum(seen.values()) / plain:.2f} times plain TensorFlow", flush=True,
                )  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
