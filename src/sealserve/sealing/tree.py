"""Functions that seal, unseal and list the files of whole folders."""

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
    """A file of a sealed folder: its relative path and its sizes."""

    path: str
    sealed: SealedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsealedEntry:
    """A file of an unsealed folder: its relative path and its content's properties."""

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
    """Seal each file below ``source`` to the same relative path below the new folder ``destination``.

    Empty folders are omitted.

    Args:
        source: A folder of regular files.
        destination: The new folder. It appears only when it is complete.
        key: The wrap key, 16 bytes.
        prefix: A prefix for the embedded paths, separated from the relative path by a slash.
        version: The format version.
        progress: Called during the work.

    Returns:
        One entry per file, in ascending order of paths.

    Raises:
        TreeMissingError: ``source`` does not exist.
        InputError: `tree.empty` if it contains no files.
        InputError: `tree.not-regular` if it contains a link or a special file.
        InputError: `tree.unusable-name` if the name of a file is not permitted.
        OutputExistsError: ``destination`` already exists.
        UnavailableError: `file.unwritable` if the parent of ``destination`` does not exist or is not writable.
        SealserveError: The errors of `codec.seal_file`.
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
    """Unseal each file below ``source`` to the same relative path below the new folder ``destination``.

    This does not detect missing files, which a host could hide. Use the file list to detect them.

    Args:
        source: A folder of sealed files.
        destination: The new folder. It appears only when it is complete.
        key: The wrap key, 16 bytes.
        prefix: The prefix of the path that each file must be bound to. `None` accepts any path.
        allow_trailing: Whether data after a file's last node is accepted.
        file_mode: The permission bits of files.
        folder_mode: The permission bits of folders.
        progress: Called during the work.

    Returns:
        One entry per file, in ascending order of paths.

    Raises:
        TreeMissingError: ``source`` does not exist.
        InputError: `tree.empty` if it contains no files.
        InputError: `tree.not-regular` if it contains a link or a special file.
        InputError: `tree.unusable-name` if the name of a file is not permitted.
        OutputExistsError: ``destination`` already exists.
        UnavailableError: `file.unwritable` if the parent of ``destination`` does not exist or is not writable.
        SealserveError: The errors of `codec.unseal_file`.
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
        files: The plaintext files, in any order. Paths are relative to the folder of the list.
    """
    in_order = sorted(files, key=lambda file: file.path)
    listed = FileListDocument(version=FILE_LIST_VERSION, files=tuple(in_order))
    return canonical_json(listed.model_dump(mode="json"))


def join(prefix: str, path: str) -> str:
    """Return the embedded path of ``path`` with ``prefix``, which may be empty."""
    return f"{prefix.rstrip('/')}/{path}" if prefix else path


def _make_folders(root: Path, folder: Path, mode: int) -> None:
    current = root
    for part in folder.relative_to(root).parts:
        current /= part
        if not current.is_dir():
            current.mkdir(mode=0o700)
            current.chmod(mode)
