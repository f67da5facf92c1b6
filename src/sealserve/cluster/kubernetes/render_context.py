"""Common properties of the Kubernetes objects of one deployment: names, labels, ports, the release, durations."""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeAlias

from sealserve.cluster.target import drain_seconds
from sealserve.containers.recipes import SERVICE_USER, ImageName, images_for, reference
from sealserve.deployment import Deployment, KubernetesSection
from sealserve.errors import InputError
from sealserve.terms import PlatformKind

Manifest: TypeAlias = dict[str, Any]
"""A Kubernetes object as the API represents it."""

APPLICATION: Final = "sealserve"
_LABEL_LENGTH: Final = 63


class NotRenderableError(InputError):
    """The deployment lacks settings that its Kubernetes objects require, or the settings contradict each other."""

    code = "kubernetes.not-renderable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """The public properties of the release that is served.

    Args:
        name: Name of its folder.
        size: Total size of its sealed files, in bytes.
        owner_key: The owner's public key (PEM), which verifies it.
        broker: Name and port of the broker; measured.
        epc: The enclave's size in bytes.
        rest: Whether its enclave has a REST API; measured.
        client_certificates: Whether its index shows that users need a client certificate.
    """

    name: str
    size: int
    owner_key: str
    broker: tuple[str, int]
    epc: int
    rest: bool = False
    client_certificates: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderContext:
    """The deployment to render.

    Args:
        deployment: The deployment that ``sealserve.toml`` describes.
        shipped: The release to serve.
        replicas: The number of replica pods.
    """

    deployment: Deployment
    shipped: Shipped
    replicas: int

    @property
    def settings(self) -> KubernetesSection:
        """The section ``[kubernetes]``."""
        return self.deployment.kubernetes

    @property
    def simulated(self) -> bool:
        """Whether the enclaves are simulated."""
        return self.deployment.platform is PlatformKind.SIMULATED

    @property
    def drain_seconds(self) -> int:
        """Seconds that a pod waits before it is asked to end: longer than the maximum age of a connection.

        By then every connection has been drained at its maximum age, and no new connection has arrived: the pod left
        its Service when its deletion began. TensorFlow Serving's binary ends immediately on SIGTERM, so this wait is
        its only drain.
        """
        return drain_seconds(self.deployment)

    def name(self, part: str) -> str:
        """Return the name of a part's object."""
        return f"{APPLICATION}-{part}"

    def labels(self, part: str) -> dict[str, str]:
        """Return the labels that select a part's pods."""
        return {"app.kubernetes.io/name": APPLICATION, "app.kubernetes.io/component": part}

    def metadata(self, part: str, *, labels: Mapping[str, str] | None = None, **more: Any) -> Manifest:
        """Return an object's metadata."""
        own = {**self.labels(part), "app.kubernetes.io/managed-by": APPLICATION, **(labels or {})}
        return {"name": self.name(part), "namespace": self.settings.namespace, "labels": own, **more}

    def image(self, name: ImageName) -> str:
        """Return an image's name."""
        return reference(self.deployment.images.prefix, name, self.deployment.images.tag)

    def pod_security(self) -> Manifest:
        """Return a pod's ``securityContext``: a non-root user, and the runtime's default seccomp profile.

        The user is the images' user, a number from the deployment, or assigned by the platform. OpenShift's restricted
        security context constraints give each namespace a range of user IDs, and reject every other ID.
        """
        chosen = self.settings.run_as_user
        user = SERVICE_USER if chosen == "image" else chosen
        ids = {} if user == "platform" else {"runAsUser": user, "runAsGroup": user, "fsGroup": user}
        return {"runAsNonRoot": True, **ids, "seccompProfile": {"type": "RuntimeDefault"}}

    def service(self, part: str, spec: Manifest, **metadata: Any) -> Manifest:
        """Return the Service of a part, with the deployment's IP families.

        Source: https://kubernetes.io/docs/concepts/services-networking/dual-stack/ ("Services").
        """
        families: Manifest = {}
        if chosen := self.settings.ip_families:
            policy = "SingleStack" if len(chosen) == 1 else "RequireDualStack"
            families = {"ipFamilyPolicy": policy, "ipFamilies": list(chosen)}
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self.metadata(part, **metadata),
            "spec": {**spec, "selector": self.labels(part), **families},
        }

    @property
    def server_image(self) -> str:
        """The image of the replicas."""
        return self.image(images_for(self.deployment.runtime)[-1])


def container_security() -> Manifest:
    """Return a container's ``securityContext``: no privileges, no capabilities, a read-only root file system."""
    return {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def label_value(text: str) -> str:
    """Return ``text`` as a valid label value of at most 63 characters. A longer text ends in its digest."""
    clean = re.sub(r"[^A-Za-z0-9_.-]", "-", text)
    if len(clean) > _LABEL_LENGTH:
        clean = f"{clean[:52]}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    return clean.strip("-_.")


_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]([+-]?[0-9]{1,2})|([numkMGTPE]|[KMGTPE]i)?)")
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = "KMGTPE"


def quantity(text: str) -> int:
    """Return the value of a Kubernetes quantity, rounded up to an integer.

    Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/.

    Raises:
        ValueError: The text is not a quantity.
    """
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a Kubernetes quantity")
    unit = found[3] or ""
    if unit.endswith("i"):
        factor = Decimal(1024) ** (_BINARY.index(unit[0]) + 1)
    else:
        factor = Decimal(10) ** (int(found[2]) if found[2] else _DECIMAL[unit])
    return math.ceil(Decimal(found[1]) * factor)
