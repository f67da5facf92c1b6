"""Build a release's enclaves, and say what they are."""

import hashlib
import shutil
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sealserve.deployment import Deployment, Platform, ServerKind
from sealserve.enclave.index import EnclaveIndexReleaseError, verify_enclave_index
from sealserve.enclave.inventory import Inventory, MeasuredFile, measure
from sealserve.enclave.manifest import EnclaveManifest
from sealserve.enclave.signing import BuiltEnclave, build_enclave
from sealserve.enclave.spec import (
    PRIVATE_ROOT,
    EnclaveSpec,
    make_manifest,
    model_server,
    model_server_files,
    release_mounts,
)
from sealserve.errors import InputError
from sealserve.operations.certificates import broker_authority_pem
from sealserve.operations.owner import index_signer
from sealserve.operations.server_config import BATCHING_PARAMETERS, MODEL_CONFIG, MONITORING_CONFIG
from sealserve.sealing.release import verify_release
from sealserve.sealing.release_index import ENCLAVE_FOLDER, FILE_LIST
from sealserve.sgx.signing_key import create_signing_key, load_signing_key
from sealserve.sgx.sigstruct import Sigstruct
from sealserve.whole_folder import staging
from sealserve.workspace import Workspace

PORT_FLAG = "--port="


class InventoryServerError(InputError):
    """The inventory is of another model server than the one that is deployed."""

    code = "inventory.other-server"


_REQUESTS_PER_THREAD: Final = 4
"""As the model server's default has it, for each processor."""


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
        inventory: What it will trust where it runs. By default it runs here, and sealserve's own modules are trusted.

    Raises:
        InventoryServerError: The inventory is of another server.
        SealserveError: The release does not verify.
    """
    program, trusted_files = _trusted(deployment.server.kind, inventory)
    verified = verify_release(release, index_signer(workspace).public_key())
    server = deployment.server
    age = server.max_connection_age_seconds * 1000
    flags = (
        f"{PORT_FLAG}{port}",
        "--rest_api_port=0",
        *_config_flags(deployment, {file.path for file in verified.index.files}),
        f"--file_list={PRIVATE_ROOT}/{FILE_LIST}",
        "--ssl_config_file=/release/tls/ssl.cfg",
        "--file_system_poll_wait_seconds=0",
        *(["--bind_address=127.0.0.1"] if deployment.target.kind == "local" else []),  # only NGINX reaches it
        "--empty_files_after_load",
        f"--grpc_max_threads={_REQUESTS_PER_THREAD * server.threads}",  # else the host's processors would decide
        f"--tensorflow_intra_op_parallelism={server.threads}",
        f"--tensorflow_inter_op_parallelism={server.threads}",
        f"--grpc_channel_arguments=grpc.max_connection_age_ms={age}",
    )
    return EnclaveSpec(
        name=name,
        release_id=verified.id,
        argv=model_server(flags, interpreter=program),
        broker=(deployment.broker.address, deployment.broker.port),
        mounts=release_mounts(release),
        trusted_files=trusted_files,
        threads=server.threads,
        simulated=deployment.platform is Platform.SIMULATED,
    )


def _trusted(server: ServerKind, inventory: Inventory | None) -> tuple[Path, tuple[MeasuredFile, ...]]:
    if inventory is None:
        files = model_server_files()
        return files[0], measure(map(str, files))
    if inventory.server is not server:
        raise InventoryServerError(
            f"The inventory is of the server {inventory.server.value!r}, and sealserve.toml has {server.value!r}.",
            hint="Take the other server's inventory, or change server.kind.",
        )
    return Path(inventory.program), inventory.files


def _config_flags(deployment: Deployment, files: Collection[str]) -> Iterator[str]:
    """Yield the flags for the model server's configuration files, which the release holds."""
    yield f"--model_config_file={PRIVATE_ROOT}/{MODEL_CONFIG}"
    if any(model.labels for model in deployment.models):
        yield "--allow_version_labels_for_unavailable_models=true"  # at the start no version is available yet
    if BATCHING_PARAMETERS in files:
        yield "--enable_batching=true"
        yield f"--batching_parameters_file={PRIVATE_ROOT}/{BATCHING_PARAMETERS}"
    if MONITORING_CONFIG in files:
        yield f"--monitoring_config_file={PRIVATE_ROOT}/{MONITORING_CONFIG}"


def manifest_text(workspace: Workspace, spec: EnclaveSpec) -> bytes:
    """Return the manifest that `build` would sign."""
    digest = hashlib.sha256(broker_authority_pem(workspace)).hexdigest()
    return make_manifest(spec, broker_ca_sha256=digest).to_bytes()


def build(workspace: Workspace, release: Path, spec: EnclaveSpec, *, now: datetime) -> BuiltEnclave:
    """Write the enclave's manifest and SIGSTRUCT into the release's ``enclave/`` folder.

    The enclave signing key is made on first use, and stays with the owner.
    """
    path = workspace.owner.enclave_signing_key
    key = load_signing_key(path) if path.exists() else create_signing_key(path)
    return build_enclave(
        release,
        spec,
        broker_ca=broker_authority_pem(workspace),
        signing_key=key,
        index_signer=index_signer(workspace),
        signed_on=now.date(),
    )


def verified_sigstructs(release: Path, release_id: str, owner_key: Ed25519PublicKey) -> Mapping[str, Sigstruct]:
    """Return the SIGSTRUCT of each enclave that the owner built for a release, by name.

    Raises:
        SealserveError: The index, an enclave, or what they say of the release does not verify.
    """
    built = verify_enclave_index(release, owner_key)
    for enclave in built:
        if enclave.release_id != release_id:
            raise EnclaveIndexReleaseError(f"The enclave {enclave.name!r} opens another release than {release.name}.")
    return {enclave.name: enclave.verified_sigstruct for enclave in built}  # never read again: they could be others


def names(release: Path) -> list[str]:
    """Return the names of a release's enclaves, in order. Nothing is verified."""
    suffix = ".manifest.sgx"
    return sorted(path.name.removesuffix(suffix) for path in (release / ENCLAVE_FOLDER).glob(f"*{suffix}"))


def port_of(manifest: EnclaveManifest) -> int:
    """Return the port that an enclave's server listens on, from its measured arguments."""
    return int(next(flag.removeprefix(PORT_FLAG) for flag in manifest.loader.argv if flag.startswith(PORT_FLAG)))


def ship(built: Path, shipped: Path) -> None:
    """Replace the ``enclave/`` folder of a shipped release by what the owner built since.

    Args:
        built: The release at the owner's.
        shipped: The same release at the host's.
    """
    with staging(shipped, ENCLAVE_FOLDER) as stage:
        shutil.copytree(built / ENCLAVE_FOLDER, stage.folder, dirs_exist_ok=True)
        stage.replace(shipped / ENCLAVE_FOLDER)
