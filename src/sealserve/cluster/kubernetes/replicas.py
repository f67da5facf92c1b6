"""The replicas: the Deployment of the enclaves, their Service, and the objects that keep enough replicas running.

Source: https://kubernetes.io/docs/concepts/workloads/pods/ (probes, hooks, security contexts, topology spread),
https://github.com/intel/intel-device-plugins-for-kubernetes/tree/main/cmd/sgx_plugin (resources ``sgx.intel.com/*``).
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from sealserve.cluster.container_layout import ENCLAVE
from sealserve.cluster.kubernetes import sources
from sealserve.cluster.kubernetes.capacity import epc_of_replica
from sealserve.cluster.kubernetes.render_context import (
    Manifest,
    NotRenderableError,
    RenderContext,
    container_security,
    label_value,
)
from sealserve.cluster.replica import GRPC_PORT_NAME, REST_PORT_NAME, Content, Mount, Replica, describe_replica
from sealserve.cluster.target import DRAIN_SECONDS
from sealserve.tcp_ports import REST_PORT, SERVICE_PORT
from sealserve.workspace import DEPLOYMENT_FILE

PART: Final = "replicas"
RELEASE_LABEL: Final = "sealserve/release"
NODE_VARIABLE: Final = {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}

_OWN_MEMORY: Final = "enclave"
_PROBE_SECONDS: Final = 5
TLS_MODE: Final = "TLS"
_PORT_IS_OPEN: Final[Manifest] = {"tcpSocket": {"port": SERVICE_PORT}}


def service_ports(context: RenderContext) -> Mapping[str, int]:
    """Return the ports for requests, by name. They are the same for the replicas and for NGINX in front of them."""
    return {GRPC_PORT_NAME: SERVICE_PORT, **({REST_PORT_NAME: REST_PORT} if context.shipped.rest else {})}


def replicas(context: RenderContext) -> Sequence[Manifest]:
    """Return the replicas' objects."""
    objects = [_settings(context), _deployment(context), _service(context)]
    if context.replicas > 1:
        objects.append(_disruption_budget(context))
    if context.settings.autoscaler.max_replicas is not None:
        objects.append(_autoscaler(context, context.settings.autoscaler.max_replicas))
    return objects


def _settings(context: RenderContext) -> Manifest:
    toml = "# Written by sealserve. The enclave does not use these settings: its own settings are measured.\n"
    model = context.deployment.model.name
    toml += f'platform = "{context.deployment.platform.value}"\n\n[model]\nname = "{model}"\n'
    data = {DEPLOYMENT_FILE: toml, "owner.pub": context.shipped.owner_key}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": context.metadata(PART), "data": data}


def _deployment(context: RenderContext) -> Manifest:
    labels = context.labels(PART)
    template = {
        "metadata": {"labels": {**labels, RELEASE_LABEL: label_value(context.shipped.name)}},
        "spec": _pod(context),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": context.metadata(PART, annotations={RELEASE_LABEL: context.shipped.name}),
        "spec": {
            "replicas": context.replicas,
            "selector": {"matchLabels": labels},
            # A replica stops only after its successor serves: the roll-out of a rejected release does not proceed.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "progressDeadlineSeconds": context.settings.start_seconds + 60,
            "revisionHistoryLimit": 3,
            "template": template,
        },
    }


def _pod(context: RenderContext) -> Manifest:
    settings = context.settings
    source = sources.source(context)
    replica = _describe(context)
    volumes = filter(None, (_volume(context, mount) for mount in replica.mounts))
    labels = {"matchLabels": context.labels(PART)}
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": context.pod_security(),
        "terminationGracePeriodSeconds": context.drain_seconds + DRAIN_SECONDS,
        "initContainers": [*source.init_containers, *([_memory(context)] if context.simulated else [])],
        "containers": [_container(context, replica)],
        "volumes": [*volumes, *source.volumes],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": labels,
                "matchLabelKeys": ["pod-template-hash"],
            }
        ],
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 100,
                        "podAffinityTerm": {"labelSelector": labels, "topologyKey": "kubernetes.io/hostname"},
                    }
                ]
            }
        },
    }
    if settings.scheduling.node_selector:
        pod["nodeSelector"] = dict(settings.scheduling.node_selector)
    if settings.scheduling.tolerations:
        pod["tolerations"] = [{"key": key, "operator": "Exists"} for key in settings.scheduling.tolerations]
    if settings.images.pull_secret:
        pod["imagePullSecrets"] = [{"name": settings.images.pull_secret}]
    return pod


def _container(context: RenderContext, replica: Replica) -> Manifest:
    settings = context.settings
    container: Manifest = {
        "name": "server",
        "image": replica.image,
        "imagePullPolicy": settings.images.pull_policy,
        "args": list(replica.command),
        "ports": [{"name": name, "containerPort": port} for name, port in replica.ports.items()],
        # The port opens only when the model is available.
        "startupProbe": {**_PORT_IS_OPEN, "periodSeconds": _PROBE_SECONDS,
                         "failureThreshold": -(-settings.start_seconds // _PROBE_SECONDS)},
        "readinessProbe": readiness_probe(context),
        # The kubelet restarts a container that fails this probe, and a replica needs minutes to start. A busy replica,
        # or users who occupy all connections, must not cause this. So liveness does not depend on a gRPC call.
        "livenessProbe": {**_PORT_IS_OPEN, "periodSeconds": 10, "failureThreshold": 6, "timeoutSeconds": 5},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(context.drain_seconds)]}}},
        "resources": _resources(context),
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",  # the pod's status shows why an enclave was rejected
        "volumeMounts": [_mount(context, mount) for mount in replica.mounts],
    }  # fmt: skip
    if context.simulated:  # the launcher passes on only the measured environment
        container["env"] = [NODE_VARIABLE]
    return container


