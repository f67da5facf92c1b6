"""Prepare a release for its destination: the owner's part of `up`, `scale` and `render docker`.

The release is verified once. Its enclaves are specified from the verified index, built, registered with the broker, and
copied to the place from which the host reads them. For a dry run, `foresee` does the steps that do not change anything.
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
    shows_client_certificates,
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
    """The steps and the result of a future `prepare`.

    Args:
        steps: Descriptions of the steps, for people.
        bundle: The bundle that `prepare` would return. None if it is unknown, because the server's image was not
            measured yet.
    """

    steps: tuple[str, ...]
    bundle: Bundle | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """A verified release with the enclaves for its destination. ``to_build`` lists the enclaves that must be built."""

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
    """Prepare a release for its destination, and return the bundle that the target needs to run it.

    Preparing a release a second time changes nothing: enclaves that match their specification are kept.

    Args:
        workspace: The owner's workspace.
        release: The release's folder.
        destination: Where the release will run.
        roll_back: Whether this is a roll-back. A draining release is then made active again.
        tell: Called with a short description before each step that takes long.
        say: Called with messages that the owner must read even if the steps are not shown.

    Raises:
        SealserveError: The release does not verify, its enclaves cannot be built, or the broker rejects them.
    """
    now = datetime.now(UTC)
    # 1. In simulation, the vendor certifies the platform first, because a broker elsewhere needs the vendor's files.
    if destination.deployment.platform is PlatformKind.SIMULATED:
        simulation.open_platform(workspace, now=now)
    # 2. Get the inventory of files that enclaves trust in the image. The image is measured if that was not done before.
    inventory = _inventory(workspace, destination, tell)
    # 3. Verify the release. The following steps rely on this, and do not hash its files again.
    draft = _draft(workspace, release, destination, inventory)
    # 4. For a roll-back, make a draining release active again, unless its deadline has passed.
    if roll_back and provisioning.bring_back(workspace, destination.deployment, draft.verified, now=now):
        say(f"{draft.verified.folder.name} was draining, and is active again.")
    # 5. Build the enclaves that do not exist or do not match their specification.
    for spec in draft.to_build:
        tell(_building(spec))
        enclaves.build(workspace, release, spec, now=now)
    # 6. Register them with the broker, so that they can receive the release's key.
    provisioning.register(workspace, destination.deployment, draft.verified, now=now)
    # 7. Copy the release to the place from which its host reads it.
    if destination.store is not None:
        tell(_PACKING)
        destination.store.mkdir(parents=True, exist_ok=True)
        archive.pack(release, _packed(destination.store, release), overwrite=True)
    folder = releases.ship(workspace, draft.verified) if destination.on_this_machine else release
    # 8. Collect the files for a broker that runs elsewhere. This comes last, because step 6 changes its database.
    if destination.broker is not BrokerPlace.PROCESS:
        broker_files.make_ready(workspace)
    broker = broker_files.describe(workspace, destination.broker, with_files=True)
    return read_bundle(folder, [place.name for place in destination.enclaves], broker=broker)


def foresee(workspace: Workspace, release: Path, destination: Destination) -> Foreseen:
    """Return the steps that `prepare` would do, and the bundle that it would return. Nothing is changed.

    The function does not check whether the enclaves are already registered, because opening the broker's database
    creates files beside it.

    Raises:
        SealserveError: The release does not verify, or its enclaves cannot be built on this machine.
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
        shipping.append("copying the broker's keys and database into the cluster, without comparing them first")
    registering = f"registering the enclaves of {release.name} with the broker"
    inventory = _known_inventory(workspace, destination)
    if destination.in_image and inventory is None:
        measuring = (
            f"measuring {_image(destination.deployment)}, and building the release's enclave if it does not match"
        )
        return Foreseen(steps=(*first, measuring, registering, *shipping), bundle=None)
    draft = _draft(workspace, release, destination, inventory)
    return Foreseen(
        steps=(*first, *map(_building, draft.to_build), registering, *shipping),
        bundle=Bundle(
            folder=release,
            size=sum(file.size for file in draft.verified.index.files),
            enclaves=draft.enclaves,
            broker=broker_files.describe(workspace, destination.broker, with_files=False),
            client_certificates=shows_client_certificates(draft.verified.index),
        ),
    )


def _draft(workspace: Workspace, release: Path, destination: Destination, inventory: Inventory | None) -> _Draft:
    """Verify the release, and determine which of its enclaves must be built. Nothing is changed."""
    verified = verify_release(release, Owner.open(workspace).index_signer().public_key())
    built = {place: _load(release, place) for place in destination.enclaves}
    # A running enclave is not changed: the replica continues with its measurement.
    kept = {place: found for place, found in built.items() if place.in_use and found is not None}
    ports = {place.name: place.port for place in destination.enclaves if place not in kept}
    facts = [describe_enclave(found.name, found.manifest, found.manifest_bytes) for found in kept.values()]
    to_build: list[EnclaveSpec] = []
    existing = {place.name: found.manifest_bytes for place, found in built.items() if found is not None}
    specs: Sequence[EnclaveSpec] = ()
    if ports:
        # A release keeps the settings with which it was built. Changed settings apply to the next release.
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
    """Return an existing enclave, or None if it is missing or damaged and must be built again."""
    try:
        return load_enclave(release, place.name)
    except SealserveError:
        return None


def _inventory(workspace: Workspace, destination: Destination, tell: Tell) -> Inventory | None:
    if destination.inventory is not None or not destination.in_image:
        return _known_inventory(workspace, destination)
    deployment = destination.deployment
    name = images_for(deployment.runtime)[-1]
    return inventory_of(Engine(), name, _image(deployment), records=workspace.owner.images, tell=tell)


def _known_inventory(workspace: Workspace, destination: Destination) -> Inventory | None:
    """Return the inventory of the image, or None if it is unknown without measuring the image."""
    if not destination.in_image:
        return None
    if destination.inventory is not None:
        return read_inventory(destination.inventory)
    deployment = destination.deployment
    name = images_for(deployment.runtime)[-1]
    return known_inventory(Engine(), name, _image(deployment), records=workspace.owner.images)


def _image(deployment: Deployment) -> str:
    """Return the name of the server's image."""
    images = deployment.images
    return reference(images.prefix, images_for(deployment.runtime)[-1], images.tag)


def _building(spec: EnclaveSpec) -> str:
    return f"building the enclave {spec.name}"


def _packed(store: Path, release: Path) -> Path:
    return store / f"{release.name}.tar"
