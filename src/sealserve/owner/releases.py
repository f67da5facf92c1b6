"""Build, ship, verify and list the releases of a workspace."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sealserve.atomic_file import write_file
from sealserve.attestation.secret_provisioning import SecretForm
from sealserve.broker.keystore import KeyId
from sealserve.deployment import Deployment, ModelSection
from sealserve.enclave.index import verify_enclave_index
from sealserve.errors import SealserveError
from sealserve.held_tree import held_tree
from sealserve.owner import drift, enclaves, model_signature, model_signing, models, release_statements
from sealserve.owner.certificates import tls_files
from sealserve.owner.codes import OwnerCode
from sealserve.owner.models import servable_folder
from sealserve.owner.owner import Owner
from sealserve.owner.server_config import server_config_files
from sealserve.sealing import archive, release
from sealserve.sealing.model_signature import compare_signed
from sealserve.sealing.release import Release, ReleaseContents, Servable, VerifiedRelease
from sealserve.sealing.release_files import ReleaseFileMissingError
from sealserve.sealing.release_index import ENCLAVE_FOLDER, INDEX_FILE, SIGNATURE_FILE, parse_index
from sealserve.terms import PlatformKind
from sealserve.whole_folder import staging
from sealserve.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRelease:
    """A release of the workspace whose signature is verified, but not its files.

    Args:
        id: SHA-256 of the index.
        folder: The release's folder.
        created: Time of the build (UTC).
        simulated: Whether the release is for the simulated platform.
        servables: The models, each as ``NAME:VERSION``.
        size: Size of all sealed files in bytes.
    """

    id: str
    folder: Path
    created: datetime
    simulated: bool
    servables: tuple[str, ...]
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultyRelease:
    """A folder that looks like a release, but whose index does not verify. Nothing in it can be trusted."""

    folder: Path
    fault: SealserveError


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedBundle(VerifiedRelease):
    """A verified release, with the names of its verified enclaves; empty if none was built yet."""

    enclaves: tuple[str, ...]


def build(
    workspace: Workspace,
    deployment: Deployment,
    *,
    now: datetime,
    replace_lost_key: bool = False,
    secret_form: SecretForm | None = None,
    sign_model: Path | None = None,
    progress: Callable[[int], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Release:
    """Seal the deployment's models, with a new certificate for the service, under a new key of the keystore.

    Args:
        workspace: The owner's workspace.
        deployment: The deployment that ``sealserve.toml`` describes.
        now: Time of the release and of its certificate.
        replace_lost_key: Create a new key that signs releases if the former key is missing. Hosts then need the new
            public key.
        secret_form: The form in which enclaves receive the key of the release. None: `broker allow` decides.
        sign_model: Sign each model with this private key (PEM). See `signature_of` for the file of the signature.
        progress: Called with the number of plaintext bytes that were sealed since the last call.
        warn: Called with each warning about a model, such as an operation that only ``dangerous_operations`` allows.

    Returns:
        The new release, in the owner's folder.

    Raises:
        InputError: `model.not-imported`: A model was not converted into the workspace yet.
        RefusedOperationError: A model contains operations that are not allowed in an enclave.
        AuthorityMissingError: The certificates do not exist yet.
        SealserveError: As `sealserve.sealing.release.build_release`, `model_signature.verify_model` and
            `model_signing.sign`.
    """
    # Reject a dangerous model before anything is created.
    models.check(workspace, deployment.models, server=deployment.server.kind, warn=warn)
    # Verify the signatures of the models, or make them. The files that are sealed below must be the signed files.
    signatures: dict[Path, bytes] = {}
    servables = [
        _servable(workspace, model, now=now, sign_model=sign_model, signatures=signatures, warn=warn)
        for model in deployment.models
    ]
    # Collect the content: the models, the server's settings, and a new TLS key that is stored nowhere else. An attested
    # server creates its TLS key itself.
    facts = drift.facts_to_seal(workspace, deployment)
    files = server_config_files(deployment)
    tls = tls_files(workspace, deployment, now=now)
    contents = ReleaseContents(
        name=deployment.model.name,
        servables=servables,
        files={**files, **tls},
        simulated=deployment.platform is PlatformKind.SIMULATED,
        created=now,
        secret_form=secret_form,
    )
    # The first release of a workspace creates the key that signs it, if `init` did not.
    owner = Owner.open(workspace)
    owner.create_index_key(replace_lost=replace_lost_key)
    signer = owner.index_signer()
    # Store the release key before it is used, because a release without its key cannot be opened.
    with owner.vault(create=True) as vault:
        created = vault.keystore.create(vault.database, now=now)
    # Seal and sign. If this fails, remove the key, which is then not needed.
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
    # Record the settings and models of the release, so that `up` and `status` can detect later changes.
    drift.remember(workspace, built.folder.name, built.id, facts)
    release_statements.remember(workspace, built, deployment.models)
    # Write the signatures last: a build that fails leaves none.
    for path, content in signatures.items():
        write_file(path, content)
    return built


def signature_of(workspace: Workspace, model: ModelSection) -> Path:
    """Return the file for the signature that `build` makes of a model: ``owner/models/NAME/VERSION.sig``."""
    return models.planned_folder(workspace, model).with_name(f"{model.version}.sig")


def _servable(
    workspace: Workspace,
    model: ModelSection,
    *,
    now: datetime,
    sign_model: Path | None,
    signatures: dict[Path, bytes],
    warn: Callable[[str], None] | None,
) -> Servable:
    """Verify the signature of a model, or make one and add it to ``signatures``."""
    folder = servable_folder(workspace, model)
    signed = model_signature.verify_model(model, folder, now=now, warn=warn)
    if sign_model is not None:
        made = model_signing.sign(folder, sign_model)
        signatures[signature_of(workspace, model)] = made.content
        signed = signed or made.signed
        compare_signed(made.signed.files, signed.files, name=f"{model.name}, version {model.version},")
    return Servable(name=model.name, version=model.version, folder=folder, signed=signed)


def _discard_key(owner: Owner, key_id: KeyId) -> None:
    """Delete the key of a release, unless the release exists: an interruption may come just after it was built."""
    if not any(key_id in (folder / INDEX_FILE).read_text() for folder in _folders(owner.workspace.owner.releases)):
        with owner.vault() as vault, vault.database.write() as connection:
            vault.keystore.discard(connection, key_id)


def any_in(parent: Path) -> bool:
    """Return whether ``parent`` contains a release."""
    return bool(_folders(parent))


def is_release(folder: Path) -> bool:
    """Return whether a folder looks like a release. Nothing is verified."""
    return (folder / INDEX_FILE).is_file() and not folder.name.startswith(".")


def newest(parent: Path) -> Path:
    """Return the newest release in ``parent``.

    Raises:
        InputError: `release.missing`: The folder does not contain a release.
    """
    folders = sorted(_folders(parent), key=lambda folder: (folder / INDEX_FILE).stat().st_mtime_ns)
    if not folders:
        raise OwnerCode.RELEASE_MISSING.error(
            f"The folder {parent} does not contain a release.",
            hint="Build a release: `sealserve release build`. On a host, fetch one: `sealserve release fetch`.",
        )
    return folders[-1]


def find(parent: Path, name: str | None) -> Path:
    """Return a release by a folder, a name in ``parent``, or the beginning of an id. None means the newest release.

    Raises:
        InputError: `release.missing`: No release matches.
        InputError: `release.ambiguous`: Several releases match.
    """
    if name is None:
        return newest(parent)
    if (Path(name) / INDEX_FILE).is_file():
        return Path(name)
    return find_in(parent, name)


def find_in(parent: Path, name: str) -> Path:
    """Return a release in ``parent`` by its name or the beginning of its id, never a folder elsewhere. See `find`."""
    folders = _folders(parent)
    fitting = [folder for folder in folders if folder.name == name]
    fitting = fitting or [folder for folder in folders if _id(folder).startswith(name)]
    if len(fitting) > 1:
        listed = ", ".join(folder.name for folder in fitting)
        raise OwnerCode.RELEASE_AMBIGUOUS.error(
            f"The release {name!r} is ambiguous: it matches {listed}.", hint="Give the full name, or more of the id."
        )
    if not fitting:
        known = ", ".join(folder.name for folder in folders) or "none"
        raise OwnerCode.RELEASE_MISSING.error(
            f"The release {name!r} does not exist in {parent}; its releases are: {known}.",
            hint="List the releases: `sealserve release list`, or on a host `sealserve release list --host`.",
        )
    return fitting[0]


def listed(workspace: Workspace, parent: Path) -> Iterator[ListedRelease | FaultyRelease]:
    """Verify the indexes of the releases in ``parent``, and yield the releases, oldest first.

    A release that does not verify is yielded as a `FaultyRelease`.

    Raises:
        InputError: `owner-key.unreadable`: The owner's public key, which verifies the indexes, cannot be read.
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
        SealserveError: The release or an enclave in its ``enclave/`` folder does not verify.
    """
    return _bundle(release.verify_release(folder, owner_key), _verify_enclaves(folder, owner_key))


def pack(workspace: Workspace, folder: Path, tar: Path, *, overwrite: bool = False) -> None:
    """Verify a release in the owner's folder with its enclaves, and write it to one tar file.

    Raises:
        SealserveError: The release does not verify, so `unpack` would reject it, or the file cannot be written.
    """
    key = Owner.open(workspace).index_signer().public_key()
    release.verify_release(folder, key)
    _verify_enclaves(folder, key)
    archive.pack(folder, tar, overwrite=overwrite)


def unpack(workspace: Workspace, tar: Path, owner_key: Ed25519PublicKey) -> VerifiedBundle:
    """Unpack a release into the host's folder. It appears there only if the release and its enclaves verify.

    Raises:
        SealserveError: The release does not verify, or the file is not a packed release.
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
    """Copy a release from the owner's folder to the host's folder of the same workspace.

    The files are not hashed again after the verification, because an enclave rejects a copy that differs. Links are not
    followed: if another user can write to the folder, a link could add other files of the owner to the copy.

    Returns:
        The folder of the release on the host. If it existed before, only its enclaves are updated.
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
    if missing:  # also if a folder was replaced by a link
        raise ReleaseFileMissingError(verified.folder, missing=sorted(missing), changed=(), extra=())


def _bundle(verified: VerifiedRelease, enclaves: Iterable[str]) -> VerifiedBundle:
    return VerifiedBundle(id=verified.id, folder=verified.folder, index=verified.index, enclaves=tuple(enclaves))


def _verify_enclaves(folder: Path, owner_key: Ed25519PublicKey) -> list[str]:
    if not os.path.lexists(folder / ENCLAVE_FOLDER):
        return []  # no enclave was built yet
    return [enclave.name for enclave in verify_enclave_index(folder, owner_key)]


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return [folder for folder in sorted(parent.iterdir()) if is_release(folder)]


def _id(folder: Path) -> str:
    return hashlib.sha256((folder / INDEX_FILE).read_bytes()).hexdigest()
