"""Sealing and unsealing files on tmpfs, on one core and on all cores, compared with a C program that does the same.

    .venv/bin/python bench/sealing.py [--quick] [--json FILE] [--pf-crypt PATH] [--folder TMPFS] [--rounds N]

All measurements alternate in one run. Each rate is the best of the rounds, because other load on the machine can only
make a round slower. Only ratios can be compared between machines. MB are millions of bytes of plaintext.

The C program, ``sealing_limit.c``, is compiled here. It writes and reads genuine encrypted files. A check at the start
ensures that each program opens the other's files. Goals: one core reaches at least 0.8 of the C program's rate, and all
(two) cores at least 1.7 of one core's rate.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.backends.openssl import backend

from sealserve.sealing import node_cipher
from sealserve.sealing.codec import seal_digested, seal_file, unseal_file
from sealserve.secret import SecretBytes

MIB = 2**20
KEY = bytes(range(16))  # the benchmark's key is not secret
LIMIT_SOURCE = Path(__file__).with_name("sealing_limit.c")
Contest = Callable[[Path, Path], float]
"""Converts the file at the first path into the file at the second path, and returns the seconds that it took."""


def compile_limit(folder: Path) -> Path:
    """Return the C program, compiled with optimizations for this processor."""
    program = folder / "sealing_limit"
    command = [os.environ.get("CC", "cc"), "-O3", "-march=native", str(LIMIT_SOURCE), "-o", str(program), "-lcrypto"]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"bench: cannot compile sealing_limit.c (apt-get install gcc libssl-dev): {error}") from error
    return program


def limit(program: Path, way: str, key: Path) -> Contest:
    """Return the C program as a contestant. It measures its own time, without the start of the process."""

    def run(source: Path, destination: Path) -> float:
        command = [str(program), way, str(key), str(source), str(destination)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    return run


def gramine(tool: Path, way: str, key: Path) -> Contest:
    """Return Gramine's tool as a contestant. The start of its process takes about a millisecond."""

    def run(source: Path, destination: Path) -> float:
        command = [str(tool), way, "-w", str(key), "-i", str(source), "-o", str(destination)]
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - began

    return run


def sealing(function: Callable[..., object], cipher: node_cipher.NodeCipher, threads: int) -> Contest:
    """Return a sealserve function as a contestant, with the given cipher and number of threads."""

    def run(source: Path, destination: Path) -> float:
        with chosen(cipher), SecretBytes(KEY) as key:
            began = time.perf_counter()
            function(source, destination, key=key, embedded_path="bench", threads=threads)
            return time.perf_counter() - began

    return run


@contextmanager
def chosen(cipher: node_cipher.NodeCipher) -> Iterator[None]:
    """Make ``cipher`` the default during the block."""
    before, node_cipher.DEFAULT = node_cipher.DEFAULT, cipher
    try:
        yield
    finally:
        node_cipher.DEFAULT = before


@dataclass
class Field:
    """The contestants of one direction, and their times in seconds."""

    contests: dict[str, Contest]
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def round(self, source: Path, destination: Path, expected: Path | None) -> None:
        """Run each contestant once, compare its output with ``expected`` if given, and remove the output."""
        for name, contest in self.contests.items():
            try:
                self.seconds.setdefault(name, []).append(contest(source, destination))
                if expected is not None and not same(destination, expected):
                    raise SystemExit(f"bench: the output of {name} differs from the plaintext")
            finally:
                destination.unlink(missing_ok=True)

    def rates(self, size: int) -> dict[str, float]:
        """Return MB/s by name."""
        return {name: size / min(times) / 1e6 for name, times in self.seconds.items()}


def same(first: Path, second: Path) -> bool:
    """Return whether two files have the same content."""
    return subprocess.run(["cmp", "--silent", str(first), str(second)], check=False).returncode == 0


def contestants(program: Path, key: Path, pf_crypt: Path | None) -> tuple[Field, Field]:
    """Return the contestants for sealing and for unsealing."""
    cores = len(os.sched_getaffinity(0))
    best = node_cipher.DEFAULT
    seals = {
        "limit": limit(program, "seal", key),
        "one_core": sealing(seal_file, best, 1),
        "all_cores": sealing(seal_file, best, cores),
        "all_cores_with_digests": sealing(seal_digested, best, cores),
    }
    unseals = {
        "limit": limit(program, "unseal", key),
        "one_core": sealing(unseal_any, best, 1),
        "all_cores": sealing(unseal_any, best, cores),
    }
    if best is not node_cipher.IN_PYTHON:
        seals["python"] = sealing(seal_file, node_cipher.IN_PYTHON, 1)
        unseals["python"] = sealing(unseal_any, node_cipher.IN_PYTHON, 1)
    if pf_crypt is not None:
        seals["pf_crypt"] = gramine(pf_crypt, "encrypt", key)
        unseals["pf_crypt"] = gramine(pf_crypt, "decrypt", key)
    return Field(seals), Field(unseals)


