"""The owner's broker in the cluster, for trials: its host then holds the keys that it must never have.

So it is there for simulated enclaves only, and only where `broker.dangerous_inside` asks for it. The Secret has what
the broker reads of the owner's folder, and the simulated vendor's; the pod works on a copy in memory, so its audit log
ends with the pod. What the owner changes on his own machine arrives with the next `up`.
"""

import base64
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import tomli_w

from sealserve.broker.master_key import needs_passphrase
from sealserve.cluster.kubernetes.plan import (
    WORKSPACE,
    Manifest,
    NotRenderableError,
    Plan,
    container_security,
)
from sealserve.containers.recipes import ImageName
from sealserve.owner.owner import Owner
from sealserve.terms import EVERY_ADDRESS
from sealserve.workspace import DEPLOYMENT_FILE, Workspace

PART: Final = "broker"
_MATERIAL: Final = "/material"
_STATE: Final = "sealserve/material"
_LARGEST: Final = 2**20 - 2**14  # of a Secret, without its names: kubernetes.io/docs/concepts/configuration/secret


def service_name(plan: Plan) -> str:
    """Return the name of the broker in the cluster's DNS, without the cluster's domain."""
    return f"{plan.name(PART)}.{plan.settings.namespace}.svc"


def material(workspace: Workspace, plan: Plan) -> Mapping[str, str]:
    """Return the files that the broker reads: path in the workspace, and content in base64.

    Raises:
        NotRenderableError: The deployment does not allow it, or they are too large for a Secret.
    """
    _require_trial(plan)
    Owner.open(workspace).create_audit_key()  # a workspace of an earlier version has none yet
    files = {str(path.relative_to(workspace.directory)): path.read_bytes() for path in _files(workspace)}
    files[str(workspace.owner.database.relative_to(workspace.directory))] = _snapshot(workspace.owner.database)
    files[DEPLOYMENT_FILE] = tomli_w.dumps(_settings(plan)).encode()
    if needs_passphrase(workspace.owner.master_key.read_bytes()):
        raise _not_openable()
    if (size := sum(map(len, files.values()))) > _LARGEST:
        raise NotRenderableError(
            f"The owner's material has {size} bytes, too many for a Secret of Kubernetes.",
            hint="Run the broker on the owner's machine: kubernetes.broker.dangerous_inside = false.",
        )
    return {path: base64.b64encode(content).decode() for path, content in sorted(files.items())}


def inside_broker(plan: Plan, files: Mapping[str, str]) -> Sequence[Manifest]:
    """Return the broker's objects: its Secret, Deployment and Service.

    Args:
        plan: What is rendered.
        files: What `material` returned.
    """
    labels = plan.labels(PART)
    keys = {path: hashlib.sha256(path.encode()).hexdigest()[:32] for path in files}  # a key may have no slash
    data = {keys[path]: content for path, content in files.items()}
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    port = plan.shipped.broker[1]
    # The broker refuses files that others may read, as those of a Secret are; and it writes its database.
    copy = {
        **_container(plan, "material", []),
        "command": [
            "sh",
            "-c",
            f"umask 077 && cp -RL --no-preserve=all {_MATERIAL}/.sealserve {_MATERIAL}/{DEPLOYMENT_FILE} {WORKSPACE}/",
        ],
    }
    copy["volumeMounts"] = [*copy["volumeMounts"], {"name": "material", "mountPath": _MATERIAL, "readOnly": True}]
    broker = {
        **_container(plan, "broker", ["broker", "run", "--directory", WORKSPACE]),
        "ports": [{"name": "broker", "containerPort": port}],
        "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
    }
    vendor = _container(plan, "vendor", ["simulated", "pcs", "--directory", WORKSPACE])
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": plan.pod_security(),
        "terminationGracePeriodSeconds": 5,
        "initContainers": [copy],
        "containers": [broker, vendor],
        "volumes": [
            {"name": "material", "secret": {
                "secretName": plan.name(PART), "defaultMode": 0o440,
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
        {"apiVersion": "v1", "kind": "Secret", "metadata": plan.metadata(PART), "type": "Opaque", "data": data},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": plan.metadata(PART), "spec": spec},
        plan.service(PART, {"type": "ClusterIP", "ports": ports}),
    ]  # fmt: skip


def _require_trial(plan: Plan) -> None:
    if not plan.simulated:
        raise NotRenderableError(
            "kubernetes.broker.dangerous_inside gives the cluster's hosts the keys: it is for simulated enclaves only.",
            hint="Run the broker on the owner's machine, outside of the cluster.",
        )
    expected = service_name(plan)
    if plan.shipped.broker[0] not in {expected, f"{expected}.cluster.local"}:
        raise NotRenderableError(
            f"Enclaves look for the broker at {plan.shipped.broker[0]!r}, and in the cluster it is {expected!r}.",
            hint=f'Set broker.address = "{expected}"; it is measured, so the release gets another enclave.',
        )
    if plan.deployment.keystore.kind != "file" or plan.deployment.keystore.passphrase_file is not None:
        raise _not_openable()


def _not_openable() -> NotRenderableError:
    return NotRenderableError(
        "The broker in a cluster reads a master key from a file without a passphrase.",
        hint='Set keystore.kind = "file", or run the broker on the owner\'s machine.',
    )


def _files(workspace: Workspace) -> Iterator[Path]:
    owner = workspace.owner
    yield owner.master_key
    yield owner.audit_signing_key
    for folder in (owner.broker_tls, owner.trust, workspace.vendor.root):
        yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def _snapshot(database: Path) -> bytes:
    """Return the database as it is now, with what its log still holds."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.serialize()


def _settings(plan: Plan) -> dict[str, object]:
    """Return the broker's ``sealserve.toml``: what it appraises by is in its database."""
    broker = plan.deployment.broker
    section: dict[str, object] = {
        "name": broker.name,
        "address": broker.address,
        "listen": EVERY_ADDRESS,  # a pod's address is not known before; NetworkPolicies decide who may connect
        "port": plan.shipped.broker[1],
    }
    return {
        "platform": plan.deployment.platform.value,
        "model": {"name": plan.deployment.model.name},
        "broker": section,
    }


def _container(plan: Plan, name: str, arguments: Sequence[str]) -> Manifest:
    return {
        "name": name,
        "image": plan.image(ImageName.BROKER),
        "imagePullPolicy": plan.settings.images.pull_policy,
        "args": list(arguments),
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "workspace", "mountPath": WORKSPACE},
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108  # the pod's own
        ],
    }
