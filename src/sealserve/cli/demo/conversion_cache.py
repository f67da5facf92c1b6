"""Cache for the example's SavedModel, because converting the frozen graph takes many seconds.

The cache contains only the example, whose weights are random. A user's model is never cached. An entry is a folder; its
name is a digest of the frozen graph, the conversion code and the version of TensorFlow. An entry that another user
could have changed, or whose files do not match their digests, is removed and created again. A cache that cannot be
written is not used.

The folder is ``$XDG_CACHE_HOME/sealserve/demo``, by default ``~/.cache/sealserve/demo``. It can be removed at any time.

Source: XDG Base Directory Specification 0.8 (a relative ``XDG_CACHE_HOME`` is ignored).
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

import sealserve.model
from sealserve import __version__
from sealserve.deployment import ModelSection
from sealserve.errors import InputError, SealserveError
from sealserve.file_digest import sha256_of
from sealserve.model.saved_model import SavedModelInfo, check_servable, plain_files
from sealserve.regular_file import open_regular, read_regular
from sealserve.whole_folder import appearing, staging

DIGESTS: Final = "digests.json"
_LARGEST_DIGESTS: Final = 1 << 16
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_LARGEST_FILE: Final = 1 << 29
_BLOCK: Final = 1 << 20


class _Digests(BaseModel):
    """The list of an entry's files, with the SHA-256 of each."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    files: dict[str, str]


class _UnusableError(Exception):
    """The entry is missing or damaged, or another user could have written it."""


def cache_folder() -> Path | None:
    """Return the folder of all entries, or None for a user without a home directory. The folder may not exist."""
    for folder in (Path(os.environ.get("XDG_CACHE_HOME", "")), Path(os.path.expanduser("~/.cache"))):  # noqa: PTH111  # Path.expanduser raises without a home
        if folder.is_absolute():
            return folder / "sealserve" / "demo"
    return None


def entry_for(graph: Path, model: ModelSection) -> Path | None:
    """Return the folder of the entry for a frozen graph. It may not exist. None means that no cache is possible."""
    folder = cache_folder()
    if folder is None:
        return None
    code = hashlib.sha256()
    for path in sorted(Path(sealserve.model.__file__).parent.glob("*.py")):
        code.update(path.read_bytes())
    depends_on = {
        "source": sha256_of(graph),
        "inputs": list(model.inputs),
        "outputs": list(model.outputs),
        "converter": code.hexdigest(),
        "sealserve": __version__,
        "tensorflow": _tensorflow_versions(),
    }
    return folder / hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


def restore(entry: Path, destination: Path) -> SavedModelInfo | None:
    """Copy an entry to ``destination`` if it is complete and only this user could have written it.

    Args:
        entry: Folder of the entry. An unusable entry is removed.
        destination: The new folder of the SavedModel.

    Returns:
        The description of the SavedModel, or None if no usable entry exists.

    Raises:
        UnavailableError: `file.disk-full`, `file.unwritable`: The destination cannot be written.
    """
    if not os.path.lexists(entry):
        return None
    try:
        digests = _read_digests(entry)
        with appearing(destination) as temporary:
            # Check the digests of the copies, because the entry may change while it is read.
            for name, expected in digests.items():
                _check_equal(_copy(entry / name, temporary / name), expected)
            check_servable(temporary)
        return check_servable(destination)
    except (_UnusableError, ValidationError, InputError, OSError):
        _remove(entry)
        return None


def keep(entry: Path, folder: Path) -> None:
    """Create an entry from the SavedModel in ``folder``, and remove all other entries.

    A failure, such as a full disk or a read-only home directory, leaves no entry and is ignored.
    """
    with contextlib.suppress(OSError, SealserveError, _UnusableError):
        for parent in (*reversed(entry.parent.parents), entry.parent):  # `parents=True` would use the umask's mode
            parent.mkdir(mode=0o700, exist_ok=True)
        for parent in (entry.parent.parent, entry.parent):
            _check_own(parent)
        with staging(entry.parent, entry.name, mode=0o700) as stage:
            names = [path.relative_to(folder).as_posix() for path in plain_files(folder)]
            digests = {name: _copy(folder / name, stage.folder / name) for name in names}
            (stage.folder / DIGESTS).write_text(_Digests(files=digests).model_dump_json(), encoding="utf-8")
            stage.publish(entry)  # if another demo published the entry first, its entry stays
        for other in entry.parent.iterdir():
            if other != entry and not other.name.startswith("."):
                _remove(other)


def _read_digests(entry: Path) -> Mapping[str, str]:
    """Return the SHA-256 of each file of an entry, by the file's path in the entry."""
    for folder in (entry.parent.parent, entry.parent, entry):
        _check_own(folder)
    text = read_regular(entry / DIGESTS, limit=_LARGEST_DIGESTS, follow_links=False)
    digests = _Digests.model_validate_json(text).files
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in digests):
        raise _UnusableError
    return digests


def _check_own(folder: Path) -> None:
    """Check that only this user can change the contents of a folder."""
    try:
        status = folder.lstat()
    except OSError as error:
        raise _UnusableError from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & _WRITABLE_BY_OTHERS:
        raise _UnusableError


def _check_equal(digest: str, expected: str) -> None:
    if digest != expected:
        raise _UnusableError


def _copy(source: Path, destination: Path) -> str:
    """Copy a file, and return the SHA-256 of the copied bytes."""
    digest = hashlib.sha256()
    left = _LARGEST_FILE
    destination.parent.mkdir(parents=True, exist_ok=True)
    with (
        open_regular(source, follow_links=False) as descriptor,
        open(descriptor, "rb", closefd=False) as original,
        destination.open("xb") as copy,
    ):
        while block := original.read(_BLOCK):
            left -= len(block)
            if left < 0:
                raise _UnusableError
            digest.update(block)
            copy.write(block)
    return digest.hexdigest()


def _remove(entry: Path) -> None:
    """Remove an entry: a folder, or a file or link with the entry's name."""
    with contextlib.suppress(OSError):
        if entry.is_symlink() or not entry.is_dir():
            entry.unlink()
    shutil.rmtree(entry, ignore_errors=True)


def _tensorflow_versions() -> dict[str, str]:
    """Return the version of each installed TensorFlow package, without the seconds that importing TensorFlow takes."""
    versions = {}
    for package in ("tensorflow", "tensorflow-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
