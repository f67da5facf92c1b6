"""The ingress: accepts connections from outside and forwards them, still encrypted, by their server name.

The default is NGINX. The alternatives are objects for a controller that the cluster has. All pass TLS through, and
none holds a key.

Source: https://gateway-api.sigs.k8s.io/guides/tls/ (TLSRoute, passthrough),
https://kubernetes.github.io/ingress-nginx/user-guide/tls/#ssl-passthrough (retired in March 2026),
https://docs.nginx.com/nginx-ingress-controller/configuration/transportserver-resource/ (F5 NGINX Ingress Controller).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sealserve.cluster.container_layout import RUN_FOLDER, SETTINGS_FOLDER
from sealserve.cluster.kubernetes import replicas
from sealserve.cluster.kubernetes.load_balancer import load_balancer_annotations
from sealserve.cluster.kubernetes.render_context import (
    Manifest,
    NotRenderableError,
    RenderContext,
    container_security,
)
from sealserve.cluster.replica import GRPC_PORT_NAME, REST_PORT_NAME
from sealserve.containers.recipes import ImageName
from sealserve.ingress.nginx_config import STREAM_MODULE, NginxConfig, RestRoute, Upstream, render
from sealserve.tcp_ports import REST_PORT, SERVICE_PORT
from sealserve.terms import EVERY_ADDRESS, EVERY_IPV4_ADDRESS, IngressKind

PART: Final = "front"
# The Service's single address represents all replicas. If a replica has just ended, a refused connection is retried,
# and each retry is balanced again. So the same address is listed as several peers. NGINX never stops using them:
# otherwise, a few refused connections to one replica would make the other replicas unreachable for some seconds.
_TRIES: Final = 3
_DRAIN_SECONDS: Final = 30
_CONFIG: Final = "nginx.conf"
_CONFIG_IPV4: Final = "nginx-ipv4.conf"
# A node without IPv6 in its kernel cannot listen on IPv6 and IPv4 together. /proc/net/if_inet6 does not exist there.
_START: Final = (
    f"test -e /proc/net/if_inet6 && config={_CONFIG} || config={_CONFIG_IPV4}; "
    f"exec /usr/sbin/nginx -e /dev/stderr -c {SETTINGS_FOLDER}/$config"
)


def front(context: RenderContext) -> Sequence[Manifest]:
    """Return the objects of the ingress."""
    match context.settings.ingress.kind:
        case IngressKind.NGINX:
            return [_config(context), _nginx(context), _service(context), _disruption_budget(context)]
        case IngressKind.GATEWAY_API:
            return _tls_routes(context)
        case IngressKind.INGRESS_NGINX:
            _refuse_rest(context)
            return [_ingress(context)]
        case IngressKind.F5:
            _refuse_rest(context)
            return [_transport_server(context)]


def _refuse_rest(context: RenderContext) -> None:
    """Reject REST for controllers that pass all TLS through one port and choose the peer only by the server name.

    gRPC and REST have the same server name, because they share a certificate.
    """
    if context.shipped.rest:
        raise NotRenderableError(
            f"kubernetes.ingress.kind = '{context.settings.ingress.kind.value}' does not support REST "
            "(server.rest = true): it passes TLS through on a single port, and REST requires a second port.",
            hint="Use kubernetes.ingress.kind = 'nginx' or 'gateway-api', or set server.rest = false.",
        )


def nginx_text(context: RenderContext, *, listen: str = EVERY_ADDRESS) -> str:
    """Return NGINX's configuration.

    Args:
        context: The deployment to render.
        listen: The address that NGINX listens on in its pod, which the NetworkPolicies protect.
    """
    config = NginxConfig(
        listen=listen,
        port=SERVICE_PORT,
        service_name=context.deployment.service.name,
        upstreams=[Upstream(context.name(replicas.PART), SERVICE_PORT)] * _TRIES,
        run_folder=Path(RUN_FOLDER),
        log_folder=None,
        stream_module=STREAM_MODULE,
        workers=1,
        fail_timeout=0,
        proxy_protocol=context.settings.service.proxy_protocol,
        rest=RestRoute(port=REST_PORT, upstreams=[Upstream(context.name(replicas.PART), REST_PORT)] * _TRIES)
        if context.shipped.rest
        else None,
    )
    return render(config)


def _config(context: RenderContext) -> Manifest:
    data = {_CONFIG: nginx_text(context), _CONFIG_IPV4: nginx_text(context, listen=EVERY_IPV4_ADDRESS)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": context.metadata(PART), "data": data}


def _nginx(context: RenderContext) -> Manifest:
    labels = context.labels(PART)
    selector = {"matchLabels": labels}
    probe = {"tcpSocket": {"port": SERVICE_PORT}}
    container = {
        "name": "nginx",
        "image": context.image(ImageName.FRONT),
        "imagePullPolicy": context.settings.images.pull_policy,
        "command": ["sh", "-c", _START],
        "ports": [
            {"name": name, "containerPort": number} for name, number in replicas.service_ports(context).items()
        ],
        "readinessProbe": {**probe, "periodSeconds": 2},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
        # The pod leaves its Service first. SIGTERM would cut connections; SIGQUIT lets them end.
        "lifecycle": {"preStop": {"exec": {"command": [
            "sh", "-c", f"sleep 5; kill -QUIT 1; sleep {context.drain_seconds + _DRAIN_SECONDS}"]}}},
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "config", "mountPath": SETTINGS_FOLDER, "readOnly": True},
            {"name": "run", "mountPath": RUN_FOLDER},
            {"name": "libraries", "mountPath": "/var/lib/nginx"},
        ],
    }  # fmt: skip
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": context.pod_security(),
        "terminationGracePeriodSeconds": context.drain_seconds + 2 * _DRAIN_SECONDS,
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": context.name(PART)}},
            {"name": "run", "emptyDir": {"sizeLimit": "16Mi"}},
            {"name": "libraries", "emptyDir": {"sizeLimit": "16Mi"}},
        ],
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": selector,
        }],
    }  # fmt: skip
    if context.settings.images.pull_secret:
        pod["imagePullSecrets"] = [{"name": context.settings.images.pull_secret}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": context.metadata(PART),
        "spec": {
            "replicas": context.settings.ingress.replicas,
            "selector": selector,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _service(context: RenderContext) -> Manifest:
    settings = context.settings
    service = context.deployment.service
    ports = [_service_port(GRPC_PORT_NAME, service.port, settings.service.node_port)]
    if context.shipped.rest:
        ports.append(_service_port(REST_PORT_NAME, service.rest_port, settings.service.rest_node_port))
    annotations = load_balancer_annotations(context)
    more = {"annotations": dict(annotations)} if annotations else {}
    return context.service(PART, {"type": settings.service.type, "ports": ports}, **more)


def _service_port(name: str, port: int, node_port: int | None) -> Manifest:
    return {"name": name, "port": port, "targetPort": name, **({} if node_port is None else {"nodePort": node_port})}


def _disruption_budget(context: RenderContext) -> Manifest:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": context.labels(PART)}}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": context.metadata(PART), "spec": spec}


def _tls_routes(context: RenderContext) -> Sequence[Manifest]:
    """Return a route for gRPC and, if REST is on, a second route: the Gateway distinguishes them by port.

    Without REST, the route applies to every listener of the Gateway, on any port.
    """
    service = context.deployment.service
    if not context.shipped.rest:
        return [_tls_route(context, PART, SERVICE_PORT)]
    return [
        _tls_route(context, PART, SERVICE_PORT, listener=service.port),
        _tls_route(context, f"{PART}-{REST_PORT_NAME}", REST_PORT, listener=service.rest_port),
    ]


def _tls_route(context: RenderContext, part: str, port: int, *, listener: int | None = None) -> Manifest:
    namespace, _, name = context.settings.ingress.gateway.rpartition("/")
    gateway: Manifest = {"name": name, **({"namespace": namespace} if namespace else {})}
    if listener is not None:
        gateway = {**gateway, "port": listener}
    spec = {
        "parentRefs": [gateway],
        "hostnames": [context.deployment.service.name],
        "rules": [{"backendRefs": [{"name": context.name(replicas.PART), "port": port}]}],
    }
    return {
        "apiVersion": context.settings.ingress.tls_route_version,
        "kind": "TLSRoute",
        "metadata": context.metadata(part),
        "spec": spec,
    }


def _ingress(context: RenderContext) -> Manifest:
    annotations = {
        "nginx.ingress.kubernetes.io/ssl-passthrough": "true",  # requires the controller's --enable-ssl-passthrough
        "sealserve/note": "ingress-nginx was retired in March 2026 and gets no more fixes: for existing clusters only",
    }
    backend = {"service": {"name": context.name(replicas.PART), "port": {"number": SERVICE_PORT}}}
    rule = {
        "host": context.deployment.service.name,
        "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": context.metadata(PART, annotations=annotations),
        "spec": {"ingressClassName": "nginx", "rules": [rule]},
    }


def _transport_server(context: RenderContext) -> Manifest:
    upstream = {"name": "replicas", "service": context.name(replicas.PART), "port": SERVICE_PORT}
    spec = {
        "ingressClassName": "nginx",
        "listener": {"name": "tls-passthrough", "protocol": "TLS_PASSTHROUGH"},
        "host": context.deployment.service.name,
        "upstreams": [upstream],
        "action": {"pass": "replicas"},
    }
    return {
        "apiVersion": "k8s.nginx.org/v1",
        "kind": "TransportServer",
        "metadata": context.metadata(PART),
        "spec": spec,
    }
