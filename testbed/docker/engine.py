"""The Docker engine of the tests: the running engine, or a temporary engine, which leaves nothing behind.

The temporary engine has its own folder, socket and process IDs. It has no default bridge, so that it does not affect
another engine. Images are built on the machine's network, and the deployments under test create their own networks. At
the end, dockerd's firewall rules are removed and IP forwarding is reset.

Source: docs.docker.com/reference/cli/dockerd; docs.docker.com/engine/network/packet-filtering-firewalls.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from scripts.setup import install_packages

_PACKAGES: Final = {"docker.io": "dockerd", "debootstrap": "debootstrap", "iptables": "iptables",
                    "docker-registry": "docker-registry"}  # fmt: skip
_CHAINS: Final = ("DOCKER-USER", "DOCKER-ISOLATION-STAGE-1", "DOCKER-ISOLATION-STAGE-2", "DOCKER")
_FORWARDING: Final = Path("/proc/sys/net/ipv4/ip_forward")
_LOCK: Final = Path("/run/lock/sealserve-docker-engine")
_SECONDS: Final = 60


class EngineStartError(Exception):
    """The engine did not start. The message contains the end of its log."""


def install() -> None:
    """Install the packages that this machine lacks. No service of the distribution is started."""
    missing = [package for package, program in _PACKAGES.items() if shutil.which(program) is None]
    if missing:
        install_packages(missing)


def answers() -> bool:
    """Return whether an engine answers at the address that ``docker`` uses."""
    return subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def own_engine() -> Iterator[str]:
    """Start a temporary engine, and yield its address (``DOCKER_HOST``). Everything is removed at the end.

    Only one can run at a time: engines share the names of firewall chains, and an engine that ends would remove them.

    Raises:
        EngineStartError: It does not answer.
    """
    with _alone():
        yield from _engine()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    with _LOCK.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another test run that uses a Docker engine", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _engine() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="sealserve-docker-"))
    forwarding, policy = _FORWARDING.read_text(), _forward_policy()
    address = f"unix://{folder}/docker.sock"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["dockerd", "--host", address, "--data-root", str(folder / "data"), "--exec-root", str(folder / "run"),
             "--pidfile", str(folder / "pid"), "--bridge", "none"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + _SECONDS
        while not _answers_at(address):
            if process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join((folder / "log").read_text(errors="replace").splitlines()[-5:])
                raise EngineStartError(f"dockerd does not answer:\n{tail}")
            time.sleep(0.2)
        yield address
    finally:
        _clear(address)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_SECONDS)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        _forget_rules(policy)
        _FORWARDING.write_text(forwarding)
        _unmount(folder)
        shutil.rmtree(folder)


def _unmount(folder: Path) -> None:
    """Remove the mounts that dockerd leaves, such as its handle of this machine's network namespace."""
    table = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    mounted = [line.split()[4] for line in table.splitlines()]
    for point in reversed([point for point in mounted if Path(point).is_relative_to(folder)]):
        subprocess.run(["umount", "--lazy", point], capture_output=True, check=False)


def _answers_at(address: str) -> bool:
    return subprocess.run(["docker", "--host", address, "version"], capture_output=True, check=False).returncode == 0


def _clear(address: str) -> None:
    """Remove what a failed test left, so that no container process outlives the engine."""
    docker = ["docker", "--host", address]
    for kind, listing in (
        ("container", ["ls", "--all", "--quiet"]),
        ("network", ["ls", "--quiet", "--filter", "type=custom"]),
    ):
        found = subprocess.run([*docker, kind, *listing], capture_output=True, text=True, check=False).stdout.split()
        if found:
            force = ["--force", "--volumes"] if kind == "container" else []
            subprocess.run([*docker, kind, "rm", *force, *found], capture_output=True, check=False)


def _forward_policy() -> str:
    listed = subprocess.run(["iptables", "-S", "FORWARD"], capture_output=True, text=True, check=False).stdout
    return next((line.split()[2] for line in listed.splitlines() if line.startswith("-P FORWARD ")), "ACCEPT")


def _forget_rules(policy: str) -> None:
    """Remove dockerd's firewall chains and the jumps to them, and nothing else."""
    for table in ("filter", "nat"):
        listed = subprocess.run(["iptables", "-t", table, "-S"], capture_output=True, text=True, check=False).stdout
        rules = [line.split() for line in listed.splitlines() if line.startswith("-A ")]
        for rule in rules:
            if "-j" in rule and rule[rule.index("-j") + 1] in _CHAINS:
                subprocess.run(["iptables", "-t", table, "-D", *rule[1:]], capture_output=True, check=False)
        for action in ("-F", "-X"):
            for chain in _CHAINS:
                subprocess.run(["iptables", "-t", table, action, chain], capture_output=True, check=False)
    subprocess.run(["iptables", "-P", "FORWARD", policy], check=False)
