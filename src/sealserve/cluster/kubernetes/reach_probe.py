"""A short-lived pod that resolves a name in the cluster and checks whether a server answers there.

It uses the release's image and the same security settings as a replica, but not its labels. So no Service selects it.
"""

import ipaddress
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sealserve.cluster.kubernetes.cluster_client import ClusterClient, ObjectName
from sealserve.cluster.kubernetes.objects import namespace
from sealserve.cluster.kubernetes.progress import state_of
from sealserve.cluster.kubernetes.render_context import APPLICATION, Manifest, RenderContext, container_security
from sealserve.enclave.server_files import PROGRAMS
from sealserve.errors import UnavailableError
from sealserve.terms import ServerKind

NAME: Final = f"{APPLICATION}-doctor"
_SCRIPT: Final = """
import json, socket, sys
host, port = sys.argv[1], int(sys.argv[2])
found = {"addresses": [], "answers": False, "error": ""}
try:
    peers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found["addresses"] = sorted({peer[4][0] for peer in peers})
    socket.create_connection((host, port), timeout=5).close()
    found["answers"] = True
except OSError as error:
    found["error"] = error.strerror or str(error)
print(json.dumps(found))
"""
_LIFETIME: Final = 60
_PATIENCE: Final = 45.0  # an image may have to be pulled first
_HOPELESS: Final = (
    "ErrImage",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "no node has capacity",
)


class ProbeError(UnavailableError):
    """A pod that checks the cluster's network does not run."""

    code = "kubernetes.probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """The result of the pod's check.

    Args:
        addresses: The addresses of the name in the cluster. Empty if it does not resolve.
        answers: Whether a server accepted a connection.
        error: Why not.
    """

    addresses: Sequence[str]
    answers: bool
    error: str


def reach(context: RenderContext, client: ClusterClient, host: str, port: int) -> Reached:
    """Start a pod that resolves ``host`` and connects to it, and remove the pod again.

    It runs in the deployment's namespace, or in ``default`` if that does not exist yet.

    Raises:
        ProbeError: The pod does not run, or not in time.
        ClusterRefusedError: The pod may not be created.
    """
    space = context.settings.namespace
    if client.get(ObjectName.of(namespace(context))) is None:
        space = "default"
    name = ObjectName("v1", "Pod", space, NAME)
    _remove(client, name)  # remains of a run that was killed
    try:
        client.apply(_pod(context, space, host, port))
        return _wait(client, name)
    finally:
        _remove(client, name)


def _pod(context: RenderContext, space: str, host: str, port: int) -> Manifest:
    container = {
        "name": "doctor",
        "image": context.server_image,
        "imagePullPolicy": context.settings.images.pull_policy,
        "command": [PROGRAMS[ServerKind.EMBEDDED], "-I", "-B", "-c", _SCRIPT, host, str(port)],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": container_security(),
    }
    spec: Manifest = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": _LIFETIME,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": context.pod_security(),
        "containers": [container],
    }
    if context.settings.scheduling.node_selector:
        spec["nodeSelector"] = dict(context.settings.scheduling.node_selector)
    if context.settings.scheduling.tolerations:
        spec["tolerations"] = [{"key": key, "operator": "Exists"} for key in context.settings.scheduling.tolerations]
    if context.settings.images.pull_secret:
        spec["imagePullSecrets"] = [{"name": context.settings.images.pull_secret}]
    labels = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/managed-by": APPLICATION}
    metadata = {"name": NAME, "namespace": space, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _wait(client: ClusterClient, name: ObjectName) -> Reached:
    deadline = time.monotonic() + _PATIENCE
    while True:
        pod = client.get(name)
        if pod is None:
            raise ProbeError(f"The pod {name.name} was deleted before its check ended.", hint="Run the command again.")
        if pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
            return read(client.log(name.namespace, name.name, "doctor", last=20))
        _, reason = state_of(pod)
        if time.monotonic() > deadline or any(text in reason for text in _HOPELESS):
            raise ProbeError(
                f"The pod {name.name} does not run in {name.namespace}: {reason or 'it is still starting'}.",
                hint="Check that the nodes can pull the replicas' image, which it uses (images.prefix, "
                "kubernetes.images.pull_secret).",
            )
        time.sleep(0.5)


def read(log: Sequence[str]) -> Reached:
    """Return the pod's result. The output is not trusted, because a cluster may write anything there.

    Raises:
        ProbeError: The output is not a valid result.
    """
    try:
        found = json.loads(log[-1])
        addresses = [str(ipaddress.ip_address(text)) for text in found["addresses"]]
        return Reached(addresses=addresses, answers=found["answers"] is True, error=str(found["error"])[:200])
    except (IndexError, ValueError, TypeError, KeyError) as error:
        raise ProbeError(
            "The pod printed no valid result of its check.",
            hint="Run `sealserve doctor host --target kubernetes` again.",
        ) from error


def _remove(client: ClusterClient, name: ObjectName) -> None:
    if client.delete(name):
        deadline = time.monotonic() + _PATIENCE
        while client.get(name) is not None and time.monotonic() < deadline:
            time.sleep(0.2)
