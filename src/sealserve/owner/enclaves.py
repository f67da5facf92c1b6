"""Specify, build, verify and ship the enclaves of a release."""

import hashlib
import shutil
import stat
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sealserve.broker.keystore import KeyId
from sealserve.deployment import Deployment
from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.findings import Danger
from sealserve.enclave.gramine_tools import INSTALLATION, find_tools
from sealserve.enclave.image_root import ImageRoot
from sealserve.enclave.index import remove_enclave, verify_enclave_index
from sealserve.enclave.inventory import Inventory, MeasuredFile, measure, take_inventory
from sealserve.enclave.manifest import EnclaveManifest
from sealserve.enclave.server_command import PRIVATE_ROOT, command, threads_of
from sealserve.enclave.server_files import GRAMINE_FOLDER, PROGRAMS
from sealserve.enclave.signing import BuiltEnclave, build_enclave
from sealserve.enclave.sizing import EnclaveSize, size_enclave
from sealserve.enclave.spec import EnclaveSpec, make_manifest, model_server_files, release_mounts
from sealserve.held_tree import held_tree
from sealserve.owner.certificates import broker_authority_pem
from sealserve.owner.codes import OwnerCode
from sealserve.owner.keys import read_owner_key
from sealserve.owner.owner import Owner
from sealserve.owner.release_facts import contains_tls_key
from sealserve.owner.server_config import (
    BATCHING_PARAMETERS,
    MODEL_CONFIG,
    MONITORING_CONFIG,
    SESSION_CONFIG,
    TRACES_CA,
)
from sealserve.pki.client_settings import CLIENT_SETTINGS_PATH, parse_client_settings
from sealserve.pki.ssl_config import SSL_CONFIG_PATH
from sealserve.pki.ssl_config import parse as parse_ssl_config
from sealserve.sealing.codec import unseal_bytes
from sealserve.sealing.release import VerifiedRelease, verify_release
from sealserve.sealing.release_index import ENCLAVE_FOLDER, INDEX_FILE, MODELS_FOLDER, parse_index
from sealserve.serving_flags import argument
from sealserve.serving_interface import OPTIMIZATION_FILE
from sealserve.sgx.signing_key import load_signing_key
from sealserve.sgx.sigstruct import Sigstruct
from sealserve.tcp_ports import LARGEST_PORT
from sealserve.terms import PlatformKind, RuntimeKind, ServerKind
from sealserve.whole_folder import staging
from sealserve.workspace import Workspace

_MONITORING_ABOVE: Final = 1000


def specify(
    workspace: Workspace,
    deployment: Deployment,
    release: Path,
    *,
    name: str,
    port: int,
    inventory: Inventory | None = None,
) -> EnclaveSpec:
    """Verify a release, and return the specification of its enclave ``name``; see `specify_all`.

    Raises:
        SealserveError: The release does not verify, or `specify_all` raises an error.
    """
    verified = verify_release(release, Owner.open(workspace).index_signer().public_key())
    (spec,) = specify_all(deployment, verified, {name: port}, inventory=inventory)
    return spec


