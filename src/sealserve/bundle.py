"""The data exchanged by the owner and the target: a `Destination` to the owner, a `Bundle` to the target.

A target describes the `Destination` of a release. The owner prepares the release for it and returns a `Bundle`. Neither
value contains code of the other side. Therefore targets need no access to the owner's keys.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sealserve.deployment import Deployment
from sealserve.enclave.launch.broker_addresses import broker_addresses
from sealserve.enclave.manifest import EnclaveManifest
from sealserve.enclave.measurement import connection_age_of, load_enclave, port_of, rest_port_of
from sealserve.pki.client_settings import CLIENT_SETTINGS_PATH
from sealserve.sealing.release_index import INDEX_FILE, ReleaseIndex, parse_index


class BrokerPlace(StrEnum):
    """The location of the owner's broker. It determines which of the owner's files the target needs."""

    PROCESS = "process"
    """A process in the owner's workspace, which reads the workspace directly."""
    CONTAINER = "container"
    """A container on this machine, which mounts the files that it reads."""
    CLUSTER = "cluster"
    """A pod with a copy of the files that it reads. For trials only, because the cluster then has the owner's keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclavePlace:
    """An enclave that a destination requires.

    Args:
        name: The enclave's name.
        port: The port of the enclave's server. The port is measured.
        in_use: Whether the enclave is running. An existing enclave of this name must then not be changed.
    """

    name: str
    port: int
    in_use: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """The place where a release is to run.

    Args:
        deployment: The deployment as the destination sees it. For example, the broker has another host name in
            containers.
        enclaves: The required enclaves.
        in_image: Whether enclaves trust the files of the server image instead of this machine's files.
        inventory: A file that lists the content of the image. `None` means that the image is measured on this machine.
        on_this_machine: Whether the host reads the release from the host folder of this workspace.
        store: The folder of packed releases that hosts download. `None` means no store.
        broker: The location of the owner's broker.
    """

    deployment: Deployment
    enclaves: tuple[EnclavePlace, ...]
    in_image: bool = False
    inventory: Path | None = None
    on_this_machine: bool = True
    store: Path | None = None
    broker: BrokerPlace = BrokerPlace.PROCESS


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveFacts:
    """The host's information about an enclave. All values except the manifest's digest are measured.

    Args:
        name: The enclave's name.
        port: The gRPC port of the enclave's server.
        broker: The name and port of the broker that the enclave connects to.
        memory: The enclave size in bytes.
        manifest: SHA-256 of the manifest, in hexadecimal.
        rest_port: The REST port of the enclave's server. `None` if REST is off.
        connection_age: The time in seconds after which the server drains a connection. `None` if it is unknown.
    """

    name: str
    port: int
    broker: tuple[str, int]
    memory: int
    manifest: str
    rest_port: int | None = None
    connection_age: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnersBroker:
    """The information about the owner's broker for a target that starts it.

    Args:
        needs_passphrase: Whether the master key file is encrypted with a passphrase.
        files: For a broker in the cluster, the files that it reads, by their path in the workspace. They include the
            owner's keys.
    """

    needs_passphrase: bool = False
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A release that is ready to run at its destination.

    Args:
        folder: The release's folder.
        size: The total size of the sealed files in bytes.
        enclaves: The release's enclaves, ordered by name.
        broker: The owner's broker. `None` if it runs on another machine and this machine must not start it.
        client_certificates: Whether users need a client certificate, as far as the index shows it. With
            ``server.dangerous_owner_tls_key``, it is part of the sealed TLS settings.
    """

    folder: Path
    size: int
    enclaves: tuple[EnclaveFacts, ...]
    broker: OwnersBroker | None = None
    client_certificates: bool = False

    @property
    def name(self) -> str:
        """The release's name, which is the name of its folder."""
        return self.folder.name

    def enclave(self, name: str) -> EnclaveFacts | None:
        """Return the enclave with this name, or `None`."""
        return next((enclave for enclave in self.enclaves if enclave.name == name), None)


def read_bundle(folder: Path, names: Iterable[str], *, broker: OwnersBroker | None = None) -> Bundle:
    """Read the bundle from a release's folder. The release is not verified here, because its enclaves verify it.

    Args:
        folder: The release's folder.
        names: The names of the enclaves that the destination requires.
        broker: The owner's broker, if this machine starts it.

    Raises:
        SealserveError: The index or an enclave is damaged.
    """
    index = parse_index((folder / INDEX_FILE).read_bytes(), name=str(folder / INDEX_FILE))
    loaded = [load_enclave(folder, name) for name in sorted(names)]
    return Bundle(
        folder=folder,
        size=sum(file.size for file in index.files),
        enclaves=tuple(describe_enclave(item.name, item.manifest, item.manifest_bytes) for item in loaded),
        broker=broker,
        client_certificates=shows_client_certificates(index),
    )


def shows_client_certificates(index: ReleaseIndex) -> bool:
    """Return whether a release has settings for client certificates, which it has only for two-way TLS."""
    return any(file.path == CLIENT_SETTINGS_PATH for file in index.files)


def describe_enclave(name: str, manifest: EnclaveManifest, content: bytes) -> EnclaveFacts:
    """Return the host's information about an enclave.

    Args:
        name: The enclave's name.
        manifest: The parsed manifest.
        content: The exact bytes of the manifest.
    """
    return EnclaveFacts(
        name=name,
        port=port_of(manifest),
        rest_port=rest_port_of(manifest),
        connection_age=connection_age_of(manifest),
        broker=broker_addresses(manifest.loader.env["SECRET_PROVISION_SERVERS"])[0],
        memory=manifest.enclave_size,
        manifest=hashlib.sha256(content).hexdigest(),
    )
