"""Builds an image, measures its contents, and records them: ``NAME.json``, ``NAME.cdx.json`` and the inventory."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from pydantic import TypeAdapter, ValidationError

from sealserve import __version__
from sealserve.atomic_file import write_file
from sealserve.containers.codes import ContainersCode
from sealserve.containers.contents import read_packages
from sealserve.containers.context import build_context
from sealserve.containers.engine import Engine, EngineRefusedError, Image
from sealserve.containers.recipes import ImageName, Packages, Recipe
from sealserve.containers.requirements import fetch_wheels
from sealserve.containers.sbom import bill_of_materials
from sealserve.enclave.image_root import ImageRoot
from sealserve.enclave.inventory import Inventory, read_inventory, take_inventory
from sealserve.enclave.server_files import GRAMINE_FOLDER, PROGRAMS
from sealserve.terms import ServerKind

Tell = Callable[[str], None]

_STEP: Final = re.compile(r"^Step \d+/\d+ : |^#\d+ \[")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """The record of a built image.

    Args:
        name: The image.
        reference: Its name and tag.
        id: The digest of its configuration.
        size: Unpacked size in bytes.
        digest: Its digest in the registry that it was pushed to, or None.
        bases: The IDs or digests of its base images, by build argument.
        sbom: The file with its software bill of materials (SBOM).
        inventory: The file with the inventory: the files that an enclave in it trusts. None for an image without a
            model server.
    """

    name: ImageName
    reference: str
    id: str
    size: int
    digest: str | None
    bases: dict[str, str]
    sbom: Path
    inventory: Path | None


_RECORD: Final = TypeAdapter(BuiltImage)


def build_image(
    engine: Engine,
    recipe: Recipe,
    reference: str,
    *,
    wheels: Path,
    records: Path,
    network: str | None = None,
    tell: Tell,
) -> BuiltImage:
    """Build an image, and write its bill of materials and, for a server, its inventory.

    Args:
        engine: The Docker engine.
        recipe: The recipe of the image.
        reference: The image's name.
        wheels: A folder for the wheels. Missing wheels are downloaded.
        records: Folder for the bill of materials and the inventory.
        network: The engine's network from which the build downloads packages. None for the default network.
        tell: Called with a short progress text before each step.

    Raises:
        EngineRefusedError: The build failed.
        UnavailableError: `image.wheels` if a locked package cannot be downloaded.
        InputError: `image.base-python` if the base image has no supported Python.
    """
    bases = {argument: _base(engine, name, tell) for argument, name in recipe.bases.items()}
    if recipe.packages is not Packages.NONE:
        python = _python_of(engine, recipe, tell)
        tell(f"fetching the wheels for Python {python}")
        fetch_wheels(recipe.packages, wheels, python=python)
    options = [f"--label={name}={value}" for name, value in _labels(recipe).items()]
    options += [f"--build-arg={argument}={name}" for argument, name in recipe.bases.items()]
    options += [f"--network={network}"] if network else []
    with build_context(recipe, wheels) as context:
        tell(f"building {reference}")
        engine.watch(
            "build", "--tag", reference, *options, str(context),
            on_line=lambda line: tell(f"{recipe.name}: {line[:100]}") if _STEP.match(line) else None,
        )  # fmt: skip
    return record_image(engine, recipe.name, reference, bases=bases, records=records, tell=tell)


def record_image(
    engine: Engine, name: ImageName, reference: str, *, bases: Mapping[str, Image] | None, records: Path, tell: Tell
) -> BuiltImage:
    """Measure an image that the engine has, and write its record.

    Args:
        engine: The Docker engine.
        name: Which of sealserve's images it is.
        reference: The image's name.
        bases: Its base images. None if they are unknown, or if an earlier record contains them.
        records: Folder for the files.
        tell: Called with a short progress text before each step.

    Raises:
        InputError: `image.missing` if the engine does not have the image.
    """
    image = require_image(engine, reference)
    digest = _pushed_digest(image)
    if bases is None and (known := read_record(name, records)) is not None and known.id == image.id:
        return _write_record(replace(known, reference=reference, digest=digest), records)
    records.mkdir(parents=True, exist_ok=True)
    tell(f"measuring {reference}")
    with TemporaryDirectory(prefix="sealserve-image-") as folder, engine.unpacked(image.id, Path(folder)) as root:
        packages = read_packages(root)
        inventory = _take_inventory(name, root)
    (records / f"{name.value}.json").unlink(missing_ok=True)  # it describes the previous files
    sbom = _sbom_file(name, records)
    write_file(sbom, bill_of_materials(image, bases or {}, packages))
    inventory_file = None
    if inventory is not None:
        inventory_file = _inventory_file(name, records)
        write_file(inventory_file, inventory.to_bytes())
    built = BuiltImage(
        name=name,
        reference=reference,
        id=image.id,
        size=image.size,
        digest=digest,
        bases={argument: base.digests[0] if base.digests else base.id for argument, base in (bases or {}).items()},
        sbom=sbom,
        inventory=inventory_file,
    )
    return _write_record(built, records)


def read_record(name: ImageName, records: Path) -> BuiltImage | None:
    """Return the record of an image, or None if no valid record exists."""
    try:
        known = _RECORD.validate_json((records / f"{name.value}.json").read_bytes())
    except (OSError, ValidationError):
        return None
    # The files are next to the record, even if the folder was moved after the record was written.
    sbom, inventory = _sbom_file(name, records), _inventory_file(name, records) if known.inventory else None
    if not sbom.is_file() or (inventory is not None and not inventory.is_file()):
        return None
    return replace(known, sbom=sbom, inventory=inventory)


def _sbom_file(name: ImageName, records: Path) -> Path:
    return records / f"{name.value}.cdx.json"


def _inventory_file(name: ImageName, records: Path) -> Path:
    return records / f"{name.value}.inventory.json"


def _pushed_digest(image: Image) -> str | None:
    """Return an image's digest in the registry of its reference. It may have been pushed to other registries too."""
    repository, _, _ = image.reference.partition("@")
    if ":" in repository.rpartition("/")[2]:
        repository = repository.rpartition(":")[0]
    found = dict(digest.split("@", 1) for digest in image.digests if "@" in digest)
    return found.get(repository.removeprefix("docker.io/").removeprefix("library/"))


