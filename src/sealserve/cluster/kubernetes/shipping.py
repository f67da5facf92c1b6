"""What of a release goes into the cluster's objects: all of it may be known."""

from pathlib import Path

from sealserve.cluster.kubernetes.plan import ENCLAVE, SERVER_PORT, NotRenderableError, Plan, Shipped
from sealserve.deployment import Deployment
from sealserve.enclave.measurement import load_enclave
from sealserve.enclave.simulated.provisioning import servers
from sealserve.owner import enclaves, releases
from sealserve.owner.keys import public_pem
from sealserve.owner.owner import Owner
from sealserve.workspace import Workspace


def plan(workspace: Workspace, deployment: Deployment, release: Path, *, replicas: int | None = None) -> Plan:
    """Return what is rendered of a deployment.

    Args:
        workspace: With the host's part.
        deployment: What it describes.
        release: The release's folder.
        replicas: How many pods serve; by default as the deployment says.
    """
    return Plan(
        deployment=deployment,
        shipped=describe(workspace, release),
        replicas=deployment.target.replicas if replicas is None else replicas,
    )


def provisional_plan(deployment: Deployment) -> Plan:
    """Return what is known of a deployment's objects before there is a release."""
    broker = (deployment.broker.address, deployment.broker.port)
    shipped = Shipped(name="none", size=0, owner_key="", broker=broker, epc=deployment.enclave.size_in_bytes or 0)
    return Plan(deployment=deployment, shipped=shipped, replicas=deployment.target.replicas)


def describe(workspace: Workspace, release: Path) -> Shipped:
    """Return what may be known of a release.

    Raises:
        NotRenderableError: It has no enclave for pods.
        SealserveError: It does not verify.
    """
    owner_key = Owner.open(workspace).public_key()
    verified = releases.verify(release, owner_key)
    if ENCLAVE not in verified.enclaves:
        raise NotRenderableError(
            f"{release.name} has no enclave {ENCLAVE!r}, which the pods would run.",
            hint=f"`sealserve enclave build --name {ENCLAVE} --port {SERVER_PORT} --inventory FILE` makes it, of "
            "what `sealserve enclave inventory` measured in the server's image.",
        )
    manifest = load_enclave(release, ENCLAVE).manifest
    port = enclaves.port_of(manifest)
    if port != SERVER_PORT:
        raise NotRenderableError(
            f"The enclave {ENCLAVE!r} of {release.name} listens on port {port}; pods expect {SERVER_PORT}.",
            hint=f"Build it with `--port {SERVER_PORT}`: the port is measured.",
        )
    return Shipped(
        name=release.name,
        size=sum(file.size for file in verified.index.files),
        owner_key=public_pem(owner_key).decode("ascii"),
        broker=servers(manifest.loader.env["SECRET_PROVISION_SERVERS"])[0],
        epc=manifest.enclave_size,
    )
