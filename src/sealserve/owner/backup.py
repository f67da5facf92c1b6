"""Backups of the owner's workspace: one file, sealed under a key that the keystore's master key wraps.

A backup is a plain tar: ``backup.json`` (public: version, time, the wrapped key), ``1``, ``2``... (the files, each a
Gramine encrypted file bound to its path in the workspace) and ``list`` (sealed as well: what the files are). So names,
too, are seen by its owner only, and no file can be left out, exchanged, or taken from another backup. The master key
itself is never in it: whoever has one of both has nothing.
"""

import base64
import binascii
import contextlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, BinaryIO, Final, Literal

from pydantic import Field, StringConstraints, ValidationError

from sealserve.atomic_file import PRIVATE, OutputExistsError, replacing, write_file
from sealserve.broker.database import Database
from sealserve.broker.key_wrapper import KeyUnwrapError, KeyWrapper
from sealserve.broker.master_key import MasterKey, read_master_key
from sealserve.canonical_document import DocumentPart, canonical_json
from sealserve.errors import InputError, VerificationError
from sealserve.owner.keys import keystore_settings, open_vault, passphrase_source, transit_key
from sealserve.private_file import read_private_bytes
from sealserve.regular_file import open_regular
from sealserve.sealing import codec, plain_tar
from sealserve.sealing.codec import SealedFile
from sealserve.sealing.embedded_path import is_safe_relative
from sealserve.sealing.file_tree import list_folder
from sealserve.secret import SecretBytes
from sealserve.whole_folder import SUFFIX, folder_made, refuse_existing, staging
from sealserve.workspace import DEPLOYMENT_FILE, Workspace, make_folders

HEADER: Final = "backup.json"
LIST: Final = "list"
LIST_PATH: Final = "backup/list"
DATABASE: Final = "owner/database/broker.sqlite"
KEY_SIZE: Final = 16
LARGEST_HEADER: Final = 64 * 2**10
LARGEST_LIST: Final = 64 * 2**20

_CONTEXT: Final = b"sealserve backup key v1\0"
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_LEFT_OUT: Final = ("owner/master.key", "owner/master.key.next", f"{DATABASE}-wal", f"{DATABASE}-shm")
_LEFT_OUT_FOLDERS: Final = ("owner/logs",)
_FOLDERS: Final = ("owner", "user", "vendor")
_HOST_FILES: Final = ("host/owner.pub",)
_DAMAGED: Final = "It was damaged, or somebody changed it: use another copy."


class BackupFormatError(VerificationError):
    """The file is no backup, or was damaged."""

    code = "backup.format"


class BackupKeyError(VerificationError):
    """The master key is not the one that the backup needs."""

    code = "backup.wrong-key"


class BackupContentError(VerificationError):
    """A file of the backup is missing, added or changed."""

    code = "backup.content"


class BackupWorkspaceError(InputError):
    """There is nothing to back up."""

    code = "backup.no-workspace"


class BackupKeyMissingError(InputError):
    """Nothing says which key opens the backup."""

    code = "backup.no-key"


class _Header(DocumentPart):
    version: Literal[1] = 1
    created: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$")]
    key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]+=*$")]


class _Listed(DocumentPart):
    path: str
    mode: Annotated[int, Field(ge=0, le=0o777)]
    size: Annotated[int, Field(ge=0)]


