"""Seal and unseal whole folders, and list what is in them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sealserve.atomic_file import PRIVATE
from sealserve.canonical_document import FILE_LIST_VERSION, FileListDocument, ListedFile, canonical_json
from sealserve.sealing import codec
from sealserve.sealing.codec import Progress, SealedFile, UnsealedFile
from sealserve.sealing.file_tree import regular_files
from sealserve.sealing.format_version import FormatVersion
from sealserve.secret import SecretBytes
from sealserve.whole_folder import refuse_existing, staging


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedEntry:
    """A file of a sealed tree: its path below the tree's folder, and what was sealed."""

    path: str
    sealed: SealedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsealedEntry:
    """A file of an unsealed tree: its path below the tree's folder, and what it held."""

    path: str
    unsealed: UnsealedFile


def seal_tree(
    source: Path,
    destination: Path,
    *,
    key: SecretBytes,
    prefix: str = "",
    version: FormatVersion = FormatVersion.V1_0,
    progress: Progress | None = None,
) -> tuple[SealedEntry, ...]:
    """Seal each file below ``source`` to its place below ``destination``, a new folder. Empty folders are left out.

    Args:
        source: A folder of regular files.
        destination: The folder that appears, whole or not at all.
        key: The wrap key, 16 bytes.
        prefix: Put before each relative path, with a slash between, to make the embedded path.
        version: The format.
        progress: Called as it goes.

    Returns:
        One entry for each file, in ascending order of paths.

    Raises:
        TreeMissingError: No such folder.
        InputError: `tree.empty`: No file in it.
        InputError: `tree.not-regular`: A link or special file in it.
        InputError: `tree.unusable-name`: A name that cannot be used.
        OutputExistsError: ``destination`` exists.
        UnavailableError: `file.unwritable`: Its parent does not, or does not admit it.
        SealserveError: What `codec.seal_file` raises.
    """
    refuse_existing(destination)
    paths = regular_files(source)
    entries = []
    with staging(destination.parent, destination.name) as stage:
        for path in paths:
            output = stage.folder / path
            output.parent.mkdir(parents=True, exist_ok=True)
            sealed = codec.seal_file(
                source / path,
                output,
                key=key,
                embedded_path=join(prefix, path),
                version=version,
                follow_links=False,
                progress=progress,
            )
            entries.append(SealedEntry(path=path, sealed=sealed))
        stage.publish(destination)
    return tuple(entries)


def unseal_tree(
    source: Path,
    destination: Path,
    *,
    key: SecretBytes,
    prefix: str | None = "",
    allow_trailing: bool = False,
    file_mode: int = PRIVATE,
    folder_mode: int = 0o700,
    progress: Progress | None = None,
) -> tuple[UnsealedEntry, ...]:
    """Unseal each file below ``source`` to its place below ``destination``, a new folder.

    That no file is missing is not checked here: a host can hide files. The file list is there for it.

    Args:
        source: A folder of sealed files.
        destination: The folder that appears, whole or not at all.
        key: The wrap key, 16 bytes.
        prefix: Each file must be bound to this prefix and its relative path; None accepts any path.
        allow_trailing: Whether there may be something behind a file's last node.
        file_mode: Permission bits of files.
        folder_mode: Permission bits of folders.
        progress: Called as it goes.

    Returns:
        One entry for each file, in ascending order of paths.

    Raises:
        TreeMissingError: No such folder.
        InputError: `tree.empty`: No file in it.
        InputError: `tree.not-regular`: A link or special file in it.
        InputError: `tree.unusable-name`: A name that cannot be used.
        OutputExistsError: ``destination`` exists.
        UnavailableError: `file.unwritable`: Its parent does not, or does not admit it.
        SealserveError: What `codec.unseal_file` raises.
    """
    refuse_existing(destination)
    paths = regular_files(source)
    entries = []
    with staging(destination.parent, destination.name, mode=folder_mode) as stage:
        for path in paths:
            output = stage.folder / path
            _make_folders(stage.folder, output.parent, folder_mode)
            unsealed = codec.unseal_file(
                source / path,
                output,
                key=key,
                embedded_path=None if prefix is None else join(prefix, path),
                allow_trailing=allow_trailing,
                mode=file_mode,
                follow_links=False,
                progress=progress,
            )
            entries.append(UnsealedEntry(path=path, unsealed=unsealed))
        stage.publish(destination)
    return tuple(entries)


def file_list(files: Iterable[ListedFile]) -> bytes:
    """Return the file list: canonical JSON, ``{"files":[{"path":...,"sha256":...,"size":...}],"version":1}``.

    Args:
        files: The plaintext files, in any order; paths relative to the folder that holds the list.
    """
    in_order = sorted(files, key=lambda file: file.path)
    listed = FileListDocument(version=FILE_LIST_VERSION, files=tuple(in_order))
    return canonical_json(listed.model_dump(mode="json"))


def join(prefix: str, path: str) -> str:
    """Return the embedded path of ``path`` under ``prefix``, which may be empty."""
    return f"{prefix.rstrip('/')}/{path}" if prefix else path


def _make_folders(root: Path, folder: Path, mode: int) -> None:
    current = root
    for part in folder.relative_to(root).parts:
        current /= part
        if not current.is_dir():
            current.mkdir(mode=0o700)
            current.chmod(mode)
