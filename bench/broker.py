"""Keys that the broker releases per second, with full verification of a quote each, beside its unavoidable parts.

    .venv/bin/python bench/broker.py [--quick] [--json FILE] [--folder FOLDER] [--processes N]
        [--gramine-server PATH] [--only PART]

The broker is the real process (`sealserve broker run`) with its SQLite database in FOLDER. The enclaves are client
processes that speak Gramine's protocol with certificates and quotes of a simulated platform. The broker verifies them
completely. The clients share the processors with the broker, so that their processor time is counted separately.

The limit is the sum of the parts that no broker can avoid (`broker_parts.py`), measured in the same round. They are the
server's side of a TLS session over TCP (accept, handshake, request, answer, close), dcap-qvl's verification, the share
of a commit with `fsync`, and the decryption of the key. `cpu_ratio` is this sum divided by the broker's processor time
per key. `rate_ratio` is the rate divided by the rate that the same processors would reach if the broker consisted of
these parts alone, beside the same clients.

`--only processes` measures a broker with one process and a broker with N processes in turns.

Gramine's server is measured beside the broker, in turns, if its program is given (`secret_prov_minimal/server_dcap` of
Gramine's example `ra-tls-secret-prov`). Intel's libsgx_dcap_quoteverify.so rejects the quotes of a simulated platform.
Therefore the program needs a replacement of this library, which accepts every quote. docs/reference/performance.md
describes it.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import broker_clients
import broker_parts
import gramine_server
from broker_clients import REPORT, Load, Target
from broker_releases import register

from sealserve import deployment
from sealserve.attestation.ra_tls import make_certificate
from sealserve.deployment import Deployment
from sealserve.owner import certificates, simulation
from sealserve.pki.authority import CERTIFICATE_FILE, AuthorityKind
from sealserve.sgx.simulated.pcs import PcsServer
from sealserve.sgx.simulated.quoting_enclave import quote
from sealserve.workspace import Workspace

CONCURRENCY = (1, 8, 64)
FEW, MANY, QUICK_MANY = 10, 100_000, 10_000
_ROUNDS = 3
_READY_SECONDS = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Site:
    """A workspace with a simulated vendor and platform, and a broker that is not started."""

    workspace: Workspace
    deployment: Deployment
    port: int
    processes: int = 1

    def target(self) -> Target:
        """Return what clients need to reach the broker."""
        return Target(
            port=self.port,
            ca=(self.workspace.owner.authorities / AuthorityKind.BROKER / CERTIFICATE_FILE).read_bytes(),
            platform=self.workspace.host.platform,
        )


def make_site(folder: Path, pcs: PcsServer, workspace: Workspace, *, processes: int) -> Site:
    """Create the certificates and the deployment file of a workspace."""
    port = _free_port()
    settings = {
        "model": {"name": "bench", "path": folder},
        "broker": {"port": port, "collateral_url": pcs.url},
    }
    workspace.deployment_file.write_text(deployment.write_example(settings), encoding="utf-8")
    described = deployment.read(workspace.deployment_file)
    certificates.create_certificates(workspace, described, now=datetime.now(UTC))
    return Site(workspace=workspace, deployment=described, port=port, processes=processes)


@contextlib.contextmanager
def running(site: Site, log: Path) -> Iterator[int]:
    """Run the broker and yield the process's number."""
    ready = log.with_suffix(".ready")
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-P", "-m", "sealserve", "broker", "run", "--ready-file", str(ready)]
    command += ["--processes", str(site.processes)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--directory", str(site.workspace.directory)], stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"bench: the broker did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def cpu_seconds(root: int) -> float:
    """Return the processor time of a process, its living descendants and the children that it waited for."""
    total = 0
    for pid in _tree(root):
        with contextlib.suppress(OSError):
            values = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            total += sum(int(value) for value in values[11:15])
    return total / _TICKS


def _tree(root: int) -> list[int]:
    found = [root]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, task.read_text().split())
    return found


def measure(pid: int, target: Target, *, concurrency: int, seconds: float) -> dict[str, Any]:
    """Return rate, latency percentiles and processor time per key at a number of concurrent requests."""
    before = cpu_seconds(pid)
    load = broker_clients.run(target, concurrency=concurrency, seconds=seconds)
    return _figures(load, cpu_seconds(pid) - before)


