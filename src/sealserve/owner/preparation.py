"""Prepare a release for where it runs: the owner's part of `up`, `scale` and `render docker`.

The release is verified once. All its enclaves are specified from what was verified, then built, registered with the
broker, and brought to where the host reads them. `foresee` is the half without effects, for a dry run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

from sealserve.bundle import (
    BrokerPlace,
    Bundle,
    Destination,
    EnclaveFacts,
    EnclavePlace,
    describe_enclave,
    read_bundle,
)
from sealserve.containers.build import inventory_of, known_inventory
from sealserve.containers.engine import Engine
from sealserve.containers.recipes import images_for, reference
from sealserve.deployment import Deployment
from sealserve.enclave.inventory import Inventory, read_inventory
from sealserve.enclave.measurement import SignedEnclave, load_enclave
from sealserve.enclave.spec import EnclaveSpec
from sealserve.errors import SealserveError
from sealserve.owner import broker_files, enclaves, provisioning, releases, simulation
from sealserve.owner.drift import released_facts
from sealserve.owner.owner import Owner
from sealserve.owner.release_facts import as_released
from sealserve.sealing import archive
from sealserve.sealing.release import VerifiedRelease, verify_release
from sealserve.terms import PlatformKind
from sealserve.workspace import Workspace

Tell: TypeAlias = Callable[[str], None]

_PACKING: Final = "packing the release for the store"


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What `prepare` would do and hand over.

    Args:
        steps: What it would do, each step as a person reads it while it runs.
        bundle: What it would hand over, or None if that is unknown: the server's image was not measured yet.
    """

    steps: tuple[str, ...]
    bundle: Bundle | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """A verified release with the enclaves that its destination needs, and those of them that must be built."""

    verified: VerifiedRelease
    enclaves: tuple[EnclaveFacts, ...]
    to_build: tuple[EnclaveSpec, ...]


def prepare(
    workspace: Workspace,
    release: Path,
    destination: Destination,
    *,
    roll_back: bool = False,
    tell: Tell = lambda _: None,
    say: Tell = lambda _: None,
) -> Bundle:
    """Prepare a release for its destination, and return what the target needs to run it.

    Preparing a release twice changes nothing: enclaves that fit are kept.

    Args:
        workspace: The owner's.
        release: The release's folder.
        destination: Where it is to run.
        roll_back: Make the release active again if it is draining, since it is served once more.
        tell: Called with a few words before each step that takes a while.
        say: Called with what the owner should read even if the steps are not shown.

    Raises:
        SealserveError: The release does not verify, its enclaves cannot be built, or the broker does not take them.
    """
    now = datetime.now(UTC)
    # 1. In simulation, the vendor certifies the platform: a broker elsewhere gets the vendor's files.
    if destination.deployment.platform is PlatformKind.SIMULATED:
        simulation.open_platform(workspace, now=now)
    # 2. Find out what enclaves trust in the image. It is measured unless that was done before.
    inventory = _inventory(workspace, destination, tell)
    # 3. Verify the release. What follows relies on this and does not hash its files again.
    draft = _draft(workspace, release, destination, inventory)
    # 4. Activate a release that is served once more. It stays as it is if its deadline is over.
    if roll_back and provisioning.bring_back(workspace, destination.deployment, draft.verified, now=now):
        say(f"{draft.verified.folder.name} was draining, and is active again.")
    # 5. Build the enclaves that do not exist or do not fit.
    for spec in draft.to_build:
        tell(_building(spec))
        enclaves.build(workspace, release, spec, now=now)
    # 6. Register them with the broker, so that they can receive the release's key.
    provisioning.register(workspace, destination.deployment, draft.verified, now=now)
    # 7. Bring the release to where its host reads it.
    if destination.store is not None:
        tell(_PACKING)
        destination.store.mkdir(parents=True, exist_ok=True)
        archive.pack(release, _packed(destination.store, release), overwrite=True)
    folder = releases.ship(workspace, draft.verified) if destination.on_this_machine else release
    # 8. Hand over what a broker that runs elsewhere reads. This comes last, since step 6 changes its database.
    if destination.broker is not BrokerPlace.PROCESS:
        broker_files.make_ready(workspace)
    broker = broker_files.describe(workspace, destination.broker, with_files=True)
    return read_bundle(folder, [place.name for place in destination.enclaves], broker=broker)


