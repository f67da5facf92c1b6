"""All objects of a deployment, in the order in which they are applied."""

from collections.abc import Mapping, Sequence

from sealserve.cluster.kubernetes.front import front
from sealserve.cluster.kubernetes.inside_broker import inside_broker
from sealserve.cluster.kubernetes.monitoring import monitoring
from sealserve.cluster.kubernetes.platform import platform
from sealserve.cluster.kubernetes.policies import policies
from sealserve.cluster.kubernetes.render_context import APPLICATION, Manifest, NotRenderableError, RenderContext
from sealserve.cluster.kubernetes.replicas import replicas
from sealserve.cluster.kubernetes.storage import storage
from sealserve.terms import BrokerNaming


def objects(
    context: RenderContext,
    *,
    platform_files: Mapping[str, str] | None = None,
    broker_files: Mapping[str, str] | None = None,
) -> Sequence[Manifest]:
    """Return the objects of a deployment, without its namespace.

    Args:
        context: The deployment to render.
        platform_files: The simulated platform's files, in base64. None omits it, if the cluster already has one.
        broker_files: The files for a broker in the cluster, in base64. Objects that are rendered for others to apply
            never contain them.

    Raises:
        NotRenderableError: The deployment lacks required settings, or the objects would reveal the owner's keys.
    """
    made = [
        *policies(context),
        *_broker_name(context),
        *storage(context),
        *replicas(context),
        *front(context),
        *monitoring(context),
    ]
    if context.simulated and platform_files is not None:
        made += platform(context, platform_files)
    if context.settings.broker.dangerous_inside:
        if broker_files is None:
            raise NotRenderableError(
                "kubernetes.broker.dangerous_inside works only with `sealserve up`: rendered files would contain the "
                "owner's keys.",
                hint="Set it to false, and run the broker on the owner's machine.",
            )
        made += inside_broker(context, broker_files)
    return made


def namespace(context: RenderContext) -> Manifest:
    """Return the namespace."""
    labels = {"app.kubernetes.io/managed-by": APPLICATION}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": context.settings.namespace, "labels": labels}}


def _broker_name(context: RenderContext) -> Sequence[Manifest]:
    """Return the object that adds the broker's name to the cluster's DNS, the only source of names for enclaves."""
    settings = context.settings
    if settings.broker.naming is not BrokerNaming.EXTERNAL_NAME:
        return []
    spec = {"type": "ExternalName", "externalName": settings.broker.external_name}
    return [{"apiVersion": "v1", "kind": "Service", "metadata": context.metadata("broker"), "spec": spec}]
