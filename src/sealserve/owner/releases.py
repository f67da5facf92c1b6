"""Build, ship, verify and list the releases of a workspace."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sealserve.broker.keystore import KeyId
from sealserve.deployment import Deployment
from sealserve.enclave.index import verify_enclave_index
from sealserve.errors import SealserveError
from sealserve.held_tree import held_tree
from sealserve.owner import drift, enclaves, models
from sealserve.owner.certificates import fresh_ssl_config
from sealserve.owner.codes import OwnerCode
from sealserve.owner.models import servable_folder
from sealserve.owner.owner import Owner
from sealserve.owner.server_config import server_config_files
from sealserve.pki.ssl_config import SSL_CONFIG_PATH
from sealserve.sealing import archive, release
from sealserve.sealing.release import Release, ReleaseContents, Servable, VerifiedRelease
from sealserve.sealing.release_files import ReleaseFileMissingError
from sealserve.sealing.release_index import ENCLAVE_FOLDER, INDEX_FILE, SIGNATURE_FILE, parse_index
from sealserve.terms import PlatformKind
from sealserve.whole_folder import staging
from sealserve.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRelease:
    """A release of the workspace, its signature verified; its files were not looked at."""

    id: str
    folder: Path
    created: datetime
    simulated: bool
    servables: tuple[str, ...]
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultyRelease:
    """A folder that looks like a release of the workspace, and whose index does not verify: nothing in it is true."""

    folder: Path
    fault: SealserveError


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedBundle(VerifiedRelease):
    """A verified release, and the names of its enclaves, verified as well; none were built yet if there are none."""

    enclaves: tuple[str, ...]


def build(
    workspace: Workspace,
    deployment: Deployment,
    *,
    now: datetime,
    replace_lost_key: bool = False,
    progress: Callable[[int], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Release:
    """Seal the deployment's models, with a fresh certificate for the service, under a fresh key of the keystore.

    Args:
        workspace: The owner's.
        deployment: What it describes.
        now: The time of the release and of its certificate.
        replace_lost_key: Create a key that signs releases if the former one is missing: hosts must then get the new
            public key.
        progress: Called with plaintext bytes as they are sealed.
        warn: Called with each operation of a model that is there because ``dangerous_operations`` allows it.

    Raises:
        InputError: `model.not-imported`: A model is not in the workspace.
        RefusedOperationError: A model has operations that reach outside of the enclave.
        AuthorityMissingError: There are no certificates yet.
        SealserveError: What `sealserve.sealing.release.build_release` raises.
    """
    # Reject a dangerous model before anything is created.
    models.check(workspace, deployment.models, server=deployment.server.kind, warn=warn)
    # Collect what is sealed: the models, the server's settings, and a fresh TLS key that exists nowhere else.
    servables = [
        Servable(name=model.name, version=model.version, folder=servable_folder(workspace, model))
        for model in deployment.models
    ]
    facts = drift.facts_to_seal(workspace, deployment)
    files = server_config_files(deployment)
    ssl_config = fresh_ssl_config(workspace, deployment, now=now)
    contents = ReleaseContents(
        name=deployment.model.name,
        servables=servables,
        files={**files, SSL_CONFIG_PATH: ssl_config.render()},
        simulated=deployment.platform is PlatformKind.SIMULATED,
        created=now,
    )
    # The first release of a workspace creates the key that signs it, if `init` did not.
    owner = Owner.open(workspace)
    owner.create_index_key(replace_lost=replace_lost_key)
    signer = owner.index_signer()
    # Store the release key before it is used: a release without its key is lost.
    with owner.vault(create=True) as vault, vault.database.write() as connection:
        created = vault.keystore.create(connection, now=now)
    # Seal and sign. If that fails, nothing needs the key.
    try:
        with created.key as key:
            built = release.build_release(
                contents,
                workspace.owner.releases,
                key=key,
                key_id=created.key_id,
                signer=signer,
                progress=progress,
            )
    except BaseException:
        _discard_key(owner, created.key_id)
        raise
    # Remember what it was made from, so that `up` and `status` notice what changes later.
    drift.remember(workspace, built.folder.name, built.id, facts)
    return built


def _discard_key(owner: Owner, key_id: KeyId) -> None:
    """Delete the key of a release that was not built, unless it was: an interruption may come just after that."""
    if not any(key_id in (folder / INDEX_FILE).read_text() for folder in _folders(owner.workspace.owner.releases)):
        with owner.vault() as vault, vault.database.write() as connection:
            vault.keystore.discard(connection, key_id)


def any_in(parent: Path) -> bool:
    """Return whether there is a release in ``parent``."""
    return bool(_folders(parent))


def is_release(folder: Path) -> bool:
    """Return whether a folder looks like a release; it was not verified."""
    return (folder / INDEX_FILE).is_file() and not folder.name.startswith(".")


def newest(parent: Path) -> Path:
    """Return the newest release in ``parent``.

    Raises:
        InputError: `release.missing`: There is none.
    """
    folders = sorted(_folders(parent), key=lambda folder: (folder / INDEX_FILE).stat().st_mtime_ns)
    if not folders:
        raise OwnerCode.RELEASE_MISSING.error(
            f"There is no release in {parent}.", hint="`sealserve release build` makes one."
        )
    return folders[-1]


def find(parent: Path, name: str | None) -> Path:
    """Return the release that ``name`` tells: a folder, a name in ``parent``, or the beginning of an id.

    Raises:
        InputError: `release.missing`: None fits.
        InputError: `release.ambiguous`: Several fit.
    """
    if name is None:
        return newest(parent)
    if (Path(name) / INDEX_FILE).is_file():
        return Path(name)
    folders = _folders(parent)
    fitting = [folder for folder in folders if folder.name == name]
    fitting = fitting or [folder for folder in folders if _id(folder).startswith(name)]
    if len(fitting) > 1:
        listed = ", ".join(folder.name for folder in fitting)
        raise OwnerCode.RELEASE_AMBIGUOUS.error(f"{name!r} could be any of {listed}.", hint="Give more of the name.")
    if not fitting:
        known = ", ".join(folder.name for folder in folders) or "none"
        raise OwnerCode.RELEASE_MISSING.error(f"There is no release {name!r} in {parent}; there: {known}.")
    return fitting[0]


def listed(workspace: Workspace, parent: Path) -> Iterator[ListedRelease | FaultyRelease]:
    """Yield the releases in ``parent``, oldest first, their indexes verified; those that do not verify as such.

    Raises:
        InputError: `owner-key.unreadable`: There is no key to verify them with.
    """
    folders = sorted(_folders(parent), key=lambda item: (item / INDEX_FILE).stat().st_mtime_ns)
    if not folders:
        return
    owner_key = Owner.open(workspace).public_key()
    for folder in folders:
        try:
            index = release.read_verified_index(folder, owner_key)
            parsed = parse_index(index.content)
        except SealserveError as error:
            yield FaultyRelease(folder=folder, fault=error)
            continue
        yield ListedRelease(
            id=index.sha256,
            folder=folder,
            created=parsed.created_at,
            simulated=parsed.simulated,
            servables=tuple(f"{item.name}:{version}" for item in parsed.servables for version in item.versions),
            size=sum(file.size for file in parsed.files),
        )


def verify(folder: Path, owner_key: Ed25519PublicKey) -> VerifiedBundle:
    """Verify a release, and the enclaves that were built for it, with the owner's public key.

    Raises:
        SealserveError: The release does not verify, or what is in its ``enclave/`` folder.
    """
    return _bundle(release.verify_release(folder, owner_key), _verify_enclaves(folder, owner_key))


def pack(workspace: Workspace, folder: Path, tar: Path, *, overwrite: bool = False) -> None:
    """Verify a release of the owner's with its enclaves, and write it to one tar file, for the journey.

    Raises:
        SealserveError: It does not verify, so that `unpack` would refuse it too; or the file cannot be written.
    """
    key = Owner.open(workspace).index_signer().public_key()
    release.verify_release(folder, key)
    _verify_enclaves(folder, key)
    archive.pack(folder, tar, overwrite=overwrite)


def unpack(workspace: Workspace, tar: Path, owner_key: Ed25519PublicKey) -> VerifiedBundle:
    """Unpack a release among those of the host; it appears there when it and its enclaves verify.

    Raises:
        SealserveError: It does not verify, or is no packed release.
    """
    workspace.host.releases.mkdir(parents=True, exist_ok=True)
    enclaves: list[str] = []
    unpacked = archive.unpack(
        tar,
        workspace.host.releases,
        owner_key=owner_key,
        check=lambda folder: enclaves.extend(_verify_enclaves(folder, owner_key)),
    )
    return _bundle(unpacked, enclaves)


def ship(workspace: Workspace, verified: VerifiedRelease) -> Path:
    """Copy a release of the owner's to the host's folder of the same workspace.

    The release was verified where it is, so its files are not hashed again: a copy that differs does not open in an
    enclave. No link is followed, since the folder need not be the owner's alone: what it leads to would be shipped.

    Returns:
        Where it is there. If it was there before, its enclaves are brought up to date.
    """
    folder = verified.folder
    shipped = workspace.host.releases / folder.name
    if not shipped.is_dir():
        workspace.host.releases.mkdir(parents=True, exist_ok=True)
        with staging(workspace.host.releases, folder.name) as stage:
            _copy(verified, stage.folder)
            stage.publish(shipped)
    enclaves.ship(folder, shipped)
    return shipped


def _copy(verified: VerifiedRelease, destination: Path) -> None:
    missing = {INDEX_FILE, SIGNATURE_FILE, *(file.path for file in verified.index.files)}
    for found in held_tree(verified.folder):
        path = found.path.relative_to(verified.folder).as_posix()
        if path in missing:
            copy = destination / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            found.copy(copy)
            missing.remove(path)
    if missing:  # a link in the place of a folder counts as well
        raise ReleaseFileMissingError(verified.folder, missing=sorted(missing), changed=(), extra=())


def _bundle(verified: VerifiedRelease, enclaves: Iterable[str]) -> VerifiedBundle:
    return VerifiedBundle(id=verified.id, folder=verified.folder, index=verified.index, enclaves=tuple(enclaves))


def _verify_enclaves(folder: Path, owner_key: Ed25519PublicKey) -> list[str]:
    if not os.path.lexists(folder / ENCLAVE_FOLDER):
        return []  # none were built yet
    return [enclave.name for enclave in verify_enclave_index(folder, owner_key)]


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return [folder for folder in sorted(parent.iterdir()) if is_release(folder)]


def _id(folder: Path) -> str:
    return hashlib.sha256((folder / INDEX_FILE).read_bytes()).hexdigest()
