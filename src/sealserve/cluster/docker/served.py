"""The release that the containers serve, and the deployment from the containers' point of view."""

from dataclasses import dataclass
from pathlib import Path

from sealserve.bundle import Bundle
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.container_layout import ENCLAVE
from sealserve.deployment import Deployment
from sealserve.terms import TargetKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A release on the host, and its enclave that every replica runs.

    Args:
        folder: The release's folder.
        enclave: The enclave's name.
        port: The port of its server for gRPC; measured.
        rest_port: The port for REST, or None if REST is off; measured.
        broker: Name and port of the broker that it connects to; measured.
        size: Total size of its sealed files, in bytes.
        manifest: The digest of its manifest.
        connection_age: Age in seconds at which its server drains a connection, or None if unknown; measured.
    """

    folder: Path
    enclave: str
    port: int
    rest_port: int | None = None
    broker: tuple[str, int]
    size: int
    manifest: str
    connection_age: int | None = None


def served_of(bundle: Bundle) -> Served:
    """Return the served release: with its enclave for containers, or else the only enclave that the host has."""
    enclave = bundle.enclave(ENCLAVE) or next(iter(bundle.enclaves), None)
    if enclave is None:
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"The release {bundle.name} has no enclave.",
            hint=f"On the owner's machine, run `sealserve enclave build --name {ENCLAVE} --inventory FILE`, and ship "
            "the release again.",
        )
    if _is_address(enclave.broker[0]):
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"The enclave connects to the broker at the IP address {enclave.broker[0]}; containers require a DNS name.",
            hint="On the owner's machine, set broker.address to a DNS name, and build the enclave again.",
        )
    return Served(
        folder=bundle.folder.resolve(),
        enclave=enclave.name,
        port=enclave.port,
        rest_port=enclave.rest_port,
        broker=enclave.broker,
        size=bundle.size,
        manifest=enclave.manifest,
        connection_age=enclave.connection_age,
    )


def for_containers(described: Deployment) -> Deployment:
    """Return a deployment for containers, which find the broker by its name on the deployment's own networks."""
    broker = described.broker
    address = broker.name if _is_address(broker.address) or broker.address == "localhost" else broker.address
    return described.model_copy(
        update={
            "broker": broker.model_copy(update={"address": address}),
            "target": described.target.model_copy(update={"kind": TargetKind.DOCKER}),
        }
    )


def _is_address(host: str) -> bool:
    """Return whether the C library parses ``host`` as an address. Unlike `is_ip_address`, this includes ``1.2``."""
    return ":" in host or host.replace(".", "").isdecimal()
