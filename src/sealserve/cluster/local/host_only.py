"""The local target on a machine that is only the host: the owner's broker runs elsewhere.

The owner copies a packed release, the public key and, in a simulation, the platform to the host. The platform's
certificate comes from the simulated vendor, which is on the owner's machine: the broker there trusts no other vendor.
"""

from pathlib import Path

from sealserve.bundle import Bundle
from sealserve.cluster import wanted
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.target import REPLICA
from sealserve.workspace import Workspace


def is_owners(workspace: Workspace, release: str) -> bool:
    """Return whether the owner of a release works on this machine, and the deployment is not a host's alone."""
    return not wanted.read(workspace).host_only and (workspace.owner.releases / release).is_dir()


def built_folder(workspace: Workspace, release: str) -> Path:
    """Return the folder with the enclaves of a release: the owner's, or on a host what was shipped there."""
    folders = workspace.owner.releases if is_owners(workspace, release) else workspace.host.releases
    return folders / release


def require_platform(workspace: Workspace) -> None:
    """Check that the host has a simulated platform that the owner's vendor has certified.

    Raises:
        InputError: `target.host-incomplete`: It has none. One that is created here would be of a vendor of its own.
    """
    if not workspace.host.platform.is_dir():
        raise ClusterCode.TARGET_HOST_INCOMPLETE.error(
            f"This host has no simulated platform: expected {workspace.host.platform}.",
            hint="On the owner's machine, run `sealserve simulated platform --create-only`, and copy the folder here.",
        )


def require_enclaves(bundle: Bundle, replicas: int) -> None:
    """Check that a release was shipped with an enclave for each replica: the port of each is measured.

    Raises:
        InputError: `target.host-incomplete`: An enclave is missing.
    """
    missing = [name for name in (f"{REPLICA}{index}" for index in range(replicas)) if bundle.enclave(name) is None]
    if missing:
        raise ClusterCode.TARGET_HOST_INCOMPLETE.error(
            f"{bundle.name} has no enclave {missing[0]}: expected one for each of {replicas} replicas, got "
            f"{replicas - len(missing)}.",
            hint=f"On the owner's machine, run `sealserve enclave build --name {missing[0]} --port PORT`, and pack the "
            "release again; or use fewer --replicas.",
        )
