"""The replicas: the Deployment of the enclaves, their Service, and what keeps enough of them.

Source: https://kubernetes.io/docs/concepts/workloads/pods/ (probes, hooks, security contexts, topology spread),
https://github.com/intel/intel-device-plugins-for-kubernetes/tree/main/cmd/sgx_plugin (resources ``sgx.intel.com/*``).
"""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from sealserve.cluster.container_layout import ENCLAVE
from sealserve.cluster.kubernetes import sources
from sealserve.cluster.kubernetes.plan import Manifest, Plan, container_security, label_value
from sealserve.cluster.kubernetes.room import epc_of_replica
from sealserve.cluster.replica import Content, Mount, Replica, describe_replica
from sealserve.cluster.target import DRAIN_SECONDS
from sealserve.tcp_ports import SERVICE_PORT
from sealserve.workspace import DEPLOYMENT_FILE

PART: Final = "replicas"
RELEASE_LABEL: Final = "sealserve/release"
NODE_VARIABLE: Final = {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}

_OWN_MEMORY: Final = "enclave"
_PROBE_SECONDS: Final = 5


def replicas(plan: Plan) -> Sequence[Manifest]:
    """Return the replicas' objects."""
    objects = [_settings(plan), _deployment(plan), _service(plan)]
    if plan.replicas > 1:
        objects.append(_disruption_budget(plan))
    if plan.settings.autoscaler.max_replicas is not None:
        objects.append(_autoscaler(plan, plan.settings.autoscaler.max_replicas))
    return objects


def _settings(plan: Plan) -> Manifest:
    toml = "# Written by sealserve: an enclave's own settings are measured, and these are not its.\n"
    model = plan.deployment.model.name
    toml += f'platform = "{plan.deployment.platform.value}"\n\n[model]\nname = "{model}"\n'
    data = {DEPLOYMENT_FILE: toml, "owner.pub": plan.shipped.owner_key}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": plan.metadata(PART), "data": data}


def _deployment(plan: Plan) -> Manifest:
    labels = plan.labels(PART)
    template = {
        "metadata": {"labels": {**labels, RELEASE_LABEL: label_value(plan.shipped.name)}},
        "spec": _pod(plan),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": plan.metadata(PART, annotations={RELEASE_LABEL: plan.shipped.name}),
        "spec": {
            "replicas": plan.replicas,
            "selector": {"matchLabels": labels},
            # Nothing that serves ends before its successor serves: a release that is refused stops here.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "progressDeadlineSeconds": plan.settings.start_seconds + 60,
            "revisionHistoryLimit": 3,
            "template": template,
        },
    }


def _pod(plan: Plan) -> Manifest:
    settings = plan.settings
    source = sources.source(plan)
    replica = _describe(plan)
    volumes = filter(None, (_volume(plan, mount) for mount in replica.mounts))
    labels = {"matchLabels": plan.labels(PART)}
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": plan.pod_security(),
        "terminationGracePeriodSeconds": plan.drain_seconds + DRAIN_SECONDS,
        "initContainers": [*source.init_containers, *([_memory(plan)] if plan.simulated else [])],
        "containers": [_container(plan, replica)],
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


def _container(plan: Plan, replica: Replica) -> Manifest:
    settings = plan.settings
    probe = {"tcpSocket": {"port": SERVICE_PORT}}  # the kubelet's gRPC probe knows no TLS
    container: Manifest = {
        "name": "server",
        "image": replica.image,
        "imagePullPolicy": settings.images.pull_policy,
        "args": list(replica.command),
        "ports": [{"name": name, "containerPort": port} for name, port in replica.ports.items()],
        # The port opens when the model is available, and not before.
        "startupProbe": {**probe, "periodSeconds": _PROBE_SECONDS,
                         "failureThreshold": -(-settings.start_seconds // _PROBE_SECONDS)},
        "readinessProbe": {**probe, "periodSeconds": 2, "failureThreshold": 1, "timeoutSeconds": 2},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6, "timeoutSeconds": 5},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(plan.drain_seconds)]}}},
        "resources": _resources(plan),
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",  # why an enclave was refused is in the pod's status
        "volumeMounts": [_mount(plan, mount) for mount in replica.mounts],
    }  # fmt: skip
    if plan.simulated:  # the launcher passes on the measured environment, and nothing else
        container["env"] = [NODE_VARIABLE]
    return container


