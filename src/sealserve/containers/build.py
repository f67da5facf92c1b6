"""Build an image, measure what is in it, and write down what it is: ``NAME.json``, ``NAME.cdx.json``, inventory."""

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
    """What is known of an image that was built.

    Args:
        name: Which of sealserve's images.
        reference: Its name and tag.
        id: The digest of its configuration.
        size: In bytes, unpacked.
        digest: Its digest in the registry it was pushed to, or None.
        bases: The ids or digests of the images it was built on, by build argument.
        sbom: The file with its bill of materials.
        inventory: The file with what an enclave in it trusts; None for an image without a model server.
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
        engine: Builds it.
        recipe: How.
        reference: What it is called.
        wheels: A folder for the wheels; those that are missing are fetched.
        records: Where the bill of materials and the inventory go.
        network: The engine's network for the build's packages; None for its default one.
        tell: Called with a few words before each step.

    Raises:
        EngineRefusedError: The build failed.
        UnavailableError: `image.wheels`: A locked package cannot be had.
        InputError: `image.base-python`: The base has no usable Python.
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
    """Measure an image that the engine has, and write down what it is.

    Args:
        engine: Has it.
        name: Which of sealserve's images it is.
        reference: What it is called.
        bases: What it was built on; None if that is not known, or was written down before.
        records: Where the files go.
        tell: Called with a few words before each step.

    Raises:
        InputError: `image.missing`: The engine does not have it.
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
    (records / f"{name.value}.json").unlink(missing_ok=True)  # it tells of the files as they were
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
    """Return what was written down of an image, or None if nothing usable was."""
    try:
        known = _RECORD.validate_json((records / f"{name.value}.json").read_bytes())
    except (OSError, ValidationError):
        return None
    # The files beside it, wherever the folder was when it was written.
    sbom, inventory = _sbom_file(name, records), _inventory_file(name, records) if known.inventory else None
    if not sbom.is_file() or (inventory is not None and not inventory.is_file()):
        return None
    return replace(known, sbom=sbom, inventory=inventory)


def _sbom_file(name: ImageName, records: Path) -> Path:
    return records / f"{name.value}.cdx.json"


def _inventory_file(name: ImageName, records: Path) -> Path:
    return records / f"{name.value}.inventory.json"


def _pushed_digest(image: Image) -> str | None:
    """Return an image's digest in the registry that its reference names: it may have been pushed to others."""
    repository, _, _ = image.reference.partition("@")
    if ":" in repository.rpartition("/")[2]:
        repository = repository.rpartition(":")[0]
    found = dict(digest.split("@", 1) for digest in image.digests if "@" in digest)
    return found.get(repository.removeprefix("docker.io/").removeprefix("library/"))


def _write_record(built: BuiltImage, records: Path) -> BuiltImage:
    write_file(records / f"{built.name.value}.json", _RECORD.dump_json(built, indent=1) + b"\n")
    return built


def inventory_of(engine: Engine, name: ImageName, reference: str, *, records: Path, tell: Tell) -> Inventory:
    """Return what an enclave in an image trusts: as it was written down for this very image, else measured now.

    Raises:
        InputError: `image.missing`: The engine does not have the image, or it has no model server.
    """
    built = record_image(engine, name, reference, bases=None, records=records, tell=tell)
    if built.inventory is None:
        raise ContainersCode.IMAGE_MISSING.error(
            f"{reference} has no model server.", hint="`sealserve image build` builds one."
        )
    return read_inventory(built.inventory)


def known_inventory(engine: Engine, name: ImageName, reference: str, *, records: Path) -> Inventory | None:
    """Return what an enclave in an image trusts, if it was written down for this very image. Nothing is measured.

    Args:
        engine: Has the image.
        name: Which of sealserve's images it is.
        reference: What it is called.
        records: The folder of what was written down.
    """
    image, known = engine.image(reference), read_record(name, records)
    if image is None or known is None or known.id != image.id or known.inventory is None:
        return None
    return read_inventory(known.inventory)


def require_image(engine: Engine, reference: str) -> Image:
    """Return an image that the engine has.

    Raises:
        InputError: `image.missing`: It does not have it.
    """
    if (image := engine.image(reference)) is None:
        raise ContainersCode.IMAGE_MISSING.error(
            f"The engine has no image {reference}.", hint="`sealserve image build` builds it; or `docker pull` it."
        )
    return image


def push_image(engine: Engine, reference: str, *, tell: Tell) -> Image:
    """Push an image to the registry that its name tells.

    Raises:
        InputError: `image.missing`: The engine does not have it.
        EngineRefusedError: The registry does not take it.
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
            f"The base image {name} is not here, and cannot be pulled: {error.message}",
            hint="Give one that this machine has, or can pull, with --base (or --gramine, --tensorflow-serving).",
        ) from error
    return require_image(engine, name)


def _python_of(engine: Engine, recipe: Recipe, tell: Tell) -> str:
    """Return the version of Python that the base's distribution has, as ``3.11``: wheels are chosen for it."""
    base = recipe.bases["BASE"]
    tell(f"looking at {base}")
    command = ["run", "--rm", "--network", "none", "--entrypoint", "cat", base, "/etc/os-release"]
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', engine.run(*command), re.MULTILINE))
    known = {("debian", "12"): "3.11", ("debian", "13"): "3.13", ("ubuntu", "24.04"): "3.12"}
    found = known.get((release.get("ID", ""), release.get("VERSION_ID", "")))
    if found is None:
        raise ContainersCode.IMAGE_BASE_PYTHON.error(
            f"The base image {base} is {release.get('PRETTY_NAME', 'of no distribution that is known')}.",
            hint="Use one of Debian 12, Debian 13 or Ubuntu 24.04: their Python is one that sealserve supports.",
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
