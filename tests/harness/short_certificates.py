"""Brokers of a local deployment that issue certificates for seconds, so that a test sees their renewal and their end.

`sealserve.toml` permits no validity below one hour. These brokers are the real ones: only the settings that they get
differ.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.harness.workspaces import Site

from sealserve.cluster.local import owner_services
from sealserve.cluster.local.part_commands import ready_file
from sealserve.cluster.local.processes import wait_ready, wait_until
from sealserve.cluster.target import BROKER
from sealserve.workspace import Workspace

_PATIENT: Final = 120.0
_PROGRAM: Final = """
import logging, sys
from pathlib import Path
from sealserve import deployment
from sealserve.broker.openssl_settings import ensure_no_tickets
from sealserve.broker.service_loop import signalled
from sealserve.cli import console
from sealserve.cluster.local.part_commands import ready_file
from sealserve.cluster.target import BROKER
from sealserve.owner import provisioning
from sealserve.workspace import Workspace
directory, seconds, port, instance = sys.argv[1:]
workspace = Workspace(Path(directory))
ensure_no_tickets(workspace.owner.root)
console.log_to_standard_error()
described = deployment.read(workspace.deployment_file)
changed = {"certificate_hours": float(seconds) / 3600, "port": int(port), "instance": instance}
described = described.model_copy(update={"broker": described.broker.model_copy(update=changed)})
with signalled() as signals, provisioning.open_broker(workspace, described) as server:
    server.serve_until_signalled(signals, ready=lambda: console.mark_ready(ready_file(workspace, BROKER)))
"""


def start_broker(
    site: Site, *, seconds: float, port: int | None = None, instance: str = "first", workspace: Workspace | None = None
) -> None:
    """Start the deployment's broker, and wait until it serves. `sealserve up` and `status` regard it as their own.

    Args:
        site: The workspace, with certificates.
        seconds: The validity of the certificates that it issues.
        port: The port that it listens on, behind a load balancer on the port in ``sealserve.toml``.
        instance: Its name.
        workspace: Another workspace with the broker's files.
    """
    files = workspace or site.workspace
    ready = ready_file(files, BROKER)
    ready_file(site.workspace, BROKER).touch()  # `up` waits for it
    ready.unlink(missing_ok=True)
    process = owner_services.registry(site.workspace).start(
        BROKER,
        _command(site, files, seconds, port, instance),
        log=site.workspace.owner.logs / f"{BROKER}.log",
        port=site.deployment.broker.port,
    )
    wait_ready(process, ready.exists, seconds=_PATIENT)


def start_other_broker(site: Site, *, seconds: float, port: int, instance: str) -> "subprocess.Popen[bytes]":
    """Start another broker with the same files, outside of the deployment. The caller ends it."""
    ready = ready_file(site.workspace, BROKER)
    ready.unlink(missing_ok=True)
    command = _command(site, site.workspace, seconds, port, instance)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert wait_until(lambda: ready.exists() or process.poll() is not None, seconds=_PATIENT)
    assert process.poll() is None
    return process


def copy_broker_files(site: Site, directory: Path) -> Workspace:
    """Copy what another broker needs, as the guide for two brokers lists it, and return the new workspace."""
    workspace, owner = Workspace(directory), site.workspace.owner
    workspace.create()
    files = (owner.master_key, owner.audit_signing_key, owner.row_key, owner.token_signing_key)
    for path in (site.workspace.deployment_file, *files):
        shutil.copy2(path, directory / path.relative_to(site.directory))
    for path in (owner.broker_tls, owner.issuing, owner.trust, site.workspace.vendor.root):
        shutil.copytree(path, directory / path.relative_to(site.directory), dirs_exist_ok=True)
    return workspace


def _command(site: Site, files: Workspace, seconds: float, port: int | None, instance: str) -> list[str]:
    settings = str(seconds), str(port or site.deployment.broker.port), instance
    return [sys.executable, "-c", _PROGRAM, str(files.directory), *settings]