def specify_all(
    deployment: Deployment, verified: VerifiedRelease, ports: Mapping[str, int], *, inventory: Inventory | None = None
) -> Sequence[EnclaveSpec]:
    """Return the specifications of enclaves of a release: the model server with its measured arguments.

    Args:
        deployment: The deployment that ``sealserve.toml`` describes.
        verified: The verified release.
        ports: Name of each enclave, and the port of its server. The port is measured like every argument.
        inventory: The files that the enclaves will trust on their host. None means that they run on this machine. On
            the simulated platform, they then trust sealserve's own modules; in Gramine, all files that the server may
            open.

    Raises:
        InputError: `inventory.other-server`: The inventory describes another server.
        InputError: `enclave.without-gramine`: The platform is gramine-direct, and Gramine is not in the inventory.
        InputError: `enclave.release-platform`: Only one of the release and the deployment is simulated.
        SealserveError: The server is not installed on this machine.
    """
    simulated = deployment.platform is PlatformKind.SIMULATED
    if verified.index.simulated is not simulated:
        built_for = PlatformKind.SIMULATED if verified.index.simulated else PlatformKind.SGX
        raise OwnerCode.ENCLAVE_RELEASE_PLATFORM.error(
            f"The release {verified.folder} is for another platform: expected {deployment.runtime.value!r} as in "
            f"sealserve.toml, got {built_for.value!r}.",
            hint="Build a release for this platform: `sealserve release build`.",
        )
    in_gramine = deployment.runtime is not RuntimeKind.SIMULATED
    if inventory is None and (in_gramine or deployment.server.kind is ServerKind.TENSORFLOW_SERVING):
        inventory = inventory_here(deployment.server.kind)
    if deployment.runtime is RuntimeKind.GRAMINE_DIRECT and (inventory is None or inventory.gramine is None):
        raise EnclaveCode.WITHOUT_GRAMINE.error(
            f"The enclaves cannot run in gramine-direct: the inventory does not contain Gramine ({GRAMINE_FOLDER}).",
            hint=f"Install Gramine 1.9 where the enclaves run ({INSTALLATION}), or set platform = 'simulated'.",
        )
    trusted = _own_modules() if inventory is None else inventory.files
    if inventory is not None and inventory.server is not deployment.server.kind:
        raise OwnerCode.INVENTORY_OTHER_SERVER.error(
            f"The inventory describes another model server: expected {deployment.server.kind.value!r} as in "
            f"sealserve.toml, got {inventory.server.value!r}.",
            hint="Use an inventory of this server (`sealserve enclave inventory --server ...`), or change server.kind.",
        )
    files = {file.path for file in verified.index.files}
    # The release decides who creates the TLS key, because ``sealserve.toml`` may have changed since it was built.
    server = deployment.server.model_copy(update={"dangerous_owner_tls_key": contains_tls_key(verified.index)})
    deployment = deployment.model_copy(update={"server": server})
    return [
        EnclaveSpec(
            name=name,
            release_id=verified.id,
            argv=command(
                deployment,
                program=sys.executable if inventory is None else inventory.program,
                port=port,
                bytecode=not simulated,
                files_in_memory=inventory is None or inventory.gramine is None,
                configuration=_config_flags(deployment, files, port=port),
            ),
            broker=(deployment.broker.address, deployment.broker.port),
            mounts=release_mounts(verified.folder),
            trusted_files=trusted,
            gramine=None if inventory is None else inventory.gramine,
            threads=deployment.server.threads,
            max_threads=threads_of(deployment).all,
            enclave_size=explain_size(deployment, verified, inventory).size,
            edmm=deployment.enclave.edmm,
            required_cpu_features=deployment.enclave.required_cpu_features,
            isv_prod_id=deployment.enclave.isv_prod_id,
            isv_svn=deployment.enclave.isv_svn,
            simulated=simulated,
            attests=deployment.server.attested,
        )
        for name, port in ports.items()
    ]


