"""The simulated platform on each node, in place of a processor with SGX and its aesmd: only for simulated enclaves.

One simulated processor is on every node. Its keys are what a real one never shows, so they are in a Secret here.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from sealserve.cluster.kubernetes.plan import WORKSPACE, Manifest, Plan, container_security
from sealserve.cluster.kubernetes.replicas import NODE_VARIABLE, QUOTING_FOLDER
from sealserve.containers.recipes import SERVICE_USER
from sealserve.workspace import DEPLOYMENT_FILE

PART: Final = "simulated-platform"
_HOST: Final = f"{WORKSPACE}/.sealserve/host"


def platform(plan: Plan, files: Mapping[str, str]) -> Sequence[Manifest]:
    """Return the objects of the simulated platform.

    Args:
        plan: What is rendered.
        files: The platform's files: name, and content in base64.
    """
    labels = plan.labels(PART)
    # The kubelet makes the folder for root; who answers there is the service's user.
    owner = {
        "name": "folder",
        "image": plan.server_image,
        "imagePullPolicy": plan.settings.images.pull_policy,
        "command": ["chown", str(SERVICE_USER), QUOTING_FOLDER],
        "securityContext": {**container_security(), "runAsUser": 0, "runAsNonRoot": False,
                            "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}},
        "env": [NODE_VARIABLE],
        "volumeMounts": [{"name": "quoting", "mountPath": QUOTING_FOLDER, "subPathExpr": "$(NODE)"}],
    }  # fmt: skip
    container = {
        "name": "platform",
        "image": plan.server_image,
        "imagePullPolicy": plan.settings.images.pull_policy,
        "env": [NODE_VARIABLE],
        "args": ["simulated", "platform", "--directory", WORKSPACE],
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": container_security(),
        "volumeMounts": [
            {
                "name": "settings",
                "mountPath": f"{WORKSPACE}/{DEPLOYMENT_FILE}",
                "subPath": DEPLOYMENT_FILE,
                "readOnly": True,
            },
            {"name": "keys", "mountPath": f"{_HOST}/platform", "readOnly": True},
            {"name": "quoting", "mountPath": f"{_HOST}/run", "subPathExpr": "$(NODE)"},
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108  # the pod's own
        ],
    }
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": plan.pod_security(),
        "terminationGracePeriodSeconds": 5,
        "tolerations": [{"operator": "Exists"}],
        "initContainers": [owner],
        "containers": [container],
        "volumes": [
            {"name": "settings", "configMap": {"name": plan.name("replicas")}},
            {"name": "keys", "secret": {"secretName": plan.name(PART), "defaultMode": 0o440}},
            {"name": "quoting", "hostPath": {"path": QUOTING_FOLDER, "type": "DirectoryOrCreate"}},
            {"name": "scratch", "emptyDir": {"sizeLimit": "16Mi"}},
        ],
    }
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": plan.metadata(PART), "type": "Opaque", "data": dict(files)},
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": plan.metadata(PART), "spec": spec},
    ]