def foresee(workspace: Workspace, release: Path, destination: Destination) -> Foreseen:
    """Return what `prepare` would do and hand over. This changes nothing, neither files nor the broker's database.

    Whether the broker has the enclaves already is not looked up, since opening its database writes beside it.

    Raises:
        SealserveError: The release does not verify, or its enclaves cannot be built here.
    """
    first: list[str] = []
    shipping: list[str] = []
    if destination.deployment.platform is PlatformKind.SIMULATED and not workspace.host.platform.exists():
        first.append("certifying the simulated platform")
    if destination.store is not None:
        shipping.append(_PACKING)
    if destination.on_this_machine and not (workspace.host.releases / release.name).is_dir():
        shipping.append("copying the release to the host's folder")
    if destination.broker is BrokerPlace.CLUSTER:
        shipping.append("copying the broker's keys and database into the cluster, where they are not compared")
    registering = f"registering the enclaves of {release.name} with the broker"
    inventory = _known_inventory(workspace, destination)
    if destination.in_image and inventory is None:
        measuring = f"measuring {_image(destination.deployment)}, and building the release's enclave unless it fits"
        return Foreseen(steps=(*first, measuring, registering, *shipping), bundle=None)
    draft = _draft(workspace, release, destination, inventory)
    return Foreseen(
        steps=(*first, *map(_building, draft.to_build), registering, *shipping),
        bundle=Bundle(
            folder=release,
            size=sum(file.size for file in draft.verified.index.files),
            enclaves=draft.enclaves,
            broker=broker_files.describe(workspace, destination.broker, with_files=False),
        ),
    )


def _draft(workspace: Workspace, release: Path, destination: Destination, inventory: Inventory | None) -> _Draft:
    """Verify the release, and find out which of its enclaves fit the destination. This changes nothing."""
    verified = verify_release(release, Owner.open(workspace).index_signer().public_key())
    built = {place: _load(release, place) for place in destination.enclaves}
    # An enclave that runs stays as it is: the replica goes on with what it was measured as.
    kept = {place: found for place, found in built.items() if place.in_use and found is not None}
    ports = {place.name: place.port for place in destination.enclaves if place not in kept}
    facts = [describe_enclave(found.name, found.manifest, found.manifest_bytes) for found in kept.values()]
    to_build: list[EnclaveSpec] = []
    existing = {place.name: found.manifest_bytes for place, found in built.items() if found is not None}
    specs: Sequence[EnclaveSpec] = ()
    if ports:
        # A release keeps the settings that it was built with: what differs from them is the next release's.
        deployment = as_released(destination.deployment, released_facts(workspace, release))
        specs = enclaves.specify_all(deployment, verified, ports, inventory=inventory)
    for spec in specs:
        manifest = enclaves.specified_manifest(workspace, spec)
        content = manifest.to_bytes()
        facts.append(describe_enclave(spec.name, manifest, content))
        if existing.get(spec.name) != content:
            to_build.append(spec)
    return _Draft(verified=verified, enclaves=tuple(facts), to_build=tuple(to_build))


def _load(release: Path, place: EnclavePlace) -> SignedEnclave | None:
    """Return an enclave as a loader reads it, or None if it is missing or damaged: it is then built again."""
    try:
        return load_enclave(release, place.name)
    except SealserveError:
        return None


def _inventory(workspace: Workspace, destination: Destination, tell: Tell) -> Inventory | None:
    if destination.inventory is not None or not destination.in_image:
        return _known_inventory(workspace, destination)
    deployment = destination.deployment
    name = images_for(deployment.platform)[-1]
    return inventory_of(Engine(), name, _image(deployment), records=workspace.owner.images, tell=tell)


def _known_inventory(workspace: Workspace, destination: Destination) -> Inventory | None:
    """Return what the enclaves trust in the image, if that is known without measuring the image."""
    if not destination.in_image:
        return None
    if destination.inventory is not None:
        return read_inventory(destination.inventory)
    deployment = destination.deployment
    name = images_for(deployment.platform)[-1]
    return known_inventory(Engine(), name, _image(deployment), records=workspace.owner.images)


def _image(deployment: Deployment) -> str:
    """Return the name of the server's image."""
    images = deployment.images
    return reference(images.prefix, images_for(deployment.platform)[-1], images.tag)


def _building(spec: EnclaveSpec) -> str:
    return f"building the enclave {spec.name}"


def _packed(store: Path, release: Path) -> Path:
    return store / f"{release.name}.tar"