def readiness_probe(context: RenderContext) -> Manifest:
    """Return the readiness probe of a replica: a TCP connection, or a call of the gRPC health service over TLS.

    The call also fails if the server hangs, or reports NOT_SERVING. The kubelet does not verify the server's
    certificate, and has no client certificate.

    Source: https://kep.k8s.io/4939; kubernetes v1.37.2, ``pkg/probe/grpc/grpc.go``.

    Raises:
        NotRenderableError: The probe calls gRPC, but the release requires client certificates.
    """
    if not context.settings.grpc_readiness:
        return {**_PORT_IS_OPEN, "periodSeconds": 2, "failureThreshold": 1, "timeoutSeconds": 2}
    if context.shipped.client_certificates:  # for example after a roll-back
        raise NotRenderableError(
            "kubernetes.grpc_readiness does not support two-way TLS, because a kubelet has no client certificate, but "
            f"the release {context.shipped.name} requires client certificates.",
            hint="Set kubernetes.grpc_readiness = false, or serve a release with service.tls = 'one-way'.",
        )
    # A handshake and a call take longer than a connection. A single late answer of a busy replica is not a failure.
    grpc = {"port": SERVICE_PORT, "mode": TLS_MODE}
    return {"grpc": grpc, "periodSeconds": 2, "failureThreshold": 3, "timeoutSeconds": 2}


def _describe(context: RenderContext) -> Replica:
    shipped = context.shipped
    # One attempt: the kubelet restarts the container, and `status` shows the reason.
    return describe_replica(
        context.deployment,
        release=shipped.name,
        size=shipped.size,
        enclave=ENCLAVE,
        port=SERVICE_PORT,
        rest_port=REST_PORT if shipped.rest else None,
        attempts=1,
    )


def _memory(context: RenderContext) -> Manifest:
    """Return the init container that creates a simulated enclave's folder: the volume's own folder belongs to root."""
    return {
        "name": "memory",
        "image": context.server_image,
        "imagePullPolicy": context.settings.images.pull_policy,
        "command": ["mkdir", "-p", "-m", "0700", f"/memory/{_OWN_MEMORY}"],
        "securityContext": container_security(),
        "volumeMounts": [{"name": "memory", "mountPath": "/memory"}],
    }


def _resources(context: RenderContext) -> Manifest:
    settings = context.settings
    requests: dict[str, Any] = {"cpu": settings.resources.cpu, "memory": settings.resources.memory}
    limits: dict[str, Any] = {"memory": settings.resources.memory}
    if epc := epc_of_replica(context):
        for resource, amount in ((settings.resources.epc_resource, epc), (settings.resources.enclave_resource, "1")):
            if resource:
                requests[resource] = limits[resource] = amount
    return {"requests": requests, "limits": limits}


def _mount(context: RenderContext, mount: Mount) -> Manifest:
    """Return the volume mount for a path that the server's container needs."""
    made: Manifest = {"name": _volume_name(mount), "mountPath": mount.target}
    match mount.content:
        case Content.SETTINGS:
            made |= {"subPath": DEPLOYMENT_FILE, "readOnly": True}
        case Content.RELEASE:  # the init containers fill the folder of releases, so it is writable
            made["mountPath"] = str(PurePosixPath(mount.target).parent)
        case Content.QUOTING if context.simulated:
            made |= {"readOnly": True, "subPathExpr": "$(NODE)"}
        case Content.MEMORY:
            made["subPath"] = _OWN_MEMORY
    return made


def _volume(context: RenderContext, mount: Mount) -> Manifest | None:
    """Return the volume for a path that a replica needs. The release's volume comes with its source."""
    volume: Manifest
    match mount.content:
        case Content.SETTINGS:
            volume = {"configMap": {"name": context.name(PART)}}
        case Content.SCRATCH:
            volume = {"emptyDir": {"sizeLimit": mount.size}}
        case Content.QUOTING:
            kind = "DirectoryOrCreate" if context.simulated else "Directory"
            volume = {"hostPath": {"path": mount.target, "type": kind}}
        case Content.MEMORY:
            volume = {"emptyDir": {"medium": "Memory", "sizeLimit": mount.size}}
        case Content.RELEASE:
            return None
    return {"name": _volume_name(mount), **volume}


def _volume_name(mount: Mount) -> str:
    return "releases" if mount.content is Content.RELEASE else mount.content.value


def _service(context: RenderContext) -> Manifest:
    # A port that is targeted by name skips pods without it: during a roll-out, some pods have no REST.
    ports = [
        {"name": name, "port": port, "targetPort": name, "appProtocol": "tls"}
        for name, port in service_ports(context).items()
    ]
    return context.service(PART, {"type": "ClusterIP", "ports": ports})


def _disruption_budget(context: RenderContext) -> Manifest:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": context.labels(PART)}}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": context.metadata(PART), "spec": spec}


def _autoscaler(context: RenderContext, most: int) -> Manifest:
    settings = context.settings
    metrics: list[Manifest] = [
        {"type": "Resource", "resource": {"name": "cpu", "target": {
            "type": "Utilization", "averageUtilization": settings.autoscaler.cpu_percent}}},
    ]  # fmt: skip
    if settings.autoscaler.latency_metric:
        target = {"type": "AverageValue", "averageValue": settings.autoscaler.latency_target}
        metrics.append(
            {"type": "Pods", "pods": {"metric": {"name": settings.autoscaler.latency_metric}, "target": target}}
        )
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": context.metadata(PART),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": context.name(PART)},
            "minReplicas": min(context.replicas, most),
            "maxReplicas": most,
            "metrics": metrics,
            # An enclave takes minutes to start, so a replica that was just stopped would be missed for long.
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
        },
    }