def unseal_any(source: Path, destination: Path, *, key: SecretBytes, embedded_path: str, threads: int) -> None:
    """Unseal a file with any embedded path: each contestant embeds a different path."""
    del embedded_path
    unseal_file(source, destination, key=key, embedded_path=None, threads=threads)


def measure(size: int, folder: Path, program: Path, rounds: int, pf_crypt: Path | None) -> dict[str, Any]:
    """Measure with a file of ``size`` bytes, and return rates and ratios."""
    key, plain, sealed, output = (folder / name for name in ("key", "plain", "sealed", "output"))
    key.write_bytes(KEY)
    with plain.open("wb") as stream:
        for _ in range(size // MIB):
            stream.write(os.urandom(MIB))
    seals, unseals = contestants(program, key, pf_crypt)
    for name, contest in seals.contests.items():  # check that each contestant opens every contestant's files
        contest(plain, sealed)
        unseals.round(sealed, output, plain)
        if name != tuple(seals.contests)[-1]:
            sealed.unlink()
    unseals.seconds.clear()
    for _ in range(rounds):
        seals.round(plain, output, None)
        unseals.round(sealed, output, None)
    result: dict[str, Any] = {"size": size, "rounds": rounds}
    for way, runners in (("seal", seals), ("unseal", unseals)):
        rates = runners.rates(size)
        result |= {f"{way}_{name}_mb_per_s": round(rate, 1) for name, rate in rates.items()}
        result |= {
            f"{way}_one_core_ratio": round(rates["one_core"] / rates["limit"], 3),
            f"{way}_all_cores_ratio": round(rates["all_cores"] / rates["one_core"], 3),
        }
        if pf_crypt is not None:
            result[f"{way}_one_core_to_pf_crypt"] = round(rates["one_core"] / rates["pf_crypt"], 2)
            result[f"{way}_all_cores_to_pf_crypt"] = round(rates["all_cores"] / rates["pf_crypt"], 2)
    for path in (plain, sealed):
        path.unlink()
    return result


def versions() -> dict[str, str]:
    """Return the versions of the measured software, by name."""
    native = node_cipher.native()
    return {
        "sealserve": importlib.metadata.version("sealserve"),
        "python": platform.python_version(),
        "openssl_of_native": native.openssl_version if native else "none",
        "openssl_of_cryptography": backend.openssl_version_text(),
        "cryptography": importlib.metadata.version("cryptography"),
        "kernel": platform.release(),
    }


def show(result: dict[str, Any]) -> None:
    """Print the rates and ratios of one size."""
    print(f"{result['size'] // MIB} MiB, best of {result['rounds']}")
    for way in ("seal", "unseal"):
        limit_rate = result[f"{way}_limit_mb_per_s"]
        for name in ("limit", "one_core", "all_cores", "all_cores_with_digests", "python", "pf_crypt"):
            rate = result.get(f"{way}_{name}_mb_per_s")
            if rate is not None:
                print(
                    f"  {way:<7} {name.replace('_', ' '):<24} {rate:8.0f} MB/s   {rate / limit_rate:5.2f} of the limit"
                )
        print(f"  {way:<7} all cores / one core     {result[f'{way}_all_cores_ratio']:8.2f}")


def main() -> None:
    """Measure, and print or write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="measure only 256 MiB, within 40 seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the result")
    parser.add_argument("--pf-crypt", type=Path, metavar="PATH", help="path of gramine-sgx-pf-crypt, for comparison")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="tmpfs folder for the files")  # noqa: S108
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.pf_crypt is not None and shutil.which(arguments.pf_crypt) is None:
        parser.error(f"{arguments.pf_crypt} is not a program")
    sizes = [256 * MIB] if arguments.quick else [256 * MIB, 2048 * MIB]
    free = shutil.disk_usage(arguments.folder).free
    if free < 4 * max(sizes):
        parser.error(f"{arguments.folder} has {free // MIB} MiB free, expected {4 * max(sizes) // MIB}: use --folder")
    with tempfile.TemporaryDirectory(prefix="sealing-bench-", dir=arguments.folder) as name:
        folder = Path(name)
        program = compile_limit(folder)
        memory = subprocess.run([program, "memory"], check=True, capture_output=True, text=True).stdout.split()
        results = []
        for size in sizes:
            results.append(measure(size, folder, program, arguments.rounds, arguments.pf_crypt))
            show(results[-1])
    report = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "implementation": node_cipher.DEFAULT.name,
        "versions": versions(),
        "memory_encrypt_mb_per_s": round(float(memory[0]) / 1e6, 1),
        "memory_decrypt_mb_per_s": round(float(memory[1]) / 1e6, 1),
        **{key: value for key, value in results[-1].items() if key != "size"},
        "sizes": results,
    }
    print(f"in memory, one core, C: encrypt {report['memory_encrypt_mb_per_s']:.0f} MB/s, "
          f"decrypt {report['memory_decrypt_mb_per_s']:.0f} MB/s; sealserve: {report['implementation']}")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
