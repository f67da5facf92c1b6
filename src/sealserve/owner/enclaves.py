"""Build a release's enclaves, and say what they are."""

import hashlib
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sealserve.broker.keystore import KeyId
from sealserve.deployment import Deployment
from sealserve.enclave.findings import Danger
from sealserve.enclave.gramine_tools import find_tools
from sealserve.enclave.image_root import ImageRoot
from sealserve.enclave.index import EnclaveIndexReleaseError, remove_enclave, verify_enclave_index
from sealserve.enclave.inventory import Inventory, MeasuredFile, measure, take_inventory
from sealserve.enclave.manifest import EnclaveManifest
from sealserve.enclave.measurement import SignedEnclave
from sealserve.enclave.server_command import PORT_FLAG, PRIVATE_ROOT, command, threads_of
from sealserve.enclave.server_files import GRAMINE_FOLDER, PROGRAMS
from sealserve.enclave.signing import BuiltEnclave, build_enclave
from sealserve.enclave.sizing import EnclaveSize, size_enclave
from sealserve.enclave.spec import EnclaveSpec, make_manifest, model_server_files, release_mounts
from sealserve.errors import InputError
from sealserve.owner.certificates import broker_authority_pem
from sealserve.owner.keys import read_owner_key
from sealserve.owner.owner import Owner
from sealserve.owner.server_config import BATCHING_PARAMETERS, MODEL_CONFIG, MONITORING_CONFIG, SESSION_CONFIG
from sealserve.pki.ssl_config import parse as parse_ssl_config
from sealserve.sealing.codec import unseal_bytes
from sealserve.sealing.release import VerifiedRelease, verify_release
from sealserve.sealing.release_index import ENCLAVE_FOLDER, INDEX_FILE, MODELS_FOLDER, parse_index
from sealserve.sgx.signing_key import load_signing_key
from sealserve.sgx.sigstruct import Sigstruct
from sealserve.terms import PlatformKind, ServerKind
from sealserve.whole_folder import staging
from sealserve.workspace import Workspace

_MONITORING_ABOVE: Final = 1000
_LAST_PORT: Final = 65535


class InventoryServerError(InputError):
    """The inventory is of another model server than the one that is deployed."""

    code = "inventory.other-server"


class EnclavePortError(InputError):
    """The manifest of an enclave does not say on which port its server listens."""

    code = "enclave.port"


class EnclaveNotForSgxError(InputError):
    """An enclave for the simulated platform does not start on SGX."""

    code = "enclave.not-for-sgx"


class ReleasePlatformError(InputError):
    """The release was built for another platform than the deployment's."""

    code = "enclave.release-platform"


def specify(
    workspace: Workspace,
    deployment: Deployment,
    release: Path,
    *,
    name: str,
    port: int,
    inventory: Inventory | None = None,
) -> EnclaveSpec:
    """Return what the enclave ``name`` of a release is made of: the model server with its measured arguments.

    Args:
        workspace: The owner's.
        deployment: What it describes.
        release: The release's folder.
        name: Of the enclave.
        port: Where its server listens; measured like every argument.
        inventory: What it will trust where it runs. By default it runs here: on the simulated platform with sealserve's
            own modules, on SGX with all that the server may open.

    Raises:
        InventoryServerError: The inventory is of another server.
        ReleasePlatformError: The release is marked as simulated and the deployment is not, or the other way round.
        SealserveError: The release does not verify, or this machine lacks the server.
    """
    simulated = deployment.platform is PlatformKind.SIMULATED
    verified = verify_release(release, Owner.open(workspace).index_signer().public_key())
    if verified.index.simulated is not simulated:
        built_for = PlatformKind.SIMULATED if verified.index.simulated else PlatformKind.SGX
        raise ReleasePlatformError(
            f"{release} is for the platform {built_for.value!r}, and sealserve.toml has {deployment.platform.value!r}.",
            hint="Build a release for this platform: `sealserve release build`.",
        )
    if inventory is None and (not simulated or deployment.server.kind is ServerKind.TENSORFLOW_SERVING):
        inventory = inventory_here(deployment.server.kind)
    trusted = _own_modules() if inventory is None else inventory.files
    if inventory is not None and inventory.server is not deployment.server.kind:
        raise InventoryServerError(
            f"The inventory is of the server {inventory.server.value!r}, and sealserve.toml has "
            f"{deployment.server.kind.value!r}.",
            hint="Take the other server's inventory, or change server.kind.",
        )
    return EnclaveSpec(
        name=name,
        release_id=verified.id,
        argv=command(
            deployment,
            program=sys.executable if inventory is None else inventory.program,
            port=port,
            bytecode=not simulated,
            files_in_memory=inventory is None or inventory.gramine is None,
            configuration=_config_flags(deployment, {file.path for file in verified.index.files}, port=port),
        ),
        broker=(deployment.broker.address, deployment.broker.port),
        mounts=release_mounts(release),
        trusted_files=trusted,
        gramine=None if inventory is None else inventory.gramine,
        threads=deployment.server.threads,
        max_threads=threads_of(deployment).all,
        enclave_size=explain_size(deployment, verified, inventory).size,
        edmm=deployment.enclave.edmm,
        isv_prod_id=deployment.enclave.isv_prod_id,
        isv_svn=deployment.enclave.isv_svn,
        simulated=simulated,
    )