def _figures(load: Load, cpu: float) -> dict[str, Any]:
    keys = len(load.latencies)
    if not keys:
        raise SystemExit("bench: no key was released")
    ordered = sorted(load.latencies)
    return {
        "keys_per_second": keys / load.wall,
        "keys": keys,
        "failures": load.failures,
        "latency_ms": {f"p{part}": 1e3 * ordered[min(keys * part // 100, keys - 1)] for part in (50, 90, 99)},
        "broker_cpu_ms": 1e3 * cpu / keys,
        "client_cpu_ms": 1e3 * load.client_cpu / keys,
    }


def measure_parts(site: Site, scratch: Path, *, rounds: int) -> dict[str, Any]:
    """Return the processor time of each unavoidable part, and the sum at each concurrency, in milliseconds."""
    now = datetime.now(UTC)
    vendor = simulation.open_vendor(site.workspace, now=now)
    made = simulation.open_platform(site.workspace, now=now)
    pair = make_certificate(lambda data: quote(made, broker_clients.report_with(data)), now)
    identity = certificates.broker_certificate(site.workspace)
    parts = {
        "session": broker_parts.session(identity, pair, rounds=rounds)[0],
        "verification": broker_parts.verification(
            broker_parts.quote_in(pair), vendor.collateral(now=now), vendor.anchor, rounds=rounds
        )[0],
        "unwrap": broker_parts.unwrap(rounds=rounds)[0],
    }
    common = sum(parts.values())
    result: dict[str, Any] = {f"{name}_cpu_ms": 1e3 * value for name, value in parts.items()}
    result["handshake_cpu_ms"] = 1e3 * broker_parts.handshake(identity, pair, rounds=rounds)[0]  # a part of the session
    for concurrency in CONCURRENCY:
        cpu, wall = broker_parts.commit(scratch, concurrency, rounds=max(rounds // 4, 10))
        result[f"commit_of_{concurrency}_cpu_ms"] = 1e3 * cpu
        result[f"commit_of_{concurrency}_wall_ms"] = 1e3 * wall
        result[f"sum_at_{concurrency}_cpu_ms"] = 1e3 * (common + cpu)
    return result


def compare(found: dict[str, Any], limit_ms: float) -> None:
    """Add the ratios to the limit to the figures at one concurrency."""
    cores = len(os.sched_getaffinity(0))
    reachable = cores / (limit_ms + found["client_cpu_ms"]) * 1e3
    found["cpu_ratio"] = limit_ms / found["broker_cpu_ms"]
    found["limit_keys_per_second"] = reachable
    found["rate_ratio"] = found["keys_per_second"] / reachable


def measure_gramine(program: Path, site: Site, folder: Path, *, seconds: float) -> dict[str, Any]:
    """Measure the broker and Gramine's server in turns. Return the figures of the median round of each, and the ratio.

    The ratio is the median of the ratios of adjacent rounds, because other load on the machine changes with time. Both
    servers have the same certificate. Gramine's server sends a secret of another length.
    """
    ours = site.target()
    theirs = replace(ours, port=gramine_server.PORT, secret_size=None)
    identity = certificates.broker_certificate(site.workspace)
    result: dict[str, Any] = {}
    with (
        running(site, folder / "beside-gramine.log") as broker,
        gramine_server.running(program, identity, REPORT, folder / "gramine") as server,
    ):
        broker_clients.run(ours, concurrency=4, seconds=1)  # downloads the collateral, and loads modules
        for number in CONCURRENCY:
            rounds: dict[str, list[dict[str, Any]]] = {"broker": [], "gramine": []}
            for _ in range(_ROUNDS):
                for name, pid, target in (("broker", broker, ours), ("gramine", server, theirs)):
                    rounds[name].append(measure(pid, target, concurrency=number, seconds=seconds))
            medians = {name: _median_round(found) for name, found in rounds.items()}
            ratio = statistics.median(
                mine["keys_per_second"] / other["keys_per_second"]
                for mine, other in zip(rounds["broker"], rounds["gramine"], strict=True)
            )
            result[str(number)] = medians | {"ratio": ratio, "rounds": rounds}
            show(f"{number} at a time, in turns", medians["broker"])
            show(f"Gramine, {number} at a time", medians["gramine"])
            print(f"  ratio of the broker's rate to Gramine's: {ratio:.2f}", flush=True)
    return result


def _median_round(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    return sorted(rounds, key=lambda found: float(found["keys_per_second"]))[len(rounds) // 2]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def show(name: str, found: dict[str, Any]) -> None:
    """Print one line of figures."""
    latency = found["latency_ms"]
    ratios = (
        f"  time {found['cpu_ratio']:.2f}  rate {found['rate_ratio']:.2f} of the limit" if "cpu_ratio" in found else ""
    )
    print(
        f"{name:<28} {found['keys_per_second']:7.1f} keys/s  p50 {latency['p50']:6.1f}  p90 {latency['p90']:6.1f}  "
        f"p99 {latency['p99']:6.1f} ms  server {found['broker_cpu_ms']:5.2f} ms  "
        f"client {found['client_cpu_ms']:5.2f} ms{ratios}"
        + (f"  FAILURES {found['failures']}" if found["failures"] else ""),
        flush=True,
    )


def _workspace(folder: Path, *, like: Workspace | None = None) -> Workspace:
    """Return a new workspace, with the simulated vendor and platform of ``like``, if given."""
    workspace = Workspace(folder)
    workspace.directory.mkdir()
    workspace.create()
    if like is not None:
        for source, destination in (
            (like.vendor.root, workspace.vendor.root),
            (like.host.platform, workspace.host.platform),
            (like.owner.trust, workspace.owner.trust),
        ):
            shutil.copytree(source, destination, dirs_exist_ok=True)
    return workspace


def measure_all(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure everything with one workspace."""
    seconds, rounds = (4.0, 200) if chosen.quick else (15.0, 1000)
    workspace = _workspace(folder / "site")
    vendor = simulation.open_vendor(workspace, now=datetime.now(UTC))
    simulation.open_platform(workspace, now=datetime.now(UTC))
    result: dict[str, Any] = {"gramine": "not measured: no --gramine-server"}
    with PcsServer(vendor) as pcs:
        site = make_site(folder, pcs, workspace, processes=chosen.processes)
        register(workspace, count=FEW)
        if chosen.gramine_server:
            result["gramine"] = measure_gramine(chosen.gramine_server, site, folder, seconds=seconds)
        if chosen.only == "processes":
            one = make_site(folder, pcs, _workspace(folder / "one", like=workspace), processes=1)
            register(one.workspace, count=FEW)
            result["processes"] = measure_processes(one, site, folder, seconds=seconds)
        if chosen.only:
            return result
        target = site.target()
        with running(site, folder / "broker.log") as pid:
            broker_clients.run(target, concurrency=4, seconds=1)  # downloads the collateral, and loads modules
            result["broker"] = measure_beside_parts(pid, site, folder, rounds=rounds, seconds=seconds)
            result["slow_peers"] = measure_slow_peers(pid, target, seconds=seconds)
        count = QUICK_MANY if chosen.quick else MANY
        many = make_site(folder, pcs, _workspace(folder / "many", like=workspace), processes=chosen.processes)
        result["many_releases"] = measure_many(site, many, count, folder, seconds=seconds)
    return result


def measure_beside_parts(pid: int, site: Site, scratch: Path, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure the unavoidable parts and the broker in turns. Return all rounds and the median one, by concurrency.

    The processor's speed changes with other work on the machine. Each round compares values that were measured shortly
    after one another.
    """
    measured: dict[str, list[dict[str, Any]]] = {str(number): [] for number in CONCURRENCY}
    for _ in range(_ROUNDS):
        with tempfile.TemporaryDirectory(dir=scratch) as empty:
            limits = measure_parts(site, Path(empty), rounds=rounds)
        parts = ", ".join(f"{name} {value:.3f}" for name, value in limits.items())
        print(f"unavoidable parts, ms: {parts}", flush=True)
        for number in CONCURRENCY:
            found = measure(pid, site.target(), concurrency=number, seconds=seconds)
            compare(found, limits[f"sum_at_{number}_cpu_ms"])
            measured[str(number)].append(found | {"unavoidable": limits})
    result: dict[str, Any] = {}
    for name, found_rounds in measured.items():
        middle = sorted(found_rounds, key=lambda found: found["cpu_ratio"])[len(found_rounds) // 2]
        result[name] = {"median": middle, "rounds": found_rounds}
        show(f"{name} at a time", middle)
        print("  ratios of all rounds: " + ", ".join(f"{found['cpu_ratio']:.2f}" for found in found_rounds), flush=True)
    return result


def measure_processes(one: Site, several: Site, folder: Path, *, seconds: float) -> dict[str, Any]:
    """Measure a broker with one process and a broker with several processes in turns, and the fairness of the latter.

    The share of the busiest process is its part of the processor time of all processes that release keys.
    """
    result: dict[str, Any] = {}
    with running(one, folder / "one.log") as single, running(several, folder / "several.log") as supervisor:
        for site in (one, several):
            broker_clients.run(site.target(), concurrency=8, seconds=2)  # downloads the collateral, and loads modules
        workers = _tree(supervisor)[1:]
        for number in CONCURRENCY:
            rounds: dict[str, list[dict[str, Any]]] = {"one": [], "several": []}
            before = [cpu_seconds(pid) for pid in workers]
            for _ in range(_ROUNDS):
                for name, pid, site in (("one", single, one), ("several", supervisor, several)):
                    rounds[name].append(measure(pid, site.target(), concurrency=number, seconds=seconds))
            used = [cpu_seconds(pid) - earlier for pid, earlier in zip(workers, before, strict=True)]
            ratio = statistics.median(
                there["keys_per_second"] / here["keys_per_second"]
                for here, there in zip(rounds["one"], rounds["several"], strict=True)
            )
            result[str(number)] = {"ratio": ratio, "busiest_share": max(used) / sum(used), "rounds": rounds}
            show(f"{number} at a time, 1 process", _median_round(rounds["one"]))
            show(f"{number} at a time, {several.processes} processes", _median_round(rounds["several"]))
            print(f"  ratio {ratio:.2f}, share of the busiest process {max(used) / sum(used):.2f}", flush=True)
    return result


def measure_slow_peers(pid: int, target: Target, *, seconds: float) -> dict[str, Any]:
    """Measure the rate beside 1,000 peers that are idle or slow, and without them, in turns."""
    rates: dict[str, list[float]] = {"without": [], "beside": []}
    for _ in range(_ROUNDS):
        found = measure(pid, target, concurrency=8, seconds=seconds / 2)
        rates["without"].append(found["keys_per_second"])
        with broker_clients.idle_peers(target.port, silent=900, slow=100):
            found = measure(pid, target, concurrency=8, seconds=seconds / 2)
        rates["beside"].append(found["keys_per_second"])
    ratio = statistics.median(rates["beside"]) / statistics.median(rates["without"])
    show("8 beside 1000 slow peers", found)
    print(f"  ratio to the rate without them: {ratio:.2f}", flush=True)
    return {"ratio": ratio, "keys_per_second": rates}


def measure_many(site: Site, many: Site, count: int, folder: Path, *, seconds: float) -> dict[str, Any]:
    """Measure the latency of lone requests at a broker with 10 releases and at a broker with many, in turns."""
    register(many.workspace, count=count)
    latencies: dict[str, list[float]] = {"few": [], "many": []}
    with running(site, folder / "few.log"), running(many, folder / "many.log"):
        for target in (site.target(), many.target()):
            broker_clients.run(target, concurrency=1, seconds=1)  # downloads the collateral, and loads modules
        for _ in range(2 * _ROUNDS):
            for name, target in (("few", site.target()), ("many", many.target())):
                latencies[name] += broker_clients.run(target, concurrency=1, seconds=seconds / 4).latencies
    medians = {name: 1e3 * statistics.median(values) for name, values in latencies.items()}
    ratio = medians["many"] / medians["few"]
    print(
        f"latency with {FEW} releases {medians['few']:.1f} ms, with {count} releases {medians['many']:.1f} ms, "
        f"ratio {ratio:.2f}"
    )
    return {"releases": count, "latency_p50_ms": medians, "latency_ratio": ratio}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print or write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="shorter measurements, and 10,000 instead of 100,000 releases"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="a folder on the disk of the database (default: the system's)")
    parser.add_argument("--gramine-server", metavar="PATH", type=Path, help="the server program of Gramine's example")
    parser.add_argument("--processes", type=int, default=1, help="the number of the broker's processes")
    parser.add_argument("--only", choices=["gramine", "processes"], help="skip the other measurements")
    chosen = parser.parse_args(arguments)
    if chosen.only == "gramine" and not chosen.gramine_server:
        parser.error("--only gramine requires --gramine-server")
    if chosen.only == "processes" and chosen.processes < 2:
        parser.error("--only processes requires --processes 2 or more")
    if chosen.gramine_server and not os.access(chosen.gramine_server, os.X_OK):
        parser.error(f"{chosen.gramine_server} is not an executable file")
    result: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": chosen.quick,
    }
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        result |= measure_all(Path(folder), chosen)
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