class _List(DocumentPart):
    version: Literal[1] = 1
    created: str
    files: tuple[_Listed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What was backed up, or brought back.

    Args:
        created: When the backup was made.
        files: How many files it has.
        size: Of the files, in bytes.
    """

    created: datetime
    files: int
    size: int


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

    The broker may run: its database is taken as it is at one moment.

    Args:
        workspace: The owner's.
        destination: The file that appears, 0600, whole or not at all.
        now: The time.
        models: Whether the plaintext models are in it.
        releases: Whether the releases are in it: their keys are, in the database.
        overwrite: Whether an existing file may be replaced.
        progress: Called with plaintext bytes as they are sealed.

    Raises:
        BackupWorkspaceError: There is no workspace yet.
        OutputExistsError: ``destination`` exists.
        OutputUnwritableError: Its folder is missing, or does not admit it.
        DiskFullError: No room.
        SealserveError: What the keystore raises.
    """
    if not workspace.owner.root.is_dir():
        raise BackupWorkspaceError(f"There is no workspace in {workspace.directory} yet.")
    if not overwrite:
        refuse_existing(destination)
    tell = progress or (lambda _: None)
    created = now.astimezone(UTC).strftime(_TIME)
    listed: list[_Listed] = []
    with (
        open_vault(workspace) as vault,
        SecretBytes.random(KEY_SIZE) as key,
        staging(destination.absolute().parent, destination.name, mode=0o700) as stage,
        replacing(destination, mode=PRIVATE, overwrite=overwrite) as output,
        tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        sealed = stage.folder / "sealed"
        wrapped = base64.b64encode(vault.keystore.wrap(key, context=_CONTEXT)).decode()
        write_file(sealed, canonical_json(_Header(created=created, key=wrapped).model_dump()), mode=PRIVATE)
        _move_in(tar, sealed, HEADER)
        for path in _paths(workspace, models=models, releases=releases):
            made = _seal(workspace, path, sealed, key=key, database=vault.database)
            mode = stat.S_IMODE(_source(workspace, path).stat().st_mode)
            listed.append(_Listed(path=path, mode=mode, size=made.plain_size))
            _move_in(tar, sealed, str(len(listed)))
            tell(made.plain_size)
        content = canonical_json(_List(created=created, files=tuple(listed)).model_dump())
        codec.seal_bytes(content, sealed, key=key, embedded_path=LIST_PATH)
        _move_in(tar, sealed, LIST)
    return Backup(created=_parse_time(created), files=len(listed), size=sum(row.size for row in listed))


def restore(
    workspace: Workspace,
    source: Path,
    *,
    master_key: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Backup:
    """Bring back a workspace from the backup ``source``, whole or not at all, into a folder that has none.

    Args:
        workspace: Where it appears.
        source: What `back_up` wrote.
        master_key: The file with the master key; it becomes the workspace's. None where ``sealserve.toml`` is there
            already, and names a key management service.
        progress: Called with plaintext bytes as they are unsealed.

    Raises:
        OutputExistsError: There is a workspace already.
        BackupKeyMissingError: Neither a master key nor a service.
        BackupKeyError: The key is another one.
        BackupFormatError: No backup.
        BackupContentError: A file of it is missing, added or changed.
        InputFileMissingError: There is no such file.
        SealserveError: What the archive's reader, the codec and the service raise.
    """
    tell = progress or (lambda _: None)
    directory = workspace.directory
    if os.path.lexists(workspace.root):
        raise OutputExistsError(
            f"{workspace.root} exists already.",
            hint="Restore into another folder, with --directory.",
        )
    with (
        open_regular(source) as descriptor,
        open(descriptor, "rb", closefd=False) as stream,
        folder_made(directory),
        staging(directory, workspace.root.name) as stage,
        staging(directory, f"{workspace.root.name}.member", mode=0o700) as scratch,
    ):
        listed = _extract(
            stream,
            str(source),
            workspace=workspace,
            scratch=scratch.folder,
            restored=stage.folder,
            master_key=master_key,
            tell=tell,
        )
        if master_key is not None:
            content = read_private_bytes(master_key, what="master key", limit=LARGEST_HEADER)
            write_file(stage.folder / "owner" / workspace.owner.master_key.name, content, mode=PRIVATE)
        files = listed.files
        restored = Backup(created=_parse_time(listed.created), files=len(files), size=sum(row.size for row in files))
        make_folders(stage.folder)
        with _deployment_file_placed(workspace, stage.folder / DEPLOYMENT_FILE):
            stage.publish(workspace.root)  # last: from here on nothing can fail
    return restored


@contextlib.contextmanager
def _deployment_file_placed(workspace: Workspace, restored: Path) -> Iterator[None]:
    """Put the restored ``sealserve.toml`` beside the workspace, unless one is there; take it back on failure."""
    placed = False
    if restored.exists():
        if not workspace.deployment_file.exists():  # one that is there already is the owner's word
            write_file(workspace.deployment_file, restored.read_bytes())
            placed = True
        restored.unlink()
    try:
        yield
    except BaseException:
        if placed and not workspace.root.exists():
            workspace.deployment_file.unlink(missing_ok=True)
        raise


def _extract(
    stream: BinaryIO,
    name: str,
    *,
    workspace: Workspace,
    scratch: Path,
    restored: Path,
    master_key: Path | None,
    tell: Callable[[int], None],
) -> _List:
    """Unseal the members of a backup below ``restored``, and compare them with its list; return that."""
    header: _Header | None = None
    listed: _List | None = None
    found: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        key = SecretBytes(b"")
        for member, content in plain_tar.members(stream, name):
            plain_tar.check_member(member, name)
            sealed = scratch / "sealed"
            if header is None:
                header = _read_header(member, content, name)
                key = stack.enter_context(_unwrap(workspace, header, master_key))
                continue
            expected = LIST if listed is None and member.name == LIST else str(len(found) + 1)
            if member.name != expected or listed is not None:
                raise BackupContentError(f"{name}: {member.name!r} is not where it should be.", hint=_DAMAGED)
            plain_tar.write(content, sealed)
            if member.name == LIST:
                listed = _parse_list(codec.unseal_bytes(sealed, key=key, embedded_path=LIST_PATH), name)
            else:
                path, size = _unseal(sealed, scratch / "plain", restored, key, name)
                found[path] = size
                tell(size)
            sealed.unlink()
    if header is None or listed is None or header.created != listed.created:
        raise BackupContentError(f"{name} ends before its list.", hint=_DAMAGED)
    if found != {row.path: row.size for row in listed.files}:
        raise BackupContentError(f"The files of {name} are not those of its list.", hint=_DAMAGED)
    for row in listed.files:
        (restored / row.path).chmod(row.mode)
    return listed


def _read_header(member: tarfile.TarInfo, content: BinaryIO, name: str) -> _Header:
    if member.name != HEADER or member.size > LARGEST_HEADER:
        raise BackupFormatError(f"{name} is no backup: it does not begin with {HEADER}.")
    try:
        return _Header.model_validate_json(content.read(LARGEST_HEADER))
    except ValidationError as error:
        raise BackupFormatError(f"{name}: {HEADER} is none that sealserve writes.") from error


def _parse_list(content: SecretBytes, name: str) -> _List:
    try:
        return _List.model_validate_json(content.reveal())
    except ValidationError as error:
        raise BackupFormatError(f"{name}: its list is none that sealserve writes.") from error


def _unseal(sealed: Path, plain: Path, restored: Path, key: SecretBytes, name: str) -> tuple[str, int]:
    """Put a sealed file where its embedded path says, below ``restored``; return path and size."""
    unsealed = codec.unseal_file(sealed, plain, key=key, embedded_path=None, mode=PRIVATE)
    path = unsealed.embedded_path
    if not is_safe_relative(path) or path.split("/")[0] not in (*_FOLDERS, "host", DEPLOYMENT_FILE):
        raise BackupContentError(f"{name} holds {path!r}, which is no path of a workspace.", hint=_DAMAGED)
    place = restored / path
    for above in reversed(place.relative_to(restored).parents[:-1]):
        (restored / above).mkdir(mode=0o700 if above.parts[0] in _FOLDERS else 0o755, parents=True, exist_ok=True)
    if os.path.lexists(place):
        raise BackupContentError(f"{name} holds {path!r} twice.", hint=_DAMAGED)
    plain.rename(place)
    return path, unsealed.size


@contextlib.contextmanager
def _unwrap(workspace: Workspace, header: _Header, master_key: Path | None) -> Iterator[SecretBytes]:
    """Yield the key of a backup, unwrapped by the master key, or by the service of ``sealserve.toml``."""
    settings = keystore_settings(workspace)
    try:
        wrapped = base64.b64decode(header.key, validate=True)
    except binascii.Error as error:
        raise BackupFormatError(f"{HEADER} holds no wrapped key.", hint=_DAMAGED) from error
    with contextlib.ExitStack() as stack:
        if master_key is not None:
            wrapper: KeyWrapper = MasterKey(read_master_key(master_key, passphrase=passphrase_source(settings)))
        elif (service := transit_key(settings)) is not None:
            wrapper = stack.enter_context(service)
        else:
            raise BackupKeyMissingError(
                "Nothing says which key opens the backup.",
                hint="Give the copy of owner/master.key that you keep apart with --master-key; or put a sealserve.toml "
                "here whose [keystore] names your key management service.",
            )
        try:
            key = wrapper.unwrap(wrapped, context=_CONTEXT)
        except KeyUnwrapError as error:
            raise BackupKeyError(
                "The key does not open the backup: it was made under another master key, or was damaged.",
                hint="A backup opens with the master key of the time when it was made.",
            ) from error
        with key:
            yield key


def _paths(workspace: Workspace, *, models: bool, releases: bool) -> Iterator[str]:
    """Yield the paths of what is backed up, relative to ``.sealserve``; ``sealserve.toml`` stands beside that."""
    left_out = {*_LEFT_OUT_FOLDERS, *(() if models else ("owner/models",)), *(() if releases else ("owner/releases",))}
    if workspace.deployment_file.is_file():
        yield DEPLOYMENT_FILE
    for folder in _FOLDERS:
        if not (workspace.root / folder).is_dir():
            continue
        listing = list_folder(workspace.root / folder)
        for other in listing.others:
            if (workspace.root / folder / other).is_symlink():
                raise BackupWorkspaceError(
                    f"{folder}/{other} in {workspace.root} is a link: what it points to would be missing.",
                    hint="Put the file or folder itself in its place.",
                )
        for below in listing.files:
            path = f"{folder}/{below}"
            above = {str(parent) for parent in PurePosixPath(path).parents}
            if path not in _LEFT_OUT and not above & left_out and not _is_unfinished(path):
                yield path
    for path in _HOST_FILES:
        if (workspace.root / path).is_file():
            yield path


def _is_unfinished(path: str) -> bool:
    """Return whether a path lies in a folder, or is a file, that was not published yet, or never will be."""
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


def _parse_time(text: str) -> datetime:
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
