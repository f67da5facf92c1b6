"""Optimized models compared with TensorFlow's default, in one run on one core. Only the ratios are meaningful.

    .venv/bin/python bench/optimize.py [--quick] [--json FILE] [--cpu NUMBER]

- speed: ResNet50 at batch 1 and 8. Rounds alternate between the processes, and the least time of each is reported. The
  ratios are of processor seconds, which other programs on the machine change less than seconds.
- limit: the gain of bfloat16 in bare kernels of oneDNN.
- memory: a replica of the model server after requests with 1 and 8 pictures. The model's share is the difference to a
  server with half-plus-two.
- start: seconds from the start of the server's process to its first answer.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
from memory import SHARED_MEMORY, resident, size
from model_servers import HERE, NAME, start_ours
from serving import predict_request, save_half_plus_two, save_resnet50

from sealserve.host.processor import read_processor
from sealserve.model.optimization.acceptance import Thresholds
from sealserve.model.optimization.instructions import Instructions
from sealserve.model.optimization.optimize import Inputs, optimize
from sealserve.model.resnet50 import INPUT
from sealserve.terms import Precision

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SIDE = 224
BATCHES = (1, 8)
FORMS = ("default", "float32", "bfloat16")
RUNNERS = {
    "TensorFlow, variables": ("tensorflow", "default"),
    "TensorFlow, float32": ("tensorflow", "float32"),
    "TensorFlow, bfloat16": ("tensorflow", "bfloat16"),
    "server, variables": ("server", "default"),
    "server, float32": ("server", "float32"),
    "server, bfloat16": ("server", "bfloat16"),
}
BASE = "TensorFlow, variables"
GOALS = {("bfloat16", 1): 2.3, ("bfloat16", 8): 3.5, ("float32", 1): 1.1, ("float32", 8): 1.1}
"""Goals for a processor with AMX, compared with TensorFlow's default."""
FLAGS = ("amx_tile", "amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx2", "fma")


def save_forms(scratch: Path) -> dict[str, Path]:
    """Save the model in each form; return the folders of versions."""
    forms = {"default": save_resnet50(scratch)}
    for precision in Precision:
        forms[precision] = scratch / precision / NAME
        optimize(
            forms["default"] / "1",
            forms[precision] / "1",
            precision=precision,
            inputs=Inputs(rows=8),
            thresholds=Thresholds(top1=0),  # the weights are random, so the classes prove nothing
        )
    return forms


@contextmanager
def loop(kind: str, folder: Path, cpu: int) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that has loaded the model and is bound to one core."""
    command = [sys.executable, str(HERE / "optimize_loop.py"), kind, str(folder / "1"), INPUT, str(SIDE)]
    process = subprocess.Popen(
        ["taskset", "-c", str(cpu), *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        if json.loads(process.stdout.readline() or "null") != "ready":
            sys.exit(f"bench: {kind} did not load {folder}")
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(process: subprocess.Popen[str], runs: int, batch: int) -> tuple[float, float]:
    """Return the least seconds and processor seconds of a run."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{runs} {batch}\n")
    process.stdin.flush()
    seconds, processor = json.loads(process.stdout.readline())
    return seconds, processor


