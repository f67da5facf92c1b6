"""What of a release goes into the cluster's objects: all of it may be known."""

from sealserve.bundle import Bundle
from sealserve.cluster.container_layout import ENCLAVE
from sealserve.cluster.kubernetes.render_context import NotRenderableError, RenderContext, Shipped
from sealserve.deployment import Deployment
from sealserve.regular_file import read_regular
from sealserve.tcp_ports import REST_PORT, SERVICE_PORT
from sealserve.workspace import Workspace


def render_context(
    workspace: Workspace, deployment: Deployment, bundle: Bundle, *, replicas: int | None = None
) -> RenderContext:
    """Return what is rendered of a deployment.

    Args:
        workspace: With the host's part: it has the owner's public key.
        deployment: What it describes.
        bundle: The release.
        replicas: How many pods serve; by default as the deployment says.

    Raises:
        NotRenderableError: The release has no enclave for pods.
    """
    return RenderContext(
        deployment=deployment,
        shipped=describe(bundle, owner_key=read_regular(workspace.host.owner_key).decode("ascii")),
        replicas=deployment.target.replicas if replicas is None else replicas,
    )


def provisional_context(deployment: Deployment) -> RenderContext:
    """Return what is known of a deployment's objects before there is a release."""
    broker = (deployment.broker.address, deployment.broker.port)
    shipped = Shipped(
        name="none",
        size=0,
        owner_key="",
        broker=broker,
        epc=deployment.enclave.size_in_bytes or 0,
        rest=deployment.server.rest,
    )
    return RenderContext(deployment=deployment, shipped=shipped, replicas=deployment.target.replicas)


def describe(bundle: Bundle, *, owner_key: str) -> Shipped:
    """Return what may be known of a release.

    Args:
        bundle: The release.
        owner_key: The owner's public key (PEM), with which pods verify it.

    Raises:
        NotRenderableError: It has no enclave for pods.
    """
    enclave = bundle.enclave(ENCLAVE)
    if enclave is None:
        raise NotRenderableError(
            f"{bundle.name} has no enclave {ENCLAVE!r}, which the pods would run.",
            hint=f"`sealserve enclave build --name {ENCLAVE} --port {SERVICE_PORT} --inventory FILE` makes it, of "
            "what `sealserve enclave inventory` measured in the server's image.",
        )
    if enclave.port != SERVICE_PORT:
        raise NotRenderableError(
            f"The enclave {ENCLAVE!r} of {bundle.name} listens on port {enclave.port}; pods expect {SERVICE_PORT}.",
            hint=f"Build it with `--port {SERVICE_PORT}`: the port is measured.",
        )
    if enclave.rest_port not in {None, REST_PORT}:
        raise NotRenderableError(
            f"The enclave {ENCLAVE!r} of {bundle.name} listens on port {enclave.rest_port} for REST: pods expect "
            f"{REST_PORT}.",
            hint="Build it again with `sealserve enclave build`: the port is measured.",
        )
    return Shipped(
        name=bundle.name,
        size=bundle.size,
        owner_key=owner_key,
        broker=enclave.broker,
        epc=enclave.memory,
        rest=enclave.rest_port is not None,
    )