def explain_size(deployment: Deployment, release: VerifiedRelease, inventory: Inventory | None) -> EnclaveSize:
    """Return how large the enclave of a release is, and why."""
    program = 0 if inventory is None else next(f.size for f in inventory.files if f.path == inventory.program)
    return size_enclave(
        deployment.server.kind,
        model=sum(file.size for file in release.index.files if file.path.startswith(f"{MODELS_FOLDER}/")),
        threads=threads_of(deployment).all,
        program=program,
        edmm=deployment.enclave.edmm,
        wanted=deployment.enclave.size_in_bytes,
    )


def inventory_here(server: ServerKind) -> Inventory:
    """Return the inventory of a server on this machine."""
    program = sys.executable if server is ServerKind.EMBEDDED else PROGRAMS[server]
    return take_inventory(ImageRoot(Path("/")), server, program=program, gramine=GRAMINE_FOLDER)


def _own_modules() -> tuple[MeasuredFile, ...]:
    return measure(map(str, model_server_files()))


def _config_flags(deployment: Deployment, files: Collection[str], *, port: int) -> Iterator[str]:
    """Yield the flags for the model server's configuration files, which the release holds."""
    yield f"--model_config_file={PRIVATE_ROOT}/{MODEL_CONFIG}"
    if any(model.labels for model in deployment.models):
        yield "--allow_version_labels_for_unavailable_models=true"  # at the start no version is available yet
    if BATCHING_PARAMETERS in files:
        yield "--enable_batching=true"
        yield f"--batching_parameters_file={PRIVATE_ROOT}/{BATCHING_PARAMETERS}"
    if SESSION_CONFIG in files:
        yield f"--tensorflow_session_config_file={PRIVATE_ROOT}/{SESSION_CONFIG}"
    if MONITORING_CONFIG in files:
        yield f"--monitoring_config_file={PRIVATE_ROOT}/{MONITORING_CONFIG}"
        if deployment.server.kind is ServerKind.EMBEDDED:  # TensorFlow Serving's binary has it on its REST port only
            yield f"--monitoring_port={monitoring_port(port)}"


def monitoring_port(port: int) -> int:
    """Return where a server whose gRPC port is ``port`` has its page of metrics: a thousand above, or below."""
    above = port + _MONITORING_ABOVE
    return above if above <= _LAST_PORT else port - _MONITORING_ABOVE


def manifest_text(workspace: Workspace, spec: EnclaveSpec) -> bytes:
    """Return the manifest that `build` would sign."""
    digest = hashlib.sha256(broker_authority_pem(workspace)).hexdigest()
    return make_manifest(spec, broker_ca_sha256=digest).to_bytes()


def build(
    workspace: Workspace,
    release: Path,
    spec: EnclaveSpec,
    *,
    now: datetime,
    signing_key: Path | None = None,
    libpal: Path | None = None,
    manifest: bytes | None = None,
    dangerous: Collection[Danger] = (),
) -> BuiltEnclave:
    """Write the enclave's manifest and SIGSTRUCT into the release's ``enclave/`` folder.

    Args:
        workspace: The owner's.
        release: The release's folder.
        spec: What the enclave is made of.
        now: The time; its date goes into the SIGSTRUCT.
        signing_key: The enclave signing key; by default the workspace's, which is made on first use, and stays there.
        libpal: For SGX, the ``libpal.so`` that will be loaded where it runs; by default the one of Gramine here.
        manifest: A manifest of the owner's own making, in place of the specification's.
        dangerous: The classes of insecure settings that are allowed in the manifest.

    Raises:
        IdentityLostError: The enclave signing key is missing, and there are enclaves that it signed.
    """
    owner = Owner.open(workspace)
    key = load_signing_key(signing_key or owner.create_enclave_key())
    return build_enclave(
        release,
        spec,
        broker_ca=broker_authority_pem(workspace),
        signing_key=key,
        index_signer=owner.index_signer(),
        signed_on=now.date(),
        gramine=None if spec.simulated else find_tools(libpal=libpal),
        manifest=manifest,
        dangerous=dangerous,
        one_way_tls=not _clients_show_certificates(workspace, release),
    )


