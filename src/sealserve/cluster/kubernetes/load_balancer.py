"""Annotations of NGINX's Service for a cloud's load balancer. Each cloud has its own annotations."""

from collections.abc import Mapping

from sealserve.clouds.catalog import preset_of
from sealserve.cluster.kubernetes.render_context import NotRenderableError, RenderContext

_OWN = "SUBNET"  # placeholder in a preset for a value that only the owner knows


def load_balancer_annotations(context: RenderContext) -> Mapping[str, str]:
    """Return the annotations for the requested features, from the cloud's preset and the deployment.

    Raises:
        NotRenderableError: A feature has no known annotation, no cloud is set, or a value is missing.
    """
    settings, cloud = context.settings, context.deployment.target.cloud
    if settings.service.type != "LoadBalancer":
        return settings.service.annotations
    if cloud is None:
        if settings.service.internal:
            raise NotRenderableError(
                "kubernetes.service.internal requires a cloud's load balancer: expected target.cloud, got none.",
                hint="Set target.cloud, or set your load balancer's annotations in kubernetes.service.annotations.",
            )
        return settings.service.annotations
    known = preset_of(cloud).kubernetes
    annotations: dict[str, str] = {}
    if settings.service.internal:
        annotations |= dict(known.internal_load_balancer.value)
    if settings.service.proxy_protocol:
        if known.proxy_protocol.value is None and not settings.service.annotations:
            raise NotRenderableError(
                f"No annotation is known that makes the load balancer of {cloud} send the PROXY protocol, and NGINX "
                "would reject every connection without it.",
                hint="Set kubernetes.service.proxy_protocol = false, or set the annotation in "
                "kubernetes.service.annotations.",
            )
        annotations |= dict(known.proxy_protocol.value or ())
    annotations |= settings.service.annotations
    for key, value in annotations.items():
        if value == _OWN:
            raise NotRenderableError(
                f"The load balancer of {cloud} requires your subnet: the annotation {key} has no value.",
                hint=f'Set kubernetes.service.annotations = {{ "{key}" = "subnet-..." }}.',
            )
    return annotations
