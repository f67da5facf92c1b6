"""How a release comes to a pod: an init container fetches it, or copies it from an image, and verifies it.

Verifying there is a diagnosis, not a protection: the host may change the files afterwards. What protects is that the
enclave refuses them. The folder can be written, since Gramine opens encrypted files read-write.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sealserve.cluster.container_layout import RELEASE_SLACK, SETTINGS_FOLDER, WORKSPACE_FOLDER
from sealserve.cluster.kubernetes.render_context import Manifest, NotRenderableError, RenderContext, container_security
from sealserve.cluster.replica import RELEASES
from sealserve.workspace import DEPLOYMENT_FILE

CLAIM: Final = "claim:"
_IMAGE: Final = "image:"
_WEB: Final = ("https://", "http://")
_TRANSFER: Final = "/transfer"
BUNDLE: Final = "/bundle.tar"
"""Where an image has the packed release."""

PLACEHOLDER: Final = "{release}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """How the release comes: the pod's init containers and volumes, and where it is fetched from, if it is."""

    init_containers: Sequence[Manifest]
    volumes: Sequence[Manifest]


def source(context: RenderContext) -> Source:
    """Return how the release comes to a pod.

    Raises:
        NotRenderableError: ``kubernetes.store.source`` is missing or none that is known.
    """
    text = location(context)
    if text.startswith(CLAIM):
        claim = {"persistentVolumeClaim": {"claimName": text.removeprefix(CLAIM)}}
        verify = _container(context, "verify", ["release", "verify", context.shipped.name, "--host"])
        return Source(init_containers=[verify], volumes=[{"name": "releases", **claim}])
    # Once as it travels, once unpacked.
    room = {"name": "releases", "emptyDir": {"sizeLimit": 2 * context.shipped.size + RELEASE_SLACK}}
    if text.startswith(_IMAGE):
        transfer = {"name": "transfer", "mountPath": _TRANSFER}
        copy = {
            "name": "copy",
            "image": text.removeprefix(_IMAGE),
            "imagePullPolicy": context.settings.images.pull_policy,
            "command": ["cp", BUNDLE, f"{_TRANSFER}/bundle.tar"],
            "resources": _small(),
            "securityContext": container_security(),
            "volumeMounts": [transfer],
        }
        unpack = _container(
            context, "unpack", ["release", "unpack", f"{_TRANSFER}/bundle.tar"], {**transfer, "readOnly": True}
        )
        volume = {"name": "transfer", "emptyDir": {"sizeLimit": context.shipped.size + RELEASE_SLACK}}
        return Source(init_containers=[copy, unpack], volumes=[room, volume])
    fetch = _container(context, "fetch", ["release", "fetch", text])
    return Source(init_containers=[fetch], volumes=[room])


def claim_of(context: RenderContext) -> str | None:
    """Return the name of the claim that releases are on, or None if they come in another way."""
    text = context.settings.store.source or ""
    return text.removeprefix(CLAIM) if text.startswith(CLAIM) else None


def location(context: RenderContext) -> str:
    """Return where the release comes from, its name filled in.

    Raises:
        NotRenderableError: As `source`.
    """
    text = context.settings.store.source
    if text is None or not text.startswith((CLAIM, _IMAGE, *_WEB)):
        raise NotRenderableError(
            "kubernetes.store.source does not say where pods fetch the release from.",
            hint='`sealserve release pack` writes it; put it where pods can reach it: "https://store.example.com/'
            '{release}.tar" (or an S3 store\'s pre-signed address), "image:REFERENCE" with /bundle.tar in it, or '
            '"claim:NAME".',
        )
    return text.replace(PLACEHOLDER, context.shipped.name)


def _container(context: RenderContext, name: str, arguments: Sequence[str], *mounts: Manifest) -> Manifest:
    settings = {"name": "settings", "readOnly": True}
    return {
        "name": name,
        "image": context.server_image,
        "imagePullPolicy": context.settings.images.pull_policy,
        "args": [*arguments, "--owner-key", f"{SETTINGS_FOLDER}/owner.pub", "--directory", WORKSPACE_FOLDER],
        "resources": _small(),
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {**settings, "mountPath": f"{WORKSPACE_FOLDER}/{DEPLOYMENT_FILE}", "subPath": DEPLOYMENT_FILE},
            {**settings, "mountPath": SETTINGS_FOLDER},
            {"name": "releases", "mountPath": RELEASES},
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108  # the pod's own
            *mounts,
        ],
    }


def _small() -> Manifest:
    return {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
