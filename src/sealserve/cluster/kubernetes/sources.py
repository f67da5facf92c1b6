"""The source of a release for a pod: an init container fetches it or copies it from an image, and verifies it.

This verification helps diagnosis but is not a protection: the host may change the files afterwards. The protection is
that the enclave rejects changed files. The folder is writable, because Gramine opens encrypted files read-write.
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
"""The path of the packed release in an image."""

PLACEHOLDER: Final = "{release}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The source of a release: the pod's init containers and volumes."""

    init_containers: Sequence[Manifest]
    volumes: Sequence[Manifest]


def source(context: RenderContext) -> Source:
    """Return the source of a release for a pod.

    Raises:
        NotRenderableError: ``kubernetes.store.source`` is missing or has an unknown form.
    """
    text = location(context)
    if text.startswith(CLAIM):
        claim = {"persistentVolumeClaim": {"claimName": text.removeprefix(CLAIM)}}
        verify = _container(context, "verify", ["release", "verify", context.shipped.name, "--host"])
        return Source(init_containers=[verify], volumes=[{"name": "releases", **claim}])
    # Room for the packed and the unpacked release.
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
    """Return the name of the claim that contains releases, or None if the deployment uses no claim."""
    text = context.settings.store.source or ""
    return text.removeprefix(CLAIM) if text.startswith(CLAIM) else None


def location(context: RenderContext) -> str:
    """Return the location of the release, with the release's name filled in.

    Raises:
        NotRenderableError: As for `source`.
    """
    text = context.settings.store.source
    if text is None or not text.startswith((CLAIM, _IMAGE, *_WEB)):
        raise NotRenderableError(
            f"Pods cannot fetch the release: kubernetes.store.source must be a URL, an image or a claim, "
            f"got {'nothing' if text is None else repr(text)}.",
            hint="Write the release with `sealserve release pack`, and put it where pods can reach it. Set the source "
            'to "https://store.example.com/{release}.tar" (or a pre-signed URL of an S3 store), "image:REFERENCE" with '
            '/bundle.tar in it, or "claim:NAME".',
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
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108  # the pod's own folder
            *mounts,
        ],
    }


def _small() -> Manifest:
    return {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
