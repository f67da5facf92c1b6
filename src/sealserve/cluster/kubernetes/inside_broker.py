"""The owner's broker in the cluster, for trials: its host then holds the keys that it must never have.

So it is there for simulated enclaves only, and only where `broker.dangerous_inside` asks for it. The Secret has what
the broker reads of the owner's folder, and the simulated vendor's; the pod works on a copy in memory, so its audit log
ends with the pod. What the owner changes on his own machine arrives with the next `up`.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Final

import tomli_w

from sealserve.bundle import OwnersBroker
from sealserve.cluster.container_layout import WORKSPACE_FOLDER
from sealserve.cluster.kubernetes.render_context import (
    Manifest,
    NotRenderableError,
    RenderContext,
    container_security,
)
from sealserve.containers.recipes import ImageName
from sealserve.terms import EVERY_ADDRESS
from sealserve.workspace import DEPLOYMENT_FILE, FOLDER

PART: Final = "broker"
_MATERIAL: Final = "/material"
_STATE: Final = "sealserve/material"
_LARGEST: Final = 2**20 - 2**14  # of a Secret, without its names: kubernetes.io/docs/concepts/configuration/secret


def service_name(context: RenderContext) -> str:
    """Return the name of the broker in the cluster's DNS, without the cluster's domain."""
    return f"{context.name(PART)}.{context.settings.namespace}.svc"


def material(context: RenderContext, broker: OwnersBroker) -> Mapping[str, str]:
    """Return the files that the broker reads: path in the workspace, and content in base64.

    Args:
        context: What is rendered.
        broker: The owner's broker, with the files that its owner handed over.

    Raises:
        NotRenderableError: The deployment does not allow it, or they are too large for a Secret.
    """
    _require_trial(context)
    if broker.needs_passphrase:
        raise _not_openable()
    files = {**broker.files, DEPLOYMENT_FILE: tomli_w.dumps(_settings(context)).encode()}
    if (size := sum(map(len, files.values()))) > _LARGEST:
        raise NotRenderableError(
            f"The owner's material has {size} bytes, too many for a Secret of Kubernetes.",
            hint="Run the broker on the owner's machine: kubernetes.broker.dangerous_inside = false.",
        )
    return {path: base64.b64encode(content).decode() for path, content in sorted(files.items())}


def inside_broker(context: RenderContext, files: Mapping[str, str]) -> Sequence[Manifest]:
    """Return the broker's objects: its Secret, Deployment and Service.

    Args:
        context: What is rendered.
        files: What `material` returned.
    """
    labels = context.labels(PART)
    keys = {path: hashlib.sha256(path.encode()).hexdigest()[:32] for path in files}  # a key may have no slash
    data = {keys[path]: content for path, content in files.items()}
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    port = context.shipped.broker[1]
    # The broker refuses files that others may read, as those of a Secret are; and it writes its database.
    sources = f"{_MATERIAL}/{FOLDER} {_MATERIAL}/{DEPLOYMENT_FILE}"
    copy = {
        **_container(context, "material", []),
        "command": ["sh", "-c", f"umask 077 && cp -RL --no-preserve=all {sources} {WORKSPACE_FOLDER}/"],
    }
    copy["volumeMounts"] = [*copy["volumeMounts"], {"name": "material", "mountPath": _MATERIAL, "readOnly": True}]
    broker = {
        **_container(context, "broker", ["broker", "run", "--directory", WORKSPACE_FOLDER]),
        "ports": [{"name": "broker", "containerPort": port}],
        "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
    }
    vendor = _container(context, "vendor", ["simulated", "pcs", "--directory", WORKSPACE_FOLDER])
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": context.pod_security(),
        "terminationGracePeriodSeconds": 5,
        "initContainers": [copy],
        "containers": [broker, vendor],
        "volumes": [
            {"name": "material", "secret": {
                "secretName": context.name(PART), "defaultMode": 0o440,
                "items": [{"key": key, "path": path} for path, key in keys.items()],
            }},
            {"name": "workspace", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
            {"name": "scratch", "emptyDir": {"sizeLimit": "16Mi"}},
        ],
    }  # fmt: skip
    template = {"metadata": {"labels": labels, "annotations": {_STATE: digest}}, "spec": pod}
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "strategy": {"type": "Recreate"},
        "template": template,
    }
    ports = [{"name": "broker", "port": port, "targetPort": "broker"}]
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": context.metadata(PART), "type": "Opaque", "data": data},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": context.metadata(PART), "spec": spec},
        context.service(PART, {"type": "ClusterIP", "ports": ports}),
    ]  # fmt: skip


def _require_trial(context: RenderContext) -> None:
    if not context.simulated:
        raise NotRenderableError(
            "kubernetes.broker.dangerous_inside gives the cluster's hosts the keys: it is for simulated enclaves only.",
            hint="Run the broker on the owner's machine, outside of the cluster.",
        )
    expected = service_name(context)
    if context.shipped.broker[0] not in {expected, f"{expected}.cluster.local"}:
        raise NotRenderableError(
            f"Enclaves look for the broker at {context.shipped.broker[0]!r}, and in the cluster it is {expected!r}.",
            hint=f'Set broker.address = "{expected}"; it is measured, so the release gets another enclave.',
        )
    if context.deployment.keystore.kind != "file" or context.deployment.keystore.passphrase_file is not None:
        raise _not_openable()


def _not_openable() -> NotRenderableError:
    return NotRenderableError(
        "The broker in a cluster reads a master key from a file without a passphrase.",
        hint='Set keystore.kind = "file", or run the broker on the owner\'s machine.',
    )


def _settings(context: RenderContext) -> dict[str, object]:
    """Return the broker's ``sealserve.toml``: what it appraises by is in its database."""
    broker = context.deployment.broker
    section: dict[str, object] = {
        "name": broker.name,
        "address": broker.address,
        "listen": EVERY_ADDRESS,  # a pod's address is not known before; NetworkPolicies decide who may connect
        "port": context.shipped.broker[1],
    }
    return {
        "platform": context.deployment.platform.value,
        "model": {"name": context.deployment.model.name},
        "broker": section,
    }


def _container(context: RenderContext, name: str, arguments: Sequence[str]) -> Manifest:
    return {
        "name": name,
        "image": context.image(ImageName.BROKER),
        "imagePullPolicy": context.settings.images.pull_policy,
        "args": list(arguments),
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "workspace", "mountPath": WORKSPACE_FOLDER},
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108  # the pod's own
        ],
    }
