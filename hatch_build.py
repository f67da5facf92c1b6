"""What a wheel has beside the Python files: the native cipher, and a bill of materials.

Hatchling loads this file when it builds a wheel, and passes over it for an editable installation. The cipher is
compiled where a C compiler and the headers of Python and OpenSSL are. Then the wheel is for this platform, and for
Python 3.11 and later (stable ABI). Without the cipher, the wheel is for every platform, and sealing uses Python code
instead. The environment variable SEALSERVE_NATIVE decides otherwise: ``required`` fails without a compiler, ``off``
compiles nothing.

The bill of materials is CycloneDX 1.6 (ECMA-424), in the place that PEP 770 defines. It lists the direct
dependencies, each with the version that the lock file holds, which is the version that the tests ran with. A wheel
contains no code of others.
"""

import importlib.util
import json
import os
import re
import sysconfig
import uuid
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CIPHER = "sealserve/sealing/_node_cipher.abi3.so"
PYTHON_TAG = "cp311-abi3"
NATIVE = ("auto", "required", "off")
NAMESPACE = uuid.UUID("a5a1d4a3-5b0c-5d9b-9d5b-2c3f7c1f4f0e")
"""Of the serial numbers: the same dependencies of the same version have the same serial number."""
NAME = re.compile(r"[A-Za-z0-9._-]+")


class CustomBuildHook(BuildHookInterface[Any]):
    """Adds the native cipher and the bill of materials to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the cipher and write the bill, before Hatchling assembles the wheel.

        Args:
            version: ``standard``, or ``editable`` for an installation that uses the checkout in place.
            build_data: Receives the files and the tag of the wheel.
        """
        if version == "editable":
            return
        root = Path(self.root)
        native = self._compile(root, build_data)
        bill = self._folder(root) / "sealserve.cdx.json"
        bill.write_text(bill_of_materials(self.metadata, root / "requirements" / "dev.lock", native=native))
        build_data["sbom_files"].append(str(bill.relative_to(root)))

    def _compile(self, root: Path, build_data: dict[str, Any]) -> bool:
        """Compile the native cipher if possible. Return whether the wheel has it."""
        wanted = os.environ.get("SEALSERVE_NATIVE", "auto")
        if wanted not in NATIVE:
            raise SystemExit(f"SEALSERVE_NATIVE: expected one of {', '.join(NATIVE)}, got {wanted!r}.")
        reason = "SEALSERVE_NATIVE is off"
        if wanted != "off":
            library = self._folder(root) / Path(CIPHER).name
            library.unlink(missing_ok=True)
            reason = _script(root / "scripts" / "native.py").compile_library(library)
            if reason is None:
                build_data["force_include"][str(library)] = CIPHER
                build_data["pure_python"] = False
                build_data["tag"] = f"{PYTHON_TAG}-{re.sub(r'[^a-z0-9_]', '_', sysconfig.get_platform())}"
                return True
            if wanted == "required":
                raise SystemExit(f"The native cipher was not compiled: {reason}.")
        self.app.display_warning(f"The wheel is built without the native cipher, so sealing is slower: {reason}.")
        return False

    def _folder(self, root: Path) -> Path:
        """Return a folder for the new files. Version control ignores it."""
        folder = root / "build" / "wheel"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def bill_of_materials(metadata: Any, lock: Path, *, native: bool) -> str:
    """Return the bill of materials of a wheel, as JSON. The same input gives the same text.

    Args:
        metadata: The project's metadata, of Hatchling's class `ProjectMetadata`.
        lock: A lock file that has all dependencies.
        native: Whether the wheel has the native cipher.
    """
    tested = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock.read_text(), re.MULTILINE))
    root = f"pkg:pypi/{metadata.core.name}@{metadata.version}"
    components = [_component(*item, tested) for item in sorted(_requirements(metadata).items())]
    if native:
        components.append({
            "type": "library", "bom-ref": "libcrypto", "name": "libcrypto", "version": "3", "scope": "optional",
            "description": "OpenSSL of the machine that the wheel runs on. The native cipher is linked to it.",
        })  # fmt: skip
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, json.dumps([root, components]))}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application", "bom-ref": root, "name": metadata.core.name, "version": metadata.version,
                "purl": root, "licenses": [{"license": {"id": metadata.core.license_expression}}],
            },
        },
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": [component["bom-ref"] for component in components]}],
    }  # fmt: skip
    return json.dumps(document, indent=2) + "\n"


def _requirements(metadata: Any) -> dict[str, list[str]]:
    """Return the extras that need each direct dependency. The list is empty for a dependency that is always needed."""
    found: dict[str, list[str]] = {requirement: [] for requirement in metadata.core.dependencies}
    for extra, requirements in metadata.core.optional_dependencies.items():  # Hatchling resolves extras of extras
        for requirement in requirements:
            found.setdefault(requirement, []).append(extra)
    return found


def _component(requirement: str, extras: list[str], tested: dict[str, str]) -> dict[str, Any]:
    found = NAME.match(requirement)
    assert found is not None, requirement  # noqa: S101  # Hatchling has read it
    name = found[0].lower().replace("_", "-")
    version = tested.get(name) or tested[f"{name}-cpu"]  # the lock file has tensorflow-cpu in place of tensorflow
    purl = f"pkg:pypi/{name}@{version}"
    properties = [("requirement", requirement), *(("extra", extra) for extra in extras)]
    return {
        "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
        "scope": "optional" if extras else "required",
        "properties": [{"name": f"sealserve:{name}", "value": value} for name, value in properties],
    }  # fmt: skip


def _script(path: Path) -> ModuleType:
    """Import a script by its path: the folder of scripts is not a package."""
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None  # noqa: S101  # the name ends with .py
    assert specification.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
