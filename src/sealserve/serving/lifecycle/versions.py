"""Which versions of a model there are, and which of them are wanted.

Source: tensorflow/serving, ``sources/storage_path/file_system_storage_path_source.cc``: the version folders are the
children of the base path whose names are integers; a policy chooses among them, by default the latest.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from sealserve.errors import InputError
from sealserve.serving.file_list import FileList, unreadable
from sealserve.serving.runtime.protos import VersionPolicy

logger = logging.getLogger(__name__)

_GREATEST: Final = 2**63 - 1


class BasePathMissingError(InputError):
    """There is no folder where the model should be."""

    code = "servable.base-path-missing"


class NoVersionError(InputError):
    """The model's folder has no version folder that is wanted."""

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
        VerificationError: `file-list.outside`: The list says nothing about that folder.
        VerificationError: `servable.file-unreadable`: What lies in the folder cannot be read.
    """
    listed = files.below(base_path) if files else ()
    if not base_path.is_dir() and not listed:
        raise BasePathMissingError(
            f"There is no folder {base_path}.", hint="--model_base_path is the folder above the version folders."
        )
    try:
        present = [child.name for child in base_path.iterdir() if child.is_dir()] if base_path.is_dir() else []
    except OSError as error:  # in Gramine, a sealed file beside the versions that was changed
        raise unreadable(error.filename or base_path, error.strerror) from error
    names = {*present, *(path.partition("/")[0] for path in listed if "/" in path)}
    versions = _by_version(names, base_path)
    if not versions:
        raise NoVersionError(
            f"{base_path} has no version folder.", hint="Name the folder with saved_model.pb by an integer, such as 1."
        )
    return versions


def aspired(versions: Mapping[int, Path], policy: VersionPolicy) -> Mapping[int, Path]:
    """Return those of ``versions`` that ``policy`` wants, the latest first.

    Raises:
        NoVersionError: It wants specific ones, and none of them is there.
    """
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        wanted = set(versions)
    elif choice == "specific":
        wanted = set(policy.specific.versions) & set(versions)
        missing = sorted(set(policy.specific.versions) - wanted)
        if not wanted:
            raise NoVersionError(
                f"None of the specific versions {missing or []} is there; there are {sorted(versions)}."
            )
        if missing:
            logger.warning("of the specific versions that are wanted, some are not there: %s", missing)
    else:
        wanted = set(sorted(versions)[-max(policy.latest.num_versions, 1) :])
    return {version: versions[version] for version in sorted(wanted, reverse=True)}


def _by_version(names: Iterable[str], base_path: Path) -> Mapping[int, Path]:
    return {
        int(name): base_path / name
        for name in sorted(names)
        if name.isascii() and name.isdecimal() and len(name) < 20 and int(name) <= _GREATEST  # noqa: PLR2004  # 64 bits
    }
