"""What stands in for the processor's vendor and for the platform, in a workspace."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sealserve.atomic_file import write_file
from sealserve.enclave.launch.simulator import load_simulator
from sealserve.owner.identity import require_first_use
from sealserve.sgx.trust_anchor import TrustAnchor
from sealserve.workspace import Workspace

if TYPE_CHECKING:
    from sealserve.enclave.launch.simulator import SimulatedPlatform, Vendor

ROOT_FILE = "simulated-root.der"


def open_vendor(workspace: Workspace, *, now: datetime) -> "Vendor":
    """Return the simulated vendor; on first use it is made, and the owner trusts its root.

    Raises:
        IdentityLostError: It is missing, and the owner trusts the root of an earlier one.
        SimulatorMissingError: The simulated platform is not installed.
    """
    simulated = load_simulator().vendor
    workspace.create()
    folder = workspace.vendor.root
    with _locked(folder):
        root = workspace.owner.trust / ROOT_FILE
        if any(folder.iterdir()):
            vendor = simulated.load(folder)
        else:
            require_first_use("The simulated vendor", folder, [root])
            vendor = simulated.create(folder, now=now)
        if not root.is_file():
            write_file(root, vendor.root_der)
    return vendor


def open_platform(workspace: Workspace, *, now: datetime) -> "SimulatedPlatform":
    """Return the host's simulated platform; on first use it is made, and the vendor certifies it.

    Raises:
        SimulatorMissingError: The simulated platform is not installed.
    """
    simulated = load_simulator().platform
    folder = workspace.host.platform
    if folder.exists():
        return simulated.load(folder)
    return simulated.create(open_vendor(workspace, now=now), folder, now=now)


def trusted_root(workspace: Workspace) -> TrustAnchor | None:
    """Return the simulated root that the owner trusts, or None."""
    root = workspace.owner.trust / ROOT_FILE
    return TrustAnchor(root_der=root.read_bytes(), simulated=True) if root.is_file() else None


def quoting_socket(workspace: Workspace) -> Path:
    """Return where the host's simulated quoting enclave answers."""
    return workspace.host.run / "quoting.sock"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until no other process makes something in ``folder``: the PCS and the platform may start at once."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
