"""What a cloud's load balancer is told, as annotations of the front's Service: each cloud has its own."""

from collections.abc import Mapping

from sealserve.clouds.catalog import preset_of
from sealserve.cluster.kubernetes.render_context import NotRenderableError, RenderContext

_OWN = "SUBNET"  # stands in a preset for what only the owner knows


def load_balancer_annotations(context: RenderContext) -> Mapping[str, str]:
    """Return the annotations: those of the cloud for what is asked for, and ``kubernetes.service.annotations``.

    Raises:
        NotRenderableError: What is asked for is not known of the cloud, no cloud is named, or a value is missing.
    """
    settings, cloud = context.settings, context.deployment.target.cloud
    if settings.service.type != "LoadBalancer":
        return settings.service.annotations
    if cloud is None:
        if settings.service.internal:
            raise NotRenderableError(
                "kubernetes.service.internal is about a cloud's load balancer, and target.cloud names none.",
                hint="Set target.cloud, or kubernetes.service.annotations as your load balancer reads them.",
            )
        return settings.service.annotations
    known = preset_of(cloud).kubernetes
    annotations: dict[str, str] = {}
    if settings.service.internal:
        annotations |= dict(known.internal_load_balancer.value)
    if settings.service.proxy_protocol:
        if known.proxy_protocol.value is None and not settings.service.annotations:
            raise NotRenderableError(
                f"It is not known how the load balancer of {cloud} is made to send the PROXY protocol.",
                hint="NGINX would refuse every connection without it. Set kubernetes.service.proxy_protocol = false, "
                "or name what turns it on in kubernetes.service.annotations.",
            )
        annotations |= dict(known.proxy_protocol.value or ())
    annotations |= settings.service.annotations
    for key, value in annotations.items():
        if value == _OWN:
            raise NotRenderableError(
                f"The load balancer of {cloud} must be told your subnet.",
                hint=f'kubernetes.service.annotations = {{ "{key}" = "subnet-..." }}',
            )
    return annotations
