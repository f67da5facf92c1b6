"""The demo's workspace. Each demo creates it again, except for the model, which takes long to create."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sealserve import deployment
from sealserve.atomic_file import write_file
from sealserve.cli.codes import CliCode
from sealserve.cluster import ports
from sealserve.cluster.local.target import running, stop_all
from sealserve.deployment import Deployment
from sealserve.model.resnet50 import build_frozen_graph
from sealserve.tcp_ports import BROKER_PORT, SERVICE_PORT, SIMULATED_PCS_PORT
from sealserve.terms import TlsMode
from sealserve.workspace import DEPLOYMENT_FILE, Workspace

MARK = "Written by `sealserve demo`"
"""Text in the demo's ``sealserve.toml`` of every version. A demo replaces only a deployment with this text."""
HEADING = f"{MARK}, which overwrites this file each time."
EXAMPLE = "resnet50-v15-fp32"
CACHE = "cache"
REPLICAS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """The model of the demo.

    Args:
        path: The user's model. None means the example.
        inputs: Input nodes of a frozen graph.
        outputs: Output nodes of a frozen graph.
    """

    path: Path | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The ports of the demo's parts: the default ports, or other ports where a default port is in use."""

    service: int
    broker: int
    pcs: int

    @classmethod
    def choose(cls) -> Self:
        """Return ports that are free at this moment. Another program may take them before the demo does."""
        return cls(service=_free(SERVICE_PORT), broker=_free(BROKER_PORT), pcs=_free(SIMULATED_PCS_PORT))


def reset(directory: Path, *, on_running: Callable[[Sequence[str]], None] = lambda _: None) -> Workspace:
    """Return an empty workspace in ``directory``, after stopping and removing an earlier demo there.

    Args:
        directory: The demo's folder. It is created if it does not exist.
        on_running: Called with the roles of an earlier demo's parts that still run, before they are stopped.

    Raises:
        InputError: `demo.workspace-in-use`: The folder contains a deployment that is not a demo.
    """
    directory.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(directory.resolve())
    file = workspace.deployment_file
    if file.exists():
        if MARK not in file.read_text(encoding="utf-8", errors="replace"):
            raise CliCode.DEMO_WORKSPACE_IN_USE.error(
                f"The folder already contains another deployment: {file} was not written by `sealserve demo`.",
                hint="Run the demo in another folder: `sealserve demo --directory DIR`.",
            )
        if left := running(workspace):
            on_running(left)
        stop_all(workspace)
    elif workspace.root.exists() and {entry.name for entry in workspace.root.iterdir()} - {CACHE, ".gitignore"}:
        raise CliCode.DEMO_WORKSPACE_IN_USE.error(
            f"The folder already contains a workspace with keys: {workspace.root} exists, but no {DEPLOYMENT_FILE} "
            "next to it.",
            hint="Run the demo in another folder: `sealserve demo --directory DIR`.",
        )
    if workspace.root.exists():
        for entry in workspace.root.iterdir():
            if entry.name != CACHE:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    _write(workspace, {"model": {"name": EXAMPLE}})  # marks the folder as a demo's, even if this demo is interrupted
    workspace.create()
    return workspace


def example_graph(workspace: Workspace, *, seed: int) -> tuple[Path, bool]:
    """Return the path of the example's frozen graph, and whether this call created it.

    Args:
        workspace: The demo's workspace. The graph stays in its cache folder.
        seed: Random seed of the weights.
    """
    cache = workspace.root / CACHE
    cache.mkdir(exist_ok=True)
    path = cache / f"{EXAMPLE}-seed{seed}.pb"
    if path.is_file():
        return path, False
    build_frozen_graph(path, seed=seed)
    return path, True


def describe(workspace: Workspace, model: ModelChoice, graph: Path, tls: TlsMode, chosen: Ports) -> Deployment:
    """Write the demo's ``sealserve.toml``, and return the deployment that it describes."""
    name = deployment.suggest_name(model.path) if model.path else EXAMPLE
    settings = {
        "model": {
            "name": name,
            "path": (model.path or graph).resolve(),
            "inputs": model.inputs,
            "outputs": model.outputs,
            "warm_up": model.path is None,
        },
        "service": {"tls": tls.value, "port": chosen.service},
        "broker": {"port": chosen.broker, "collateral_url": f"http://127.0.0.1:{chosen.pcs}"},
        "target": {"replicas": REPLICAS},
    }
    return _write(workspace, settings)


def _write(workspace: Workspace, settings: Mapping[str, Any]) -> Deployment:
    text = deployment.write_example(settings, heading=HEADING)
    deployment.parse(text)  # validate first, so that a failure does not overwrite an earlier demo's file
    write_file(workspace.deployment_file, text.encode())
    return deployment.read(workspace.deployment_file)


def _free(port: int) -> int:
    return port if ports.is_free(port) else ports.find_free()