def _describe(plan: Plan) -> Replica:
    shipped = plan.shipped
    # One attempt: the kubelet starts a container again, and `status` has the reason.
    return describe_replica(
        plan.deployment, release=shipped.name, size=shipped.size, enclave=ENCLAVE, port=SERVICE_PORT, attempts=1
    )


def _memory(plan: Plan) -> Manifest:
    """Return what makes the folder in memory for a simulated enclave's files: that of a volume would be root's."""
    return {
        "name": "memory",
        "image": plan.server_image,
        "imagePullPolicy": plan.settings.images.pull_policy,
        "command": ["mkdir", "-p", "-m", "0700", f"/memory/{_OWN_MEMORY}"],
        "securityContext": container_security(),
        "volumeMounts": [{"name": "memory", "mountPath": "/memory"}],
    }


def _resources(plan: Plan) -> Manifest:
    settings = plan.settings
    requests: dict[str, Any] = {"cpu": settings.resources.cpu, "memory": settings.resources.memory}
    limits: dict[str, Any] = {"memory": settings.resources.memory}
    if epc := epc_of_replica(plan):
        for resource, amount in ((settings.resources.epc_resource, epc), (settings.resources.enclave_resource, "1")):
            if resource:
                requests[resource] = limits[resource] = amount
    return {"requests": requests, "limits": limits}


def _mount(plan: Plan, mount: Mount) -> Manifest:
    """Return how the server's container sees the volume of a path that it needs."""
    made: Manifest = {"name": _volume_name(mount), "mountPath": mount.target}
    match mount.content:
        case Content.SETTINGS:
            made |= {"subPath": DEPLOYMENT_FILE, "readOnly": True}
        case Content.RELEASE:  # the init containers fill the folder of releases, which is therefore writable
            made["mountPath"] = str(PurePosixPath(mount.target).parent)
        case Content.QUOTING if plan.simulated:
            made |= {"readOnly": True, "subPathExpr": "$(NODE)"}
        case Content.MEMORY:
            made["subPath"] = _OWN_MEMORY
    return made


def _volume(plan: Plan, mount: Mount) -> Manifest | None:
    """Return the volume of a path that a replica needs; the release's comes with its source."""
    volume: Manifest
    match mount.content:
        case Content.SETTINGS:
            volume = {"configMap": {"name": plan.name(PART)}}
        case Content.SCRATCH:
            volume = {"emptyDir": {"sizeLimit": mount.size}}
        case Content.QUOTING:
            kind = "DirectoryOrCreate" if plan.simulated else "Directory"
            volume = {"hostPath": {"path": mount.target, "type": kind}}
        case Content.MEMORY:
            volume = {"emptyDir": {"medium": "Memory", "sizeLimit": mount.size}}
        case Content.RELEASE:
            return None
    return {"name": _volume_name(mount), **volume}


def _volume_name(mount: Mount) -> str:
    return "releases" if mount.content is Content.RELEASE else mount.content.value


def _service(plan: Plan) -> Manifest:
    ports = [{"name": "grpc", "port": SERVICE_PORT, "targetPort": "grpc", "appProtocol": "tls"}]
    return plan.service(PART, {"type": "ClusterIP", "ports": ports})


def _disruption_budget(plan: Plan) -> Manifest:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": plan.labels(PART)}}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": plan.metadata(PART), "spec": spec}


def _autoscaler(plan: Plan, most: int) -> Manifest:
    settings = plan.settings
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
        "metadata": plan.metadata(PART),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": plan.name(PART)},
            "minReplicas": min(plan.replicas, most),
            "maxReplicas": most,
            "metrics": metrics,
            # An enclave takes minutes to start: what just ended would be missed at once.
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
        },
    }
