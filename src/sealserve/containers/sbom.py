"""An image's software bill of materials in CycloneDX 1.6, JSON.

Source: cyclonedx.org/docs/1.6/json, ECMA-424; oci package URLs: purl-spec, type oci.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from sealserve import __version__
from sealserve.containers.contents import Package
from sealserve.containers.engine import Image

SPEC_VERSION: Final = "1.6"
_NAMESPACE: Final = uuid.UUID("a5a1d4a3-5b0c-5d9b-9d5b-2c3f7c1f4f0e")
"""Namespace of the serial numbers: the same image always gets the same serial number."""


def bill_of_materials(image: Image, bases: Mapping[str, Image], packages: Sequence[Package]) -> bytes:
    """Return the bill of materials of an image.

    Args:
        image: The image.
        bases: Its base images by build argument. Their digests are recorded.
        packages: The packages that are installed in it.
    """
    root = _image_component(image)
    components = [_image_component(base, argument=argument) for argument, base in sorted(bases.items())]
    components += [_package_component(package) for package in packages]
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, image.id)}",
        "version": 1,
        "metadata": {
            **({"timestamp": _timestamp(image.created)} if image.created else {}),
            "tools": {"components": [{"type": "application", "name": "sealserve", "version": __version__}]},
            "component": root,
        },
        "components": components,
        "dependencies": [
            {"ref": root["bom-ref"], "dependsOn": sorted({component["bom-ref"] for component in components})}
        ],
    }
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _timestamp(created: str) -> str:
    return datetime.fromisoformat(created).astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _image_component(image: Image, *, argument: str | None = None) -> dict[str, Any]:
    digest = image.digests[0].partition("@")[2] if image.digests else image.id
    repository = image.reference.partition("@")[0]
    name, _, tag = repository.rpartition(":") if ":" in repository.rpartition("/")[2] else (repository, "", "")
    properties = [{"name": "sealserve:image-id", "value": image.id}]
    properties += [{"name": "sealserve:repository-digest", "value": digest} for digest in image.digests]
    if argument is not None:
        properties.append({"name": "sealserve:build-argument", "value": argument})
    return {
        "type": "container",
        "bom-ref": f"{argument or 'image'}:{image.id}",
        "name": name,
        "version": tag or digest,
        "purl": f"pkg:oci/{name.rpartition('/')[2].lower()}@{quote(digest, safe='')}",
        "hashes": [{"alg": "SHA-256", "content": image.id.removeprefix("sha256:")}],
        "properties": properties,
    }


def _package_component(package: Package) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
    }
