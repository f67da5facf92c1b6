"""The build context of an image: the Dockerfile, sealserve, the lock file and the wheels. Nothing else is copied."""

import importlib.metadata
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import sealserve
from sealserve.containers.recipes import Packages, Recipe
from sealserve.containers.requirements import locked_versions, requirements

_DISTRIBUTION: Final = "sealserve"
_RECORDS: Final = ("METADATA", "entry_points.txt")
"""The installed package's metadata: its version, dependencies and commands."""


@contextmanager
def build_context(recipe: Recipe, wheels: Path) -> Iterator[Path]:
    """Yield a folder with the Dockerfile of a recipe and all files that it copies. The folder is removed at the end.

    Args:
        recipe: The recipe of the image.
        wheels: The folder with its wheels. Only wheels that the lock file names are copied.
    """
    with TemporaryDirectory(prefix="sealserve-image-") as name:
        context = Path(name)
        dockerfile = files("sealserve.containers") / "dockerfiles" / f"{recipe.dockerfile}.Dockerfile"
        (context / "Dockerfile").write_text(dockerfile.read_text(encoding="utf-8"), encoding="utf-8")
        if recipe.packages is not Packages.NONE:
            _copy_package(context / "package")
            (context / "requirements.txt").write_text(requirements(recipe.packages), encoding="utf-8")
            _link_wheels(recipe.packages, wheels, context / "wheels")
        yield context


def _copy_package(target: Path) -> None:
    """Copy the installed sealserve with its metadata. Bytecode is not copied, because the image compiles it again."""
    package = Path(sealserve.__path__[0])
    shutil.copytree(package, target / package.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    distribution = importlib.metadata.distribution(_DISTRIBUTION)
    records = target / f"{_DISTRIBUTION}-{distribution.version}.dist-info"
    records.mkdir()
    for record in _RECORDS:
        (records / record).write_text(distribution.read_text(record) or "", encoding="utf-8")


def _link_wheels(packages: Packages, wheels: Path, target: Path) -> None:
    target.mkdir()
    wanted = {(_normalised(name), version) for name, version in locked_versions(packages).items()}
    for wheel in sorted(wheels.glob("*.whl")):
        name, version, *_ = wheel.name.split("-")
        if (_normalised(name), version) in wanted:
            try:
                os.link(wheel, target / wheel.name)
            except OSError:  # on a different file system
                shutil.copyfile(wheel, target / wheel.name)


def _normalised(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