def remove(workspace: Workspace, release: Path, *, name: str) -> None:
    """Remove an enclave from a release of the owner's. The broker keeps the measurements that it was given.

    Raises:
        SealserveError: What `remove_enclave` raises.
    """
    remove_enclave(release, name, Owner.open(workspace).index_signer())


def _clients_show_certificates(workspace: Workspace, release: Path) -> bool:
    """Return whether the sealed TLS settings of a release say so; ``sealserve.toml`` may have changed since."""
    sealed = "tls/ssl.cfg"
    key_id = KeyId(parse_index((release / INDEX_FILE).read_bytes()).key_id)
    with Owner.open(workspace).vault() as vault, vault.database.read() as connection:
        key = vault.keystore.load(connection, key_id)
    with key, unseal_bytes(release / sealed, key=key, embedded_path=sealed, follow_links=False) as content:
        return parse_ssl_config(content).client_verify


def verified_sigstructs(
    release: Path, release_id: str, owner_key: Ed25519PublicKey, *, dangerous: Collection[Danger] = ()
) -> Mapping[str, Sigstruct]:
    """Return the SIGSTRUCT of each enclave that the owner built for a release, by name.

    Raises:
        SealserveError: The index, an enclave, or what they say of the release does not verify.
    """
    built = verify_enclave_index(release, owner_key, dangerous=dangerous)
    for enclave in built:
        if enclave.release_id != release_id:
            raise EnclaveIndexReleaseError(f"The enclave {enclave.name!r} opens another release than {release.name}.")
    return {enclave.name: enclave.verified_sigstruct for enclave in built}  # never read again: they could be others


def verify_bundle(folder: Path, owner_key: Path, *, dangerous: Collection[Danger] = ()) -> None:
    """Verify a release and its enclaves, as they were shipped. No secret is needed.

    Raises:
        SealserveError: The signature, a file, an enclave or what it is made of does not verify.
    """
    key = read_owner_key(owner_key)
    verify_release(folder, key)
    verify_enclave_index(folder, key, dangerous=dangerous)


def check_for_sgx(enclave: SignedEnclave) -> None:
    """Make sure that an enclave was built for SGX.

    Raises:
        EnclaveNotForSgxError: It was built for the simulated platform.
    """
    if enclave.manifest.loader.env["SEALSERVE_PLATFORM"] != PlatformKind.SGX:
        raise EnclaveNotForSgxError(
            f"The enclave {enclave.name!r} was built for the simulated platform.",
            hint='Build release and enclave with `platform = "sgx"`.',
        )


def names(release: Path) -> list[str]:
    """Return the names of a release's enclaves, in order. Nothing is verified."""
    suffix = ".manifest.sgx"
    return sorted(path.name.removesuffix(suffix) for path in (release / ENCLAVE_FOLDER).glob(f"*{suffix}"))


def port_of(manifest: EnclaveManifest) -> int:
    """Return the port that an enclave's server listens on, from its measured arguments; the last flag counts.

    Raises:
        EnclavePortError: There is none: the manifest is the owner's own.
    """
    given = [flag.removeprefix(PORT_FLAG) for flag in manifest.loader.argv if flag.startswith(PORT_FLAG)]
    if not given or not given[-1].isascii() or not given[-1].isdigit():
        raise EnclavePortError(
            f"The enclave's arguments have no {PORT_FLAG}NUMBER, so that nothing knows where it listens.",
            hint=f"Give {PORT_FLAG}NUMBER in loader.argv, as `sealserve enclave manifest` prints it.",
        )
    return int(given[-1])


def ship(built: Path, shipped: Path) -> None:
    """Replace the ``enclave/`` folder of a shipped release by what the owner built since.

    Args:
        built: The release at the owner's.
        shipped: The same release at the host's.
    """
    if not (built / ENCLAVE_FOLDER).is_dir():  # all were removed, or none was built yet
        shutil.rmtree(shipped / ENCLAVE_FOLDER, ignore_errors=True)
        return
    with staging(shipped, ENCLAVE_FOLDER) as stage:
        shutil.copytree(built / ENCLAVE_FOLDER, stage.folder, dirs_exist_ok=True)
        stage.replace(shipped / ENCLAVE_FOLDER)
