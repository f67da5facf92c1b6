"""What the containers serve, and the deployment as it is in containers."""

from dataclasses import dataclass
from pathlib import Path

from sealserve.bundle import Bundle
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.container_layout import ENCLAVE
from sealserve.deployment import Deployment
from sealserve.terms import TargetKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A release as the host has it, and the enclave in it that every replica runs.

    Args:
        folder: The release.
        enclave: The enclave's name.
        port: Where its server listens for gRPC; measured.
        rest_port: Where it listens for REST, or None if REST is off; measured.
        broker: Name and port of the broker that it connects to; measured.
        size: The bytes of its sealed files.
        manifest: The digest of its manifest.
        connection_age: After how many seconds its server drains a connection, or None if not known; measured.
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
    """Return what every replica runs: the enclave for containers, or the one that a host was given."""
    enclave = bundle.enclave(ENCLAVE) or next(iter(bundle.enclaves), None)
    if enclave is None:
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"The release {bundle.name} has no enclave.",
            hint=f"The owner runs `sealserve enclave build --name {ENCLAVE} --inventory FILE`, and ships it again.",
        )
    if _is_address(enclave.broker[0]):
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"The enclave connects to the broker at the address {enclave.broker[0]}; in containers the broker has "
            "a name.",
            hint="The owner sets broker.address to a DNS name, and builds the enclave again.",
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
    """Return a deployment as it is in containers: the broker is found by its name, on the deployment's own networks."""
    broker = described.broker
    address = broker.name if _is_address(broker.address) or broker.address == "localhost" else broker.address
    return described.model_copy(
        update={
            "broker": broker.model_copy(update={"address": address}),
            "target": described.target.model_copy(update={"kind": TargetKind.DOCKER}),
        }
    )


def _is_address(host: str) -> bool:
    """Return whether the C library reads ``host`` as an address: ``1.2`` too, unlike `is_ip_address`."""
    return ":" in host or host.replace(".", "").isdecimal()