def explain_size(deployment: Deployment, release: VerifiedRelease, inventory: Inventory | None) -> EnclaveSize:
    """Return the size of a release's enclave, with the reason for each part of it."""
    program = 0 if inventory is None else next(f.size for f in inventory.files if f.path == inventory.program)
    models = {file.path: file.size for file in release.index.files if file.path.startswith(f"{MODELS_FOLDER}/")}
    optimized = tuple(path.removesuffix(OPTIMIZATION_FILE) for path in models if path.endswith(f"/{OPTIMIZATION_FILE}"))
    return size_enclave(
        deployment.server.kind,
        model=sum(models.values()),
        optimized=sum(size for path, size in models.items() if path.startswith(optimized)),
        threads=threads_of(deployment).all,
        program=program,
        rest=deployment.server.rest,
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
    """Yield the flags for the model server's configuration files in the release."""
    yield argument("model_config_file", f"{PRIVATE_ROOT}/{MODEL_CONFIG}")
    if any(model.labels for model in deployment.models):
        yield argument("allow_version_labels_for_unavailable_models", True)  # versions are not available at the start
    if BATCHING_PARAMETERS in files:
        yield argument("enable_batching", True)
        yield argument("batching_parameters_file", f"{PRIVATE_ROOT}/{BATCHING_PARAMETERS}")
        if deployment.server.attested and deployment.server.dangerous_shared_batches:
            yield argument("dangerous_shared_batches", True)
    if SESSION_CONFIG in files:
        yield argument("tensorflow_session_config_file", f"{PRIVATE_ROOT}/{SESSION_CONFIG}")
    collector = deployment.server.traces.collector
    if TRACES_CA in files and collector is not None and collector.tls:
        yield argument("traces_ca_file", f"{PRIVATE_ROOT}/{TRACES_CA}")
    if MONITORING_CONFIG in files:
        yield argument("monitoring_config_file", f"{PRIVATE_ROOT}/{MONITORING_CONFIG}")
        if deployment.server.kind is ServerKind.EMBEDDED:  # TensorFlow Serving's binary uses its REST port instead
            yield argument("monitoring_port", monitoring_port(port))


def monitoring_port(port: int) -> int:
    """Return the metrics port of a server with the gRPC port ``port``: 1000 above it, or below if that is too high."""
    above = port + _MONITORING_ABOVE
    return above if above <= LARGEST_PORT else port - _MONITORING_ABOVE


def specified_manifest(workspace: Workspace, spec: EnclaveSpec) -> EnclaveManifest:
    """Return the manifest for a specification, which `build` would sign."""
    digest = hashlib.sha256(broker_authority_pem(workspace)).hexdigest()
    return make_manifest(spec, broker_ca_sha256=digest)


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
        workspace: The owner's workspace.
        release: The release's folder.
        spec: The specification of the enclave.
        now: The current time; its date is part of the SIGSTRUCT.
        signing_key: File of the enclave signing key. None means the workspace's key, which is created on first use.
        libpal: For SGX, the ``libpal.so`` of Gramine on the host. None means the one of this machine's Gramine.
        manifest: The owner's own manifest, used instead of the manifest for the specification.
        dangerous: Classes of insecure settings that are allowed in the manifest.

    Raises:
        IdentityLostError: The enclave signing key is missing, but enclaves that it signed exist.
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
    """Remove an enclave from a release in the owner's folder. Its measurement stays registered with the broker.

    Raises:
        SealserveError: As `remove_enclave`.
    """
    remove_enclave(release, name, Owner.open(workspace).index_signer())


def _clients_show_certificates(workspace: Workspace, release: Path) -> bool:
    """Return whether a release requires client certificates.

    The sealed TLS settings decide, because ``sealserve.toml`` may have changed since the release was built.
    """
    index = parse_index((release / INDEX_FILE).read_bytes())
    sealed = {file.path for file in index.files} & {SSL_CONFIG_PATH, CLIENT_SETTINGS_PATH}
    if not sealed:
        return False  # a release for attested serving with one-way TLS has no TLS settings
    path, key_id = min(sealed), KeyId(index.key_id)
    with Owner.open(workspace).vault() as vault, vault.database.read() as connection:
        key = vault.keystore.load(connection, key_id)
    with (
        key,
        unseal_bytes(release / path, key=key, embedded_path=path, follow_links=False) as content,
    ):
        if path == SSL_CONFIG_PATH:
            return parse_ssl_config(content).client_verify
        return parse_client_settings(content.reveal()).client_verify


def verified_sigstructs(
    release: Path, release_id: str, owner_key: Ed25519PublicKey, *, dangerous: Collection[Danger] = ()
) -> Mapping[str, Sigstruct]:
    """Return the SIGSTRUCT of each enclave that the owner built for a release, by name.

    Raises:
        SealserveError: The index or an enclave does not verify, or belongs to another release.
    """
    built = verify_enclave_index(release, owner_key, dangerous=dangerous)
    for enclave in built:
        if enclave.release_id != release_id:
            raise EnclaveCode.ENCLAVE_INDEX_RELEASE.error(
                f"The enclave {enclave.name!r} belongs to another release: expected the id of {release.name}, got "
                f"{enclave.release_id}.",
                hint="Build the enclave again: `sealserve enclave build`.",
            )
    # Return the verified SIGSTRUCTs. Reading the files a second time could return other content.
    return {enclave.name: enclave.verified_sigstruct for enclave in built}


def verify_bundle(folder: Path, owner_key: Path, *, dangerous: Collection[Danger] = ()) -> None:
    """Verify a shipped release and its enclaves. This does not need any secret.

    Raises:
        SealserveError: The signature, a file, an enclave or its manifest does not verify.
    """
    key = read_owner_key(owner_key)
    verify_release(folder, key)
    verify_enclave_index(folder, key, dangerous=dangerous)


def ship(built: Path, shipped: Path) -> None:
    """Replace the ``enclave/`` folder of a shipped release by the owner's current folder. Links are not followed.

    Args:
        built: The release in the owner's folder.
        shipped: The same release in the host's folder.

    Raises:
        InputFileKindError: The folder contains something other than regular files.
    """
    if not (built / ENCLAVE_FOLDER).is_dir():  # all enclaves were removed, or none was built yet
        shutil.rmtree(shipped / ENCLAVE_FOLDER, ignore_errors=True)
        return
    with staging(shipped, ENCLAVE_FOLDER) as stage:
        for found in held_tree(built / ENCLAVE_FOLDER):
            if found.path.parent == built and found.is_folder:
                continue
            copy = stage.folder / found.path.name  # the folder is flat, because the index lists only file names
            found.copy(copy)
            copy.chmod(stat.S_IMODE(found.status.st_mode) & 0o777)
        stage.replace(shipped / ENCLAVE_FOLDER)
