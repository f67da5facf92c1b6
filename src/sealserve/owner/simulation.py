"""The simulated stand-ins for the processor's vendor and the platform, in a workspace."""

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
    """Return the simulated vendor. The first use creates it, and adds its root certificate to the owner's trust.

    Raises:
        IdentityLostError: The vendor is missing, but the owner trusts the root certificate of an earlier vendor.
        SimulatorMissingError: The simulator is not installed.
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
    """Return the host's simulated platform. The first use creates it, with a certificate from the simulated vendor.

    Raises:
        SimulatorMissingError: The simulator is not installed.
    """
    simulated = load_simulator().platform
    folder = workspace.host.platform
    if folder.exists():
        return simulated.load(folder)
    return simulated.create(open_vendor(workspace, now=now), folder, now=now)


def trusted_root(workspace: Workspace) -> TrustAnchor | None:
    """Return the simulated root certificate that the owner trusts, or None."""
    root = workspace.owner.trust / ROOT_FILE
    return TrustAnchor(root_der=root.read_bytes(), simulated=True) if root.is_file() else None


def quoting_socket(workspace: Workspace) -> Path:
    """Return the Unix socket of the host's simulated quoting enclave."""
    return workspace.host.run / "quoting.sock"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock ``folder`` against other processes, because the PCS and the platform can start at the same time."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
