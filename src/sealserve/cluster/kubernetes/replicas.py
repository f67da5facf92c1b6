"""The replicas: the Deployment of the enclaves, their Service, and what keeps enough of them.

Source: https://kubernetes.io/docs/concepts/workloads/pods/ (probes, hooks, security contexts, topology spread),
https://github.com/intel/intel-device-plugins-for-kubernetes/tree/main/cmd/sgx_plugin (resources ``sgx.intel.com/*``),
Gramine 1.9, pal/src/host/linux-sgx/host_framework.c (gramine-sgx opens /dev/sgx_enclave and aesmd's socket only).
"""

from collections.abc import Sequence
from typing import Any, Final

from sealserve.cluster.kubernetes import sources
from sealserve.cluster.kubernetes.plan import (
    ENCLAVE,
    METRICS_PORT,
    RELEASES,
    SERVER_PORT,
    WORKSPACE,
    Manifest,
    Plan,
    container_security,
    label_value,
)
from sealserve.cluster.kubernetes.room import epc_of_replica
from sealserve.cluster.target import DRAIN_SECONDS
from sealserve.enclave.server_command import PRIVATE_ROOT
from sealserve.workspace import DEPLOYMENT_FILE

PART: Final = "replicas"
RELEASE_LABEL: Final = "sealserve/release"
AESM_FOLDER: Final = "/var/run/aesmd"
"""aesmd's socket. Its folder is mounted: a mounted socket would be a dead one when aesmd restarts."""

QUOTING_FOLDER: Final = "/run/sealserve-simulated"
"""On a node: where the simulated platform answers, as aesmd would; in a folder with the node's name."""

NODE_VARIABLE: Final = {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}

_OWN_MEMORY: Final = "enclave"
_SLACK: Final = 64 * 2**20
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
    labels = {"matchLabels": plan.labels(PART)}
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": plan.pod_security(),
        "terminationGracePeriodSeconds": plan.drain_seconds + DRAIN_SECONDS,
        "initContainers": [*source.init_containers, *([_memory(plan)] if plan.simulated else [])],
        "containers": [_container(plan)],
        "volumes": [*_volumes(plan), *source.volumes],
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


def _container(plan: Plan) -> Manifest:
    settings = plan.settings
    arguments = ["enclave", "run", "--directory", WORKSPACE, "--name", ENCLAVE]
    arguments += ["--release", f"{RELEASES}/{plan.shipped.name}"]
    mounts = [
        {
            "name": "settings",
            "mountPath": f"{WORKSPACE}/{DEPLOYMENT_FILE}",
            "subPath": DEPLOYMENT_FILE,
            "readOnly": True,
        },
        {"name": "releases", "mountPath": RELEASES},
        {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108  # the pod's own
    ]
    if plan.simulated:
        arguments += ["--quoting-socket", f"{QUOTING_FOLDER}/quoting.sock"]
        mounts += [
            {"name": "quoting", "mountPath": QUOTING_FOLDER, "readOnly": True, "subPathExpr": "$(NODE)"},
            {"name": "memory", "mountPath": PRIVATE_ROOT, "subPath": _OWN_MEMORY},
        ]
    else:
        arguments += ["--attempts", "1"]  # the kubelet starts it again, and `status` has the reason
        mounts.append({"name": "quoting", "mountPath": AESM_FOLDER})
    probe = {"tcpSocket": {"port": SERVER_PORT}}  # the kubelet's gRPC probe knows no TLS
    container: Manifest = {
        "name": "server",
        "image": plan.server_image,
        "imagePullPolicy": settings.images.pull_policy,
        "args": arguments,
        "ports": _ports(plan),
        # The port opens when the model is available, and not before.
        "startupProbe": {**probe, "periodSeconds": _PROBE_SECONDS,
                         "failureThreshold": -(-settings.start_seconds // _PROBE_SECONDS)},
        "readinessProbe": {**probe, "periodSeconds": 2, "failureThreshold": 1, "timeoutSeconds": 2},
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6, "timeoutSeconds": 5},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(plan.drain_seconds)]}}},
        "resources": _resources(plan),
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",  # why an enclave was refused is in the pod's status
        "volumeMounts": mounts,
    }  # fmt: skip
    if plan.simulated:  # the launcher passes on the measured environment, and nothing else
        container["env"] = [NODE_VARIABLE]
    return container


def _ports(plan: Plan) -> list[Manifest]:
    ports: list[Manifest] = [{"name": "grpc", "containerPort": SERVER_PORT}]
    if (metrics := plan.deployment.server.metrics_port) is not None:
        ports.append({"name": METRICS_PORT, "containerPort": metrics})
    return ports


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


def _volumes(plan: Plan) -> list[Manifest]:
    volumes: list[Manifest] = [
        {"name": "settings", "configMap": {"name": plan.name(PART)}},
        {"name": "scratch", "emptyDir": {"sizeLimit": _SLACK}},
    ]
    if plan.simulated:
        memory = {"medium": "Memory", "sizeLimit": plan.shipped.size + _SLACK}
        volumes += [
            {"name": "quoting", "hostPath": {"path": QUOTING_FOLDER, "type": "DirectoryOrCreate"}},
            {"name": "memory", "emptyDir": memory},
        ]
    else:
        volumes.append({"name": "quoting", "hostPath": {"path": AESM_FOLDER, "type": "Directory"}})
    return volumes


def _service(plan: Plan) -> Manifest:
    ports = [{"name": "grpc", "port": SERVER_PORT, "targetPort": "grpc", "appProtocol": "tls"}]
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
