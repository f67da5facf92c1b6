"""The bundle that a verb hands to a target: prepared by the owner here, or as it was shipped to this host."""

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
    """Which machines this one is: the owner's and the host's at once, or the host's alone."""

    ALL = "all"
    HOST = "host"

    def releases(self, workspace: Workspace) -> Path:
        """Return the folder in which this machine looks for releases."""
        return (workspace.owner if self is Machines.ALL else workspace.host).releases


def machines_of(workspace: Workspace, asked: Machines | None) -> Machines:
    """Return which machines this one is: as asked, else as at the last `up`, else all."""
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
    """Return a release as a bundle for its destination; where this machine is the owner's, it is prepared first.

    Args:
        workspace: The folder.
        release: The release's folder.
        destination: Where it is to run.
        machines: Which machines this one is.
        roll_back: Whether the release is served once more, so that it may have to be made active again.
        tell: Called with a few words before each step.
    """
    if machines is Machines.ALL:
        return preparation.prepare(workspace, release, destination, roll_back=roll_back, tell=tell, say=console.say)
    return received(workspace, release, destination)


def received(workspace: Workspace, release: Path, destination: Destination) -> Bundle:
    """Return a release as it was shipped to this host. It is verified if other machines are to fetch it."""
    if not destination.on_this_machine:
        releases.verify(release, Owner.open(workspace).public_key())
    wanted = {place.name for place in destination.enclaves}
    there = enclave_names(release)
    return read_bundle(release, [name for name in there if name in wanted] or there[:1])
