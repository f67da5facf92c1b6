"""The local target on a machine that is only the host, with the owner's broker on a different machine.

The owner copies a packed release, the public key and, in a simulation, the platform to the host. The platform's
certificate comes from the simulated vendor on the owner's machine, because the broker trusts only this vendor.
"""

from pathlib import Path

from sealserve.bundle import Bundle
from sealserve.cluster import wanted
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.target import REPLICA
from sealserve.workspace import Workspace


def is_owners(workspace: Workspace, release: str) -> bool:
    """Return whether this machine has the owner's copy of a release, and does not act only as a host."""
    return not wanted.read(workspace).host_only and (workspace.owner.releases / release).is_dir()


def built_folder(workspace: Workspace, release: str) -> Path:
    """Return the folder with a release's enclaves: the owner's folder, or on a host the shipped release."""
    folders = workspace.owner.releases if is_owners(workspace, release) else workspace.host.releases
    return folders / release


def require_platform(workspace: Workspace) -> None:
    """Check that the host has a simulated platform that the owner's vendor has certified.

    Raises:
        InputError: `target.host-incomplete` if it is missing. A platform created here would have a different vendor,
            which the broker does not trust.
    """
    if not workspace.host.platform.is_dir():
        raise ClusterCode.TARGET_HOST_INCOMPLETE.error(
            f"This host has no simulated platform: {workspace.host.platform} does not exist.",
            hint="On the owner's machine, run `sealserve simulated platform --create-only`, and copy the folder here.",
        )


def require_enclaves(bundle: Bundle, replicas: int) -> None:
    """Check that a release was shipped with an enclave for each replica. Each enclave's port is measured.

    Raises:
        InputError: `target.host-incomplete` if an enclave is missing.
    """
    missing = [name for name in (f"{REPLICA}{index}" for index in range(replicas)) if bundle.enclave(name) is None]
    if missing:
        raise ClusterCode.TARGET_HOST_INCOMPLETE.error(
            f"The release {bundle.name} has no enclave {missing[0]}: expected one for each of {replicas} replicas, got "
            f"{replicas - len(missing)}.",
            hint=f"On the owner's machine, run `sealserve enclave build --name {missing[0]} --port PORT`, and pack the "
            "release again. Or use fewer --replicas.",
        )
