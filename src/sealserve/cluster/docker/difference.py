"""The changes that `up` would make on the Docker target, as text for people."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sealserve.cluster.docker.fleet import Running
from sealserve.cluster.docker.parts import Container
from sealserve.containers.engine import Image

_SHORT: Final = 12  # number of digits of an image ID in the output of `docker images`
_SETTINGS: Final = 8


def difference(found: Iterable[Running], described: Iterable[Container], images: Mapping[str, Image | None]) -> str:
    """Return a unified diff with a line for each container: its release, its image, and a digest of its settings.

    Args:
        found: The existing containers.
        described: The containers that should exist.
        images: The engine's images by the names of the described images.
    """
    before = [
        _line(container.role, container.release, container.image, container.digest, ended=not container.is_running)
        for container in found
    ]
    after = [
        _line(container.role, container.facts.get("release", ""), image.id if image else "", container.digest)
        for container in described
        for image in [images[container.image]]
    ]
    return "".join(_diff(sorted(before), sorted(after)))


def _diff(before: Sequence[str], after: Sequence[str]) -> Iterable[str]:
    return difflib.unified_diff(before, after, "running/containers", "deployment/containers")


def _line(role: str, release: str, image: str, digest: str, *, ended: bool = False) -> str:
    shown = image.rpartition(":")[2][:_SHORT] or "not available yet"
    parts = [f"release {release}"] if release else []
    parts += [f"image {shown}", f"settings {digest[:_SETTINGS]}", *(["not running"] if ended else [])]
    return f"{role}: {', '.join(parts)}\n"
