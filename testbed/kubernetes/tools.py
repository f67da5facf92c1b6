"""The cluster's programs, built from their Go modules and kept by version.

Source: `module/go.mod` pins each, and `module/go.sum` its digest. The Go that is needed is the one that it names.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from testbed.kubernetes.layout import CACHE

MODULE: Final = Path(__file__).resolve().parent / "module"
_KUBERNETES: Final = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
    "kubeadm",
)
# Each program's package, and what `go build` calls it.
PROGRAMS: Final = {
    **{name: (f"k8s.io/kubernetes/cmd/{name}", name) for name in _KUBERNETES},
    "etcd": ("go.etcd.io/etcd/server/v3", "server"),
    "coredns": ("./coredns", "coredns"),
    "helm": ("helm.sh/helm/v3/cmd/helm", "helm"),
    "kube-network-policies": ("sigs.k8s.io/kube-network-policies/cmd", "cmd"),
}


class ToolsError(Exception):
    """The programs cannot be built; the message says what to do."""


def kubernetes_version() -> str:
    """Return the version of Kubernetes that is built, such as ``v1.34.4``."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v[0-9.]+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise ToolsError(f"{MODULE / 'go.mod'} names no version of k8s.io/kubernetes.")
    return found[1]


def folder() -> Path:
    """Return where the programs are, or will be: another folder for other versions."""
    digest = hashlib.sha256(repr(sorted(PROGRAMS.items())).encode())
    for path in sorted(path for path in MODULE.rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    return CACHE / f"{kubernetes_version()}-{digest.hexdigest()[:12]}"


def build() -> Path:
    """Build the programs that are not there yet, and return their folder. The first time takes about ten minutes.

    Raises:
        ToolsError: There is no Go, it is too old, or it cannot build them.
    """
    done = folder()
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second start waits for the first, and finds what it built
        if done.is_dir():
            return done
        require_go(MODULE)
        with tempfile.TemporaryDirectory(prefix="build-", dir=CACHE) as temporary:
            made = Path(temporary) / "bin"
            made.mkdir()
            _go_build(made)
            for name, (_, built) in PROGRAMS.items():
                (made / built).rename(made / name)
            made.rename(done)
    return done


def _go_build(destination: Path) -> None:
    version = kubernetes_version()
    _, minor, _ = version.removeprefix("v").split(".")
    settings = {"gitVersion": version, "gitMajor": "1", "gitMinor": minor}
    flags = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in settings.items())
    packages = [package for package, _ in PROGRAMS.values()]
    command = [
        "go",
        "build",
        "-mod=readonly",
        "-trimpath",
        "-o",
        f"{destination}/",
        "-ldflags",
        f"-s -w {flags}",
        *packages,
    ]
    if subprocess.run(command, cwd=MODULE, env=dict(os.environ, CGO_ENABLED="0"), check=False).returncode != 0:
        raise ToolsError(
            "The cluster's programs could not be built: Go's messages are above. A Go module proxy must be in reach."
        )


def require_go(module: Path) -> None:
    """Say what to do if this machine has no Go that can build a module.

    Raises:
        ToolsError: It has none, or a too old one that may not fetch another.
    """
    wanted = re.search(r"^go ([0-9.]+)$", (module / "go.mod").read_text(), re.MULTILINE)
    needed = wanted[1] if wanted else "1.26"
    advice = f"Install Go {needed} or later (https://go.dev/doc/install): that of Debian 12 or Ubuntu 24.04 is too old."
    go = shutil.which("go")
    if go is None:
        raise ToolsError(f"Building the cluster's programs needs Go, and there is none on PATH. {advice}")
    said = subprocess.run([go, "env", "GOVERSION"], cwd="/", capture_output=True, text=True, check=False).stdout.strip()
    if _numbers(said) < _numbers(needed) and os.environ.get("GOTOOLCHAIN") == "local":
        raise ToolsError(
            f"Go is {said.removeprefix('go') or 'of unknown version'} here, and {needed} is needed. {advice}"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