def _write_record(built: BuiltImage, records: Path) -> BuiltImage:
    write_file(records / f"{built.name.value}.json", _RECORD.dump_json(built, indent=1) + b"\n")
    return built


def inventory_of(engine: Engine, name: ImageName, reference: str, *, records: Path, tell: Tell) -> Inventory:
    """Return the inventory of an image: from the record of exactly this image, or else measured now.

    Raises:
        InputError: `image.missing` if the engine does not have the image, or the image has no model server.
    """
    built = record_image(engine, name, reference, bases=None, records=records, tell=tell)
    if built.inventory is None:
        raise ContainersCode.IMAGE_MISSING.error(
            f"The image {reference} has no model server.", hint="Build a server image with `sealserve image build`."
        )
    return read_inventory(built.inventory)


def known_inventory(engine: Engine, name: ImageName, reference: str, *, records: Path) -> Inventory | None:
    """Return the inventory of an image if the record of exactly this image has one. This measures nothing.

    Args:
        engine: The Docker engine.
        name: Which of sealserve's images it is.
        reference: The image's name.
        records: The folder of the records.
    """
    image, known = engine.image(reference), read_record(name, records)
    if image is None or known is None or known.id != image.id or known.inventory is None:
        return None
    return read_inventory(known.inventory)


def require_image(engine: Engine, reference: str) -> Image:
    """Return an image that the engine has.

    Raises:
        InputError: `image.missing` if the engine does not have it.
    """
    if (image := engine.image(reference)) is None:
        raise ContainersCode.IMAGE_MISSING.error(
            f"The Docker engine has no image {reference}.",
            hint=f"Build it with `sealserve image build`, or pull it with `docker pull {reference}`.",
        )
    return image


def push_image(engine: Engine, reference: str, *, tell: Tell) -> Image:
    """Push an image to the registry in its name.

    Raises:
        InputError: `image.missing` if the engine does not have the image.
        EngineRefusedError: The registry rejects it.
    """
    require_image(engine, reference)
    tell(f"pushing {reference}")
    engine.watch("push", reference, on_line=lambda _: None)
    return require_image(engine, reference)


def _base(engine: Engine, name: str, tell: Tell) -> Image:
    if (image := engine.image(name)) is not None:
        return image
    tell(f"pulling {name}")
    try:
        engine.watch("pull", "--quiet", name, on_line=lambda _: None)
    except EngineRefusedError as error:
        raise EngineRefusedError(
            f"The base image {name} is missing and cannot be pulled: {error.message}",
            hint="Select a base image that is available, with --base, --gramine or --tensorflow-serving.",
        ) from error
    return require_image(engine, name)


def _python_of(engine: Engine, recipe: Recipe, tell: Tell) -> str:
    """Return the Python version of the base image's distribution, such as ``3.11``. Wheels are selected for it."""
    base = recipe.bases["BASE"]
    tell(f"checking the Python version of {base}")
    command = ["run", "--rm", "--network", "none", "--entrypoint", "cat", base, "/etc/os-release"]
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', engine.run(*command), re.MULTILINE))
    known = {("debian", "12"): "3.11", ("debian", "13"): "3.13", ("ubuntu", "24.04"): "3.12"}
    found = known.get((release.get("ID", ""), release.get("VERSION_ID", "")))
    if found is None:
        raise ContainersCode.IMAGE_BASE_PYTHON.error(
            f"The base image {base} is not supported: got {release.get('PRETTY_NAME', 'an unknown distribution')}, "
            "expected Debian 12, Debian 13 or Ubuntu 24.04.",
            hint="Use an image of one of these distributions: sealserve supports their Python version.",
        )
    return found


def _take_inventory(name: ImageName, root: Path) -> Inventory | None:
    if name not in {ImageName.SERVER_SIMULATED, ImageName.SERVER_GRAMINE}:
        return None
    image = ImageRoot(root)
    binary = PROGRAMS[ServerKind.TENSORFLOW_SERVING]
    server = ServerKind.TENSORFLOW_SERVING if image.is_file(binary) else ServerKind.EMBEDDED
    return take_inventory(image, server, program=PROGRAMS[server], gramine=GRAMINE_FOLDER)


def _labels(recipe: Recipe) -> dict[str, str]:
    """Return an image's labels (github.com/opencontainers/image-spec, annotations.md)."""
    return {
        "org.opencontainers.image.title": f"sealserve {recipe.name.value}",
        "org.opencontainers.image.description": recipe.title,
        "org.opencontainers.image.version": __version__,
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.created": datetime.now(UTC).isoformat(timespec="seconds"),
        "org.opencontainers.image.base.name": recipe.bases["BASE"],
    }
