"""The owner's broker in the cluster, for trials: the cluster's hosts then hold keys that they must never have.

So it is available only for simulated enclaves, and only if `broker.dangerous_inside` is set. The Secret contains the
files of the owner's folder that the broker reads, and the simulated vendor's files. The pod works on a copy in memory,
so its audit log ends with the pod. Changes that the owner makes on the owner's machine arrive with the next `up`.

With a PostgreSQL database, the pod shares the database with the owner. The log then remains, and changes take effect at
once. The Secret also contains the files that `[database]` and `[keystore]` name. Neither a password nor a token is in
the environment, in an argument or in another object. The pod reaches the database and Vault or OpenBao
(`services_outside`), and no other address.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import tomli_w

from sealserve.bundle import OwnersBroker
from sealserve.cluster.container_layout import WORKSPACE_FOLDER
from sealserve.cluster.kubernetes.render_context import (
    Manifest,
    NotRenderableError,
    RenderContext,
    container_security,
)
from sealserve.cluster.kubernetes.services_outside import check_services
from sealserve.containers.recipes import ImageName
from sealserve.deployment.section import Section
from sealserve.deployment.setting_files import SETTING_FILES, setting_files
from sealserve.terms import EVERY_ADDRESS, CollateralUpdate
from sealserve.workspace import DEPLOYMENT_FILE, FOLDER

PART: Final = "broker"
_MATERIAL: Final = "/material"
_STATE: Final = "sealserve/material"
_LARGEST: Final = 2**20 - 2**14  # bytes in a Secret, less its names: kubernetes.io/docs/concepts/configuration/secret


def service_name(context: RenderContext) -> str:
    """Return the name of the broker in the cluster's DNS, without the cluster's domain."""
    return f"{context.name(PART)}.{context.settings.namespace}.svc"


def material(context: RenderContext, broker: OwnersBroker) -> Mapping[str, str]:
    """Return the files that the broker reads: paths in the workspace, and contents in base64.

    Args:
        context: The deployment to render.
        broker: The owner's broker, with the files that the owner's side provided.

    Raises:
        NotRenderableError: The deployment does not allow a broker in the cluster, or the files exceed a Secret's size.
    """
    _require_trial(context)
    if broker.needs_passphrase and context.deployment.keystore.passphrase_file is None:
        raise NotRenderableError(
            "The master key requires a passphrase, which cannot be typed into a pod.",
            hint="Set keystore.passphrase_file to a file (0600) with the passphrase, or remove the passphrase with "
            "`sealserve broker rotate-master --no-passphrase`.",
        )
    files = {**broker.files, DEPLOYMENT_FILE: tomli_w.dumps(_settings(context)).encode()}
    if (size := sum(map(len, files.values()))) > _LARGEST:
        raise NotRenderableError(
            f"The broker's files do not fit into a Kubernetes Secret: {size} bytes, expected at most {_LARGEST}.",
            hint="Run the broker on the owner's machine: kubernetes.broker.dangerous_inside = false.",
        )
    return {path: base64.b64encode(content).decode() for path, content in sorted(files.items())}


def inside_broker(context: RenderContext, files: Mapping[str, str]) -> Sequence[Manifest]:
    """Return the broker's objects: its Secret, Deployment and Service.

    Args:
        context: The deployment to render.
        files: The files that `material` returned.
    """
    labels = context.labels(PART)
    keys = {path: hashlib.sha256(path.encode()).hexdigest()[:32] for path in files}  # keys must not contain slashes
    data = {keys[path]: content for path, content in files.items()}
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    port = context.shipped.broker[1]
    # The broker rejects files that other users can read, such as a Secret's files. It also writes to its database.
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
            "kubernetes.broker.dangerous_inside gives the keys to the cluster's hosts, and works only with simulated "
            "enclaves: expected platform = 'simulated', got 'sgx'.",
            hint="Set it to false, and run the broker on the owner's machine, outside the cluster.",
        )
    expected = service_name(context)
    if context.shipped.broker[0] not in {expected, f"{expected}.cluster.local"}:
        raise NotRenderableError(
            f"The enclaves connect to the broker at {context.shipped.broker[0]!r}, but its name in the cluster is "
            f"{expected!r}.",
            hint=f'Set broker.address = "{expected}". It is measured, so the release needs a new enclave.',
        )
    check_services(context)


def _settings(context: RenderContext) -> dict[str, object]:
    """Return the broker's ``sealserve.toml``. The appraisal policies are in its database."""
    broker = context.deployment.broker
    section: dict[str, object] = {
        "name": broker.name,
        "address": broker.address,
        "listen": EVERY_ADDRESS,  # a pod's address is not known in advance; NetworkPolicies restrict connections
        "port": context.shipped.broker[1],
        "log_format": broker.log_format.value,
        "certificate_hours": broker.certificate_hours,
    }
    if broker.collateral_update is not CollateralUpdate.STANDARD:
        section["collateral_update"] = broker.collateral_update.value
    settings: dict[str, Any] = {
        "platform": context.deployment.platform.value,
        "model": {"name": context.deployment.model.name},
        "broker": section,
        # Without an issuing authority, the broker must not offer to issue certificates.
        "server": {"dangerous_owner_tls_key": context.deployment.server.dangerous_owner_tls_key},
    }
    # The sections as they are, with the paths of the copied files.
    for name in SETTING_FILES:
        described: Section = getattr(context.deployment, name)
        settings[name] = described.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    for file in setting_files(context.deployment):
        settings[file.section][file.name] = f"{WORKSPACE_FOLDER}/{FOLDER}/{file.place}"
    return settings


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
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108  # the pod's own folder
        ],
    }
