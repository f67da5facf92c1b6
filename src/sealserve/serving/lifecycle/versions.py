"""Finds the versions of a model, and selects the wanted ones.

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
    """The model's folder does not exist."""

    code = "servable.base-path-missing"


class NoVersionError(InputError):
    """The model's folder does not contain a version folder that the model's configuration selects."""

    code = "servable.no-version"


def available(base_path: Path, files: FileList | None = None) -> Mapping[int, Path]:
    """Return the version folders of a model by version.

    With a file list, a listed version counts even if its folder is missing: the host may have hidden the folder, and an
    older version must not replace it unnoticed.

    Args:
        base_path: The model's folder.
        files: The list of the files that may be loaded.

    Raises:
        BasePathMissingError: The folder does not exist.
        NoVersionError: The folder does not contain a version.
        VerificationError: `file-list.outside`: The list does not cover the folder.
        VerificationError: `servable.file-unreadable`: An entry of the folder cannot be read.
    """
    listed = files.below(base_path) if files else ()
    if not base_path.is_dir() and not listed:
        raise BasePathMissingError(
            f"The folder {base_path} of the model does not exist.",
            hint="Give --model_base_path, the folder that contains the version folders.",
        )
    try:
        present = [child.name for child in base_path.iterdir() if child.is_dir()] if base_path.is_dir() else []
    except OSError as error:  # in Gramine, this happens if a sealed file beside the versions was changed
        raise unreadable(error.filename or base_path, error.strerror) from error
    names = {*present, *(path.partition("/")[0] for path in listed if "/" in path)}
    versions = _by_version(names, base_path)
    if not versions:
        raise NoVersionError(
            f"{base_path} does not contain a version folder.",
            hint="Name the folder with saved_model.pb by an integer, such as 1.",
        )
    return versions


def aspired(versions: Mapping[int, Path], policy: VersionPolicy) -> Mapping[int, Path]:
    """Return the wanted versions according to ``policy``, the latest first.

    Raises:
        NoVersionError: The policy names specific versions, and none of them exists.
    """
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        wanted = set(versions)
    elif choice == "specific":
        wanted = set(policy.specific.versions) & set(versions)
        missing = sorted(set(policy.specific.versions) - wanted)
        if not wanted:
            raise NoVersionError(
                f"None of the specific versions {missing or []} exists: got {sorted(versions)}.",
                hint="Correct the model_version_policy, or add the version's folder.",
            )
        if missing:
            logger.warning("some of the wanted specific versions do not exist: %s", missing)
    else:
        wanted = set(sorted(versions)[-max(policy.latest.num_versions, 1) :])
    return {version: versions[version] for version in sorted(wanted, reverse=True)}


def _by_version(names: Iterable[str], base_path: Path) -> Mapping[int, Path]:
    return {
        int(name): base_path / name
        for name in sorted(names)
        if name.isascii() and name.isdecimal() and len(name) < 20 and int(name) <= _GREATEST  # noqa: PLR2004  # 64 bits
    }
