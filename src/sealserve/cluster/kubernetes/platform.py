"""The simulated platform on each node, which replaces an SGX processor and aesmd. Only for simulated enclaves.

All nodes have the same simulated processor. Its keys are in a Secret. A genuine processor never reveals such keys.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from sealserve.cluster.container_layout import WORKSPACE_FOLDER
from sealserve.cluster.kubernetes.render_context import Manifest, RenderContext, container_security
from sealserve.cluster.kubernetes.replicas import NODE_VARIABLE
from sealserve.cluster.replica import SIMULATED_QUOTING_FOLDER
from sealserve.containers.recipes import SERVICE_USER
from sealserve.workspace import DEPLOYMENT_FILE, FOLDER

PART: Final = "simulated-platform"
_HOST: Final = f"{WORKSPACE_FOLDER}/{FOLDER}/host"


def platform(context: RenderContext, files: Mapping[str, str]) -> Sequence[Manifest]:
    """Return the objects of the simulated platform.

    Args:
        context: The deployment to render.
        files: The platform's files: names, and contents in base64.
    """
    labels = context.labels(PART)
    # The kubelet creates the folder for root, but the service that listens there runs as a different user.
    owner = {
        "name": "folder",
        "image": context.server_image,
        "imagePullPolicy": context.settings.images.pull_policy,
        "command": ["chown", str(SERVICE_USER), SIMULATED_QUOTING_FOLDER],
        "securityContext": {**container_security(), "runAsUser": 0, "runAsNonRoot": False,
                            "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}},
        "env": [NODE_VARIABLE],
        "volumeMounts": [{"name": "quoting", "mountPath": SIMULATED_QUOTING_FOLDER, "subPathExpr": "$(NODE)"}],
    }  # fmt: skip
    container = {
        "name": "platform",
        "image": context.server_image,
        "imagePullPolicy": context.settings.images.pull_policy,
        "env": [NODE_VARIABLE],
        "args": ["simulated", "platform", "--directory", WORKSPACE_FOLDER],
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": container_security(),
        "volumeMounts": [
            {
                "name": "settings",
                "mountPath": f"{WORKSPACE_FOLDER}/{DEPLOYMENT_FILE}",
                "subPath": DEPLOYMENT_FILE,
                "readOnly": True,
            },
            {"name": "keys", "mountPath": f"{_HOST}/platform", "readOnly": True},
            {"name": "quoting", "mountPath": f"{_HOST}/run", "subPathExpr": "$(NODE)"},
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108  # the pod's own folder
        ],
    }
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": context.pod_security(),
        "terminationGracePeriodSeconds": 5,
        "tolerations": [{"operator": "Exists"}],
        "initContainers": [owner],
        "containers": [container],
        "volumes": [
            {"name": "settings", "configMap": {"name": context.name("replicas")}},
            {"name": "keys", "secret": {"secretName": context.name(PART), "defaultMode": 0o440}},
            {"name": "quoting", "hostPath": {"path": SIMULATED_QUOTING_FOLDER, "type": "DirectoryOrCreate"}},
            {"name": "scratch", "emptyDir": {"sizeLimit": "16Mi"}},
        ],
    }
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": context.metadata(PART),
            "type": "Opaque",
            "data": dict(files),
        },
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": context.metadata(PART), "spec": spec},
    ]
