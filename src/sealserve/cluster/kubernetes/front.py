"""The front: what takes connections from outside and passes them on, still encrypted, by their server name.

NGINX by default; or objects for a controller that the cluster has. Each passes TLS through: none holds a key.

Source: https://gateway-api.sigs.k8s.io/guides/tls/ (TLSRoute, passthrough),
https://kubernetes.github.io/ingress-nginx/user-guide/tls/#ssl-passthrough (retired in March 2026),
https://docs.nginx.com/nginx-ingress-controller/configuration/transportserver-resource/ (F5 NGINX Ingress Controller).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sealserve.cluster.kubernetes import replicas
from sealserve.cluster.kubernetes.load_balancer import load_balancer_annotations
from sealserve.cluster.kubernetes.plan import (
    FRONT_PORT,
    SERVER_PORT,
    SETTINGS,
    Manifest,
    Plan,
    container_security,
)
from sealserve.containers.recipes import ImageName
from sealserve.ingress.nginx_config import NginxConfig, Upstream, render
from sealserve.terms import EVERY_ADDRESS, EVERY_IPV4_ADDRESS, IngressKind

PART: Final = "front"
_RUN: Final = "/run/sealserve"
_STREAM_MODULE: Final = Path("/usr/lib/nginx/modules/ngx_stream_module.so")  # Debian's libnginx-mod-stream
# The Service's one address stands for all replicas. A connection that is refused, because its replica just died, is
# tried again, and each try is balanced anew: so the same address is there as several peers.
_TRIES: Final = 3
_DRAIN_SECONDS: Final = 30
_CONFIG: Final = "nginx.conf"
_CONFIG_IPV4: Final = "nginx-ipv4.conf"
# A node whose kernel has no IPv6 cannot listen on IPv6 and IPv4 at once; /proc/net/if_inet6 does not exist there.
_START: Final = (
    f"test -e /proc/net/if_inet6 && config={_CONFIG} || config={_CONFIG_IPV4}; "
    f"exec /usr/sbin/nginx -e /dev/stderr -c {SETTINGS}/$config"
)


def front(plan: Plan) -> Sequence[Manifest]:
    """Return the objects of the front."""
    match plan.settings.ingress.kind:
        case IngressKind.NGINX:
            return [_config(plan), _nginx(plan), _service(plan), _disruption_budget(plan)]
        case IngressKind.GATEWAY_API:
            return [_tls_route(plan)]
        case IngressKind.INGRESS_NGINX:
            return [_ingress(plan)]
        case IngressKind.F5:
            return [_transport_server(plan)]


def nginx_text(plan: Plan, *, listen: str = EVERY_ADDRESS) -> str:
    """Return NGINX's configuration.

    Args:
        plan: What is rendered.
        listen: Where NGINX listens in its pod, which the NetworkPolicies protect.
    """
    config = NginxConfig(
        listen=listen,
        port=FRONT_PORT,
        service_name=plan.deployment.service.name,
        upstreams=[Upstream(plan.name(replicas.PART), SERVER_PORT)] * _TRIES,
        run_folder=Path(_RUN),
        log_folder=None,
        stream_module=_STREAM_MODULE,
        workers=1,
    )
    text = render(config)
    if (
        plan.settings.service.proxy_protocol
    ):  # the load balancer tells NGINX the client's address; replicas are not told
        text = text.replace("so_keepalive=on;", "so_keepalive=on proxy_protocol;").replace(
            '"client":"$remote_addr:$remote_port"', '"client":"$proxy_protocol_addr:$proxy_protocol_port"'
        )
    return text


def _config(plan: Plan) -> Manifest:
    data = {_CONFIG: nginx_text(plan), _CONFIG_IPV4: nginx_text(plan, listen=EVERY_IPV4_ADDRESS)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": plan.metadata(PART), "data": data}


def _nginx(plan: Plan) -> Manifest:
    labels = plan.labels(PART)
    selector = {"matchLabels": labels}
    probe = {"tcpSocket": {"port": FRONT_PORT}}
    container = {
        "name": "nginx",
        "image": plan.image(ImageName.FRONT),
        "imagePullPolicy": plan.settings.images.pull_policy,
        "command": ["sh", "-c", _START],
        "ports": [{"name": "grpc", "containerPort": FRONT_PORT}],
        "readinessProbe": {**probe, "periodSeconds": 2},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
        # It leaves its Service first, then SIGTERM would cut connections: SIGQUIT lets them end.
        "lifecycle": {"preStop": {"exec": {"command": [
            "sh", "-c", f"sleep 5; kill -QUIT 1; sleep {plan.drain_seconds + _DRAIN_SECONDS}"]}}},
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "config", "mountPath": SETTINGS, "readOnly": True},
            {"name": "run", "mountPath": _RUN},
            {"name": "libraries", "mountPath": "/var/lib/nginx"},
        ],
    }  # fmt: skip
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": plan.pod_security(),
        "terminationGracePeriodSeconds": plan.drain_seconds + 2 * _DRAIN_SECONDS,
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": plan.name(PART)}},
            {"name": "run", "emptyDir": {"sizeLimit": "16Mi"}},
            {"name": "libraries", "emptyDir": {"sizeLimit": "16Mi"}},
        ],
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": selector,
        }],
    }  # fmt: skip
    if plan.settings.images.pull_secret:
        pod["imagePullSecrets"] = [{"name": plan.settings.images.pull_secret}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": plan.metadata(PART),
        "spec": {
            "replicas": plan.settings.ingress.replicas,
            "selector": selector,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _service(plan: Plan) -> Manifest:
    settings = plan.settings
    port: Manifest = {"name": "grpc", "port": plan.deployment.service.port, "targetPort": "grpc"}
    if settings.service.node_port is not None:
        port["nodePort"] = settings.service.node_port
    annotations = load_balancer_annotations(plan)
    more = {"annotations": dict(annotations)} if annotations else {}
    return plan.service(PART, {"type": settings.service.type, "ports": [port]}, **more)


def _disruption_budget(plan: Plan) -> Manifest:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": plan.labels(PART)}}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": plan.metadata(PART), "spec": spec}


def _tls_route(plan: Plan) -> Manifest:
    namespace, _, name = plan.settings.ingress.gateway.rpartition("/")
    gateway = {"name": name, **({"namespace": namespace} if namespace else {})}
    backend = {"name": plan.name(replicas.PART), "port": SERVER_PORT}
    spec = {
        "parentRefs": [gateway],
        "hostnames": [plan.deployment.service.name],
        "rules": [{"backendRefs": [backend]}],
    }
    return {
        "apiVersion": plan.settings.ingress.tls_route_version,
        "kind": "TLSRoute",
        "metadata": plan.metadata(PART),
        "spec": spec,
    }


def _ingress(plan: Plan) -> Manifest:
    annotations = {
        "nginx.ingress.kubernetes.io/ssl-passthrough": "true",  # the controller runs with --enable-ssl-passthrough
        "sealserve/note": "ingress-nginx was retired in March 2026 and gets no more fixes: for existing clusters only",
    }
    backend = {"service": {"name": plan.name(replicas.PART), "port": {"number": SERVER_PORT}}}
    rule = {
        "host": plan.deployment.service.name,
        "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": plan.metadata(PART, annotations=annotations),
        "spec": {"ingressClassName": "nginx", "rules": [rule]},
    }


def _transport_server(plan: Plan) -> Manifest:
    upstream = {"name": "replicas", "service": plan.name(replicas.PART), "port": SERVER_PORT}
    spec = {
        "ingressClassName": "nginx",
        "listener": {"name": "tls-passthrough", "protocol": "TLS_PASSTHROUGH"},
        "host": plan.deployment.service.name,
        "upstreams": [upstream],
        "action": {"pass": "replicas"},
    }
    return {"apiVersion": "k8s.nginx.org/v1", "kind": "TransportServer", "metadata": plan.metadata(PART), "spec": spec}
