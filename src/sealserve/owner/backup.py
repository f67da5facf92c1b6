"""Back up the owner's workspace: one encrypted file, without the master key. See `backup_format`."""

import base64
import stat
import tarfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Final

from sealserve.atomic_file import PRIVATE, replacing, write_file
from sealserve.broker.database import Database
from sealserve.canonical_document import canonical_json
from sealserve.owner.backup_format import (
    FOLDERS,
    HEADER,
    KEY_CONTEXT,
    LIST,
    LIST_PATH,
    Backup,
    FileList,
    Header,
    ListedFile,
    time_text,
)
from sealserve.owner.codes import OwnerCode
from sealserve.owner.owner import Owner
from sealserve.sealing import codec, plain_tar
from sealserve.sealing.codec import SealedFile
from sealserve.sealing.file_tree import list_folder
from sealserve.secret import SecretBytes
from sealserve.whole_folder import SUFFIX, refuse_existing, staging
from sealserve.workspace import DEPLOYMENT_FILE, Workspace

DATABASE: Final = "owner/database/broker.sqlite"
KEY_SIZE: Final = 16

_LEFT_OUT: Final = (
    "owner/master.key",
    "owner/master.key.next",
    *(f"{DATABASE}{suffix}" for suffix in ("", "-wal", "-shm", "-turn")),
)
_LEFT_OUT_FOLDERS: Final = ("owner/logs", "owner/collateral")
_HOST_FILES: Final = ("host/owner.pub",)


def back_up(
    workspace: Workspace,
    destination: Path,
    *,
    now: datetime,
    models: bool = True,
    releases: bool = True,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Backup:
    """Write the owner's workspace, without the master key and the logs, to the new file ``destination``.

    The broker can run during the backup: a consistent snapshot of its database is taken.

    Args:
        workspace: The owner's workspace.
        destination: File to create (mode 0600). It appears only when it is complete.
        now: The current time.
        models: Include the plaintext models.
        releases: Include the releases. Their keys are always included, in the database.
        overwrite: Replace an existing file.
        progress: Called with the number of plaintext bytes after each file.

    Returns:
        Time, number of files and size of the backup.

    Raises:
        InputError: `backup.no-workspace`: The workspace does not exist, or contains a symbolic link.
        OutputExistsError: ``destination`` already exists.
        UnavailableError: `file.unwritable`: The folder of ``destination`` is missing or not writable.
        UnavailableError: `file.disk-full`: The disk is full.
        SealserveError: The keystore cannot be opened.
    """
    if not workspace.owner.root.is_dir():
        raise OwnerCode.BACKUP_NO_WORKSPACE.error(
            f"A backup needs an existing workspace: {workspace.directory} does not contain one.",
            hint="Give the folder of the deployment with --directory.",
        )
    if not overwrite:
        refuse_existing(destination)
    tell = progress or (lambda _: None)
    created = time_text(now)
    listed: list[ListedFile] = []
    with (
        Owner.open(workspace).vault(create=True) as vault,  # the master key wraps the backup's key
        SecretBytes.random(KEY_SIZE) as key,
        staging(destination.absolute().parent, destination.name, mode=0o700) as stage,
        replacing(destination, mode=PRIVATE, overwrite=overwrite) as output,
        tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        # The header comes first: a restore needs the wrapped key before it can read anything else.
        sealed = stage.folder / "sealed"
        wrapped = base64.b64encode(vault.keystore.wrap(key, context=KEY_CONTEXT)).decode()
        write_file(sealed, canonical_json(Header(created=created, key=wrapped).model_dump()), mode=PRIVATE)
        _move_in(tar, sealed, HEADER)
        # Encrypt each file separately, bound to its path.
        for path in _paths(workspace, models=models, releases=releases):
            made = _seal(workspace, path, sealed, key=key, database=vault.database)
            mode = PRIVATE if path == DATABASE else stat.S_IMODE(_source(workspace, path).stat().st_mode)
            listed.append(ListedFile(path=path, mode=mode, size=made.plain_size))
            _move_in(tar, sealed, str(len(listed)))
            tell(made.plain_size)
        # The list comes last, so that a truncated backup is detected.
        files = FileList(created=created, files=tuple(listed))
        codec.seal_bytes(canonical_json(files.model_dump()), sealed, key=key, embedded_path=LIST_PATH)
        _move_in(tar, sealed, LIST)
    return files.summary


def _paths(workspace: Workspace, *, models: bool, releases: bool) -> Iterator[str]:
    """Yield the paths of the files to back up, relative to ``.sealserve``. ``sealserve.toml`` is beside this folder."""
    left_out = {*_LEFT_OUT_FOLDERS, *(() if models else ("owner/models",)), *(() if releases else ("owner/releases",))}
    if workspace.deployment_file.is_file():
        yield DEPLOYMENT_FILE
    for folder in FOLDERS:
        if not (workspace.root / folder).is_dir():
            continue
        listing = list_folder(workspace.root / folder)
        for other in listing.others:
            if (workspace.root / folder / other).is_symlink():
                raise OwnerCode.BACKUP_NO_WORKSPACE.error(
                    f"The workspace cannot be backed up: {folder}/{other} in {workspace.root} is a symbolic link, "
                    "whose target would be missing in the backup.",
                    hint="Replace the link by the file or folder itself.",
                )
        for below in listing.files:
            path = f"{folder}/{below}"
            above = {str(parent) for parent in PurePosixPath(path).parents}
            if path not in _LEFT_OUT and not above & left_out and not _is_unfinished(path):
                yield path
    yield DATABASE  # a snapshot, even of a database on a server; after the kept head, which must not be newer
    for path in _HOST_FILES:
        if (workspace.root / path).is_file():
            yield path


def _is_unfinished(path: str) -> bool:
    """Return whether a path is, or is inside, a temporary file or folder of an unfinished or failed operation."""
    return any(part.startswith(".") and part.endswith(SUFFIX) for part in path.split("/"))


def _seal(workspace: Workspace, path: str, output: Path, *, key: SecretBytes, database: Database) -> SealedFile:
    if path == DATABASE:
        return codec.seal_bytes(database.snapshot(), output, key=key, embedded_path=path)
    return codec.seal_file(_source(workspace, path), output, key=key, embedded_path=path, follow_links=False)


def _source(workspace: Workspace, path: str) -> Path:
    return workspace.deployment_file if path == DEPLOYMENT_FILE else workspace.root / path


def _move_in(tar: tarfile.TarFile, source: Path, name: str) -> None:
    plain_tar.add(tar, source, name)
    source.unlink()
