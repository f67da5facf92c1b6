"""Which versions of a model there are, and which one is served.

Source: tensorflow/serving, ``tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc``: the version
folders are the children of the base path whose names are integers; the policy is "latest", its default.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from sealserve.errors import InputError
from sealserve.serving.file_list import FileList


class BasePathMissingError(InputError):
    """There is no folder where the model should be."""

    code = "servable.base-path-missing"


class NoVersionError(InputError):
    """The model's folder has no version folder."""

    code = "servable.no-version"


def available(base_path: Path, files: FileList | None = None) -> Mapping[int, Path]:
    """Return the version folders of a model by version.

    With a file list, a version that it names counts even where its folder is missing: the folder may have been hidden,
    and an older version must not take its place unnoticed.

    Args:
        base_path: The model's folder.
        files: The list of the files that may be loaded.

    Raises:
        BasePathMissingError: There is no such folder.
        NoVersionError: It has no version.
        OutsideFileListError: The list says nothing about that folder.
    """
    listed = files.below(base_path) if files else ()
    if not base_path.is_dir() and not listed:
        raise BasePathMissingError(
            f"There is no folder {base_path}.", hint="--model_base_path is the folder above the version folders."
        )
    present = [child.name for child in base_path.iterdir() if child.is_dir()] if base_path.is_dir() else []
    names = {*present, *(path.partition("/")[0] for path in listed if "/" in path)}
    versions = _by_version(names, base_path)
    if not versions:
        raise NoVersionError(
            f"{base_path} has no version folder.", hint="Name the folder with saved_model.pb by an integer, such as 1."
        )
    return versions


def latest(versions: Mapping[int, Path]) -> int:
    """Return the version that the policy "latest" serves."""
    return max(versions)


def _by_version(names: Iterable[str], base_path: Path) -> Mapping[int, Path]:
    return {int(name): base_path / name for name in sorted(names) if name.isascii() and name.isdecimal()}
