"""The bundle for a target: the owner prepares it on this machine, or it was shipped to this host."""

from enum import StrEnum
from pathlib import Path

from sealserve.cli import console
from sealserve.cli.deferred_imports import deferred

with deferred:
    from sealserve.bundle import Bundle, Destination, read_bundle
    from sealserve.cluster import wanted
    from sealserve.enclave.measurement import enclave_names
    from sealserve.owner import preparation, releases
    from sealserve.owner.owner import Owner
    from sealserve.workspace import Workspace


class Machines(StrEnum):
    """The roles of this machine: owner and host, or only host."""

    ALL = "all"
    HOST = "host"

    def releases(self, workspace: Workspace) -> Path:
        """Return the folder with this machine's releases: the owner's folder, or the host's on a host."""
        return (workspace.owner if self is Machines.ALL else workspace.host).releases


def machines_of(workspace: Workspace, asked: Machines | None) -> Machines:
    """Return the roles of this machine: as asked, else as at the last `up`, else owner and host."""
    return asked or (Machines.HOST if wanted.read(workspace).host_only else Machines.ALL)


def bundle_for(
    workspace: Workspace,
    release: Path,
    destination: Destination,
    machines: Machines,
    *,
    roll_back: bool = False,
    tell: console.Tell,
) -> Bundle:
    """Return a release as a bundle for its destination. On the owner's machine, the release is prepared first.

    Args:
        workspace: The workspace.
        release: The release's folder.
        destination: Where the release will run.
        machines: The roles of this machine.
        roll_back: Whether this is a roll-back. A draining release is then made active again.
        tell: Called with a short description before each step.
    """
    if machines is Machines.ALL:
        return preparation.prepare(workspace, release, destination, roll_back=roll_back, tell=tell, say=console.say)
    return received(workspace, release, destination)


def received(workspace: Workspace, release: Path, destination: Destination) -> Bundle:
    """Return the bundle of a release that was shipped to this host. It is verified if other machines will fetch it."""
    if not destination.on_this_machine:
        releases.verify(release, Owner.open(workspace).public_key())
    wanted = {place.name for place in destination.enclaves}
    there = enclave_names(release)
    return read_bundle(release, [name for name in there if name in wanted] or there[:1])