def speed(forms: Mapping[str, Path], cpu: int, rounds: int) -> dict[str, Any]:
    """Measure each runner at each batch size."""
    result: dict[str, Any] = {}
    with ExitStack() as stack:
        processes = {name: stack.enter_context(loop(kind, forms[form], cpu)) for name, (kind, form) in RUNNERS.items()}
        for batch in BATCHES:
            runs = max(2, 8 // batch)
            found = {name: [ask(process, runs, batch) for _ in range(1)] for name, process in processes.items()}
            for _ in range(rounds):
                for name, process in processes.items():
                    found[name].append(ask(process, runs, batch))
            base = min(processor for _, processor in found[BASE])
            rows = {}
            for name, times in found.items():
                seconds, processor = (min(values) for values in zip(*times, strict=True))
                rows[name] = {"images_per_second": batch / seconds, "per_processor_second": batch / processor,
                              "ratio": base / processor}  # fmt: skip
                print(
                    f"batch {batch}, {name}: {batch / seconds:.1f} images per second, {base / processor:.2f} times"
                    " TensorFlow's default", flush=True,
                )  # fmt: skip
            result[str(batch)] = rows
    return result


def replicas(forms: Mapping[str, Path], scratch: Path) -> dict[str, Any]:
    """Measure memory and start of a server for each form."""
    generator = np.random.default_rng(0)
    messages = [predict_request(INPUT, generator.random((batch, SIDE, SIDE, 3), np.float32)) for batch in BATCHES]
    save_half_plus_two(scratch / "small" / NAME)
    small = predict_request("x", np.array([1, 2, 5], np.float32))
    empty = replica(scratch / "small" / NAME, scratch, [small])["resident"]
    result: dict[str, Any] = {"without_model": empty}
    for form, folder in forms.items():
        found = replica(folder, scratch, messages)
        result[form] = {**found, "model": found["resident"] - empty, "files": size(folder)}
        sizes = (found["resident"], result[form]["model"], found["peak"])
        resident_mb, model_mb, peak_mb = (value / 1e6 for value in sizes)
        print(f"replica, {form}: {resident_mb:.0f} MB resident, {model_mb:.0f} MB of them for the model", flush=True)
        print(f"replica, {form}: {peak_mb:.0f} MB at most, {size(folder) / 1e6:.0f} MB of files", flush=True)
        print(f"replica, {form}: first answer after {found['start']:.1f} s", flush=True)
    return result


def replica(folder: Path, scratch: Path, messages: list[bytes]) -> dict[str, Any]:
    """Return memory in bytes and start in seconds of a server with its files in memory, as in an enclave."""
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as memory:
        copytree(folder, Path(memory) / NAME)
        started = time.perf_counter()
        with start_ours(Path(memory) / NAME, scratch, "--empty_files_after_load") as server:
            server.ask(messages[0])
            start = time.perf_counter() - started
            for message in [*messages, *messages]:
                server.ask(message)
            pid = server.process.pid
            return {"resident": resident(pid) + size(Path(memory)), "peak": peak(pid), "start": start}


def peak(pid: int) -> int:
    """Return a process's largest resident set, in bytes (``VmHWM``)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    """Measure, and print or write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)), help="the core to use")
    arguments = parser.parse_args()
    processor = read_processor()
    instructions = Instructions.of(processor.flags)
    flags = [flag for flag in FLAGS if flag in processor.flags]
    print(f"processor: {processor.model}, {instructions} ({', '.join(flags)})", flush=True)
    result: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": {"model": processor.model, "instructions": instructions, "flags": flags},
    }
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        forms = save_forms(scratch)
        limit = subprocess.run(
            ["taskset", "-c", str(arguments.cpu), sys.executable, str(HERE / "optimize_limit.py"), "20"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        result["limit"] = json.loads(limit)
        for name, found in result["limit"].items():
            print(f"limit, {name}: bfloat16 {found['ratio']:.2f} times float32", flush=True)
        result["speed"] = speed(forms, arguments.cpu, 2 if arguments.quick else 8)
        result["replicas"] = replicas(forms, scratch)
    result["ratios"] = ratios(result)
    for name, value in result["ratios"].items():
        print(f"{name}: {value:.2f}")
    for (precision, batch), goal in GOALS.items():
        value = result["ratios"][f"{precision}, batch {batch}"]
        print(f"goal with AMX: {precision}, batch {batch}: at least {goal}, measured {value:.2f} with {instructions}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


def ratios(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the ratios of the goals."""
    found = {
        f"{precision}, batch {batch}": result["speed"][str(batch)][f"server, {precision}"]["ratio"]
        for precision in Precision
        for batch in BATCHES
    }
    memory = result["replicas"]
    for other in ("default", "float32"):
        found[f"memory, bfloat16 to {other}"] = memory["bfloat16"]["resident"] / memory[other]["resident"]
        found[f"memory of the model, bfloat16 to {other}"] = memory["bfloat16"]["model"] / memory[other]["model"]
    found["files, bfloat16 to default"] = memory["bfloat16"]["files"] / memory["default"]["files"]
    found["start, bfloat16 to default"] = memory["bfloat16"]["start"] / memory["default"]["start"]
    return found


if __name__ == "__main__":
    main()
