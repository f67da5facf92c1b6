"""The cluster's programs, built from their Go modules and cached by version.

Source: `module/go.mod` pins each version, and `module/go.sum` its digest. `module/go.mod` also names the version of Go.
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
# Each program's package, and the name of the binary that `go build` writes.
PROGRAMS: Final = {
    **{name: (f"k8s.io/kubernetes/cmd/{name}", name) for name in _KUBERNETES},
    "etcd": ("go.etcd.io/etcd/server/v3", "server"),
    "coredns": ("./coredns", "coredns"),
    "helm": ("helm.sh/helm/v3/cmd/helm", "helm"),
    "kube-network-policies": ("sigs.k8s.io/kube-network-policies/cmd", "cmd"),
}


class ToolsError(Exception):
    """The programs cannot be built. The message describes the fix."""


def kubernetes_version() -> str:
    """Return the version of Kubernetes that is built, such as ``v1.34.4``."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v[0-9.]+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise ToolsError(f"{MODULE / 'go.mod'} does not require a version of k8s.io/kubernetes.")
    return found[1]


def folder() -> Path:
    """Return the folder of the built programs, which differs for each set of versions."""
    digest = hashlib.sha256(repr(sorted(PROGRAMS.items())).encode())
    for path in sorted(path for path in MODULE.rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    return CACHE / f"{kubernetes_version()}-{digest.hexdigest()[:12]}"


def build() -> Path:
    """Build the programs that are missing, and return their folder. The first build takes about ten minutes.

    Raises:
        ToolsError: Go is missing or too old, or the build fails.
    """
    done = folder()
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a concurrent start waits, and then uses the finished build
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
            "The cluster's programs could not be built: see Go's messages above. The build requires a Go module proxy."
        )


def require_go(module: Path) -> None:
    """Check that this machine has a Go version that can build a module.

    Raises:
        ToolsError: Go is missing, or is too old and may not download a newer version.
    """
    wanted = re.search(r"^go ([0-9.]+)$", (module / "go.mod").read_text(), re.MULTILINE)
    needed = wanted[1] if wanted else "1.26"
    advice = (
        f"Install Go {needed} or later (https://go.dev/doc/install): Debian 12 and Ubuntu 24.04 have older versions."
    )
    go = shutil.which("go")
    if go is None:
        raise ToolsError(f"The cluster's programs cannot be built: Go is not on PATH. {advice}")
    said = subprocess.run([go, "env", "GOVERSION"], cwd="/", capture_output=True, text=True, check=False).stdout.strip()
    if _numbers(said) < _numbers(needed) and os.environ.get("GOTOOLCHAIN") == "local":
        raise ToolsError(
            f"Go is too old: expected {needed}, got {said.removeprefix('go') or 'an unknown version'}. {advice}"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
