"""The properties of a release that become part of the cluster's objects. All of them are public."""

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
    """Return the deployment to render.

    Args:
        workspace: The workspace, with the host's folder, which contains the owner's public key.
        deployment: The deployment that the workspace describes.
        bundle: The release.
        replicas: The number of replica pods. None uses the deployment's setting.

    Raises:
        NotRenderableError: The release has no enclave for pods.
    """
    return RenderContext(
        deployment=deployment,
        shipped=describe(bundle, owner_key=read_regular(workspace.host.owner_key).decode("ascii")),
        replicas=deployment.target.replicas if replicas is None else replicas,
    )


def provisional_context(deployment: Deployment) -> RenderContext:
    """Return a deployment to render before a release exists, with placeholders for the release's properties."""
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
    """Return the public properties of a release.

    Args:
        bundle: The release.
        owner_key: The owner's public key (PEM), with which pods verify it.

    Raises:
        NotRenderableError: The release has no enclave for pods.
    """
    enclave = bundle.enclave(ENCLAVE)
    if enclave is None:
        raise NotRenderableError(
            f"The release {bundle.name} has no enclave {ENCLAVE!r}, which pods run.",
            hint=f"Build it with `sealserve enclave build --name {ENCLAVE} --port {SERVICE_PORT} --inventory FILE`. "
            "FILE is the output of `sealserve enclave inventory` for the server's image.",
        )
    if enclave.port != SERVICE_PORT:
        raise NotRenderableError(
            f"The enclave {ENCLAVE!r} of {bundle.name} listens on port {enclave.port}: pods expect {SERVICE_PORT}.",
            hint=f"Build it again with `sealserve enclave build --port {SERVICE_PORT}`: the port is measured.",
        )
    if enclave.rest_port not in {None, REST_PORT}:
        raise NotRenderableError(
            f"The enclave {ENCLAVE!r} of {bundle.name} listens on port {enclave.rest_port} for REST: expected "
            f"{REST_PORT} for pods.",
            hint="Build it again with `sealserve enclave build`: the port is measured.",
        )
    return Shipped(
        name=bundle.name,
        size=bundle.size,
        owner_key=owner_key,
        broker=enclave.broker,
        epc=enclave.memory,
        rest=enclave.rest_port is not None,
        client_certificates=bundle.client_certificates,
    )
