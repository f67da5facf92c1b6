"""Restore the owner's workspace from a backup. See `backup_format`."""

import base64
import binascii
import contextlib
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from sealserve.atomic_file import PRIVATE, OutputExistsError, write_file
from sealserve.broker.key_wrapper import KeyUnwrapError, KeyWrapper
from sealserve.broker.master_key import MasterKey, read_master_key
from sealserve.owner.backup_format import (
    DAMAGED,
    FOLDERS,
    HEADER,
    KEY_CONTEXT,
    LARGEST_HEADER,
    LIST,
    LIST_PATH,
    Backup,
    FileList,
    Header,
    parse_header,
    parse_list,
)
from sealserve.owner.codes import OwnerCode
from sealserve.owner.key_services import key_services
from sealserve.owner.vault import keystore_settings, passphrase_source
from sealserve.private_file import read_private_bytes
from sealserve.regular_file import open_regular
from sealserve.sealing import codec, plain_tar
from sealserve.sealing.embedded_path import is_safe_relative
from sealserve.secret import SecretBytes
from sealserve.whole_folder import folder_made, staging
from sealserve.workspace import DEPLOYMENT_FILE, Workspace, make_folders


def restore(
    workspace: Workspace,
    source: Path,
    *,
    master_key: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Backup:
    """Restore a workspace from the backup ``source`` into a folder without a workspace.

    If the restore fails, the folder is not changed.

    Args:
        workspace: The workspace to create.
        source: A file that `back_up` wrote.
        master_key: File with the master key, which becomes the workspace's master key. None if an existing
            ``sealserve.toml`` names a key service.
        progress: Called with the number of plaintext bytes after each file.

    Returns:
        Time, number of files and size of the backup.

    Raises:
        OutputExistsError: The workspace already exists.
        InputError: `backup.no-key`: Neither a master key nor a key service was given.
        VerificationError: `backup.wrong-key`: The backup was made under another master key.
        VerificationError: `backup.format`: The file is not a backup.
        VerificationError: `backup.content`: A file of the backup is missing, was added, or was changed.
        InputFileMissingError: The backup file does not exist.
        SealserveError: As the reader of archives, the codec and the key service.
    """
    tell = progress or (lambda _: None)
    directory = workspace.directory
    if os.path.lexists(workspace.root):
        raise OutputExistsError(
            f"The workspace {workspace.root} already exists.",
            hint="Restore into another folder: --directory DIR.",
        )
    with (
        open_regular(source) as descriptor,
        open(descriptor, "rb", closefd=False) as stream,
        folder_made(directory),
        staging(directory, workspace.root.name) as stage,
        staging(directory, f"{workspace.root.name}.member", mode=0o700) as scratch,
    ):
        # Decrypt into a temporary folder beside the workspace, and compare all files with the list.
        listed = _extract(
            stream,
            str(source),
            workspace=workspace,
            scratch=scratch.folder,
            restored=stage.folder,
            master_key=master_key,
            tell=tell,
        )
        # The backup does not contain the master key: copy the given key into the workspace.
        if master_key is not None:
            content = read_private_bytes(master_key, what="master key", limit=LARGEST_HEADER)
            write_file(stage.folder / "owner" / workspace.owner.master_key.name, content, mode=PRIVATE)
        make_folders(stage.folder)
        # Publish. The rename of the folder is the last step, so a failure before it leaves no workspace.
        with _deployment_file_placed(workspace, stage.folder / DEPLOYMENT_FILE):
            stage.publish(workspace.root)
    return listed.summary


@contextlib.contextmanager
def _deployment_file_placed(workspace: Workspace, restored: Path) -> Iterator[None]:
    """Copy the restored ``sealserve.toml`` beside the workspace, if none exists there. Remove it again on failure."""
    placed = False
    if restored.exists():
        if not workspace.deployment_file.exists():  # keep an existing file: it contains the owner's current settings
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
) -> FileList:
    """Decrypt the members of a backup below ``restored``, compare them with the list, and return the list."""
    header: Header | None = None
    listed: FileList | None = None
    found: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        key = SecretBytes(b"")
        for member, content in plain_tar.members(stream, name):
            plain_tar.check_member(member, name)
            sealed = scratch / "sealed"
            if header is None:  # the first member contains the wrapped key
                header = _read_header(member, content, name)
                key = stack.enter_context(_unwrap(workspace, header, master_key))
                continue
            expected = LIST if listed is None and member.name == LIST else str(len(found) + 1)
            if member.name != expected or listed is not None:
                raise OwnerCode.BACKUP_CONTENT.error(
                    f"The backup {name} has a wrong member: expected {expected!r}, got {member.name!r}.", hint=DAMAGED
                )
            plain_tar.write(content, sealed)
            if member.name == LIST:  # the last member
                listed = parse_list(codec.unseal_bytes(sealed, key=key, embedded_path=LIST_PATH), name)
            else:  # a file of the workspace
                path, size = _unseal(sealed, scratch / "plain", restored, key, name)
                found[path] = size
                tell(size)
            sealed.unlink()
    # Reject a truncated backup, and a header that belongs to another backup.
    if header is None or listed is None or header.created != listed.created:
        raise OwnerCode.BACKUP_CONTENT.error(
            f"The backup {name} is incomplete: its list of files is missing, or belongs to another backup.",
            hint=DAMAGED,
        )
    # The files must be exactly the listed files.
    if found != {row.path: row.size for row in listed.files}:
        raise OwnerCode.BACKUP_CONTENT.error(
            f"The files of the backup {name} differ from its list of files.", hint=DAMAGED
        )
    for row in listed.files:
        (restored / row.path).chmod(row.mode)
    return listed


def _read_header(member: tarfile.TarInfo, content: BinaryIO, name: str) -> Header:
    if member.name != HEADER or member.size > LARGEST_HEADER:
        raise OwnerCode.BACKUP_FORMAT.error(
            f"{name} is not a backup: expected {HEADER} as its first member, got {member.name!r}.",
            hint="Give a file that `sealserve backup` wrote.",
        )
    return parse_header(content.read(LARGEST_HEADER), name)


def _unseal(sealed: Path, plain: Path, restored: Path, key: SecretBytes, name: str) -> tuple[str, int]:
    """Decrypt a file, move it to its embedded path below ``restored``, and return path and size."""
    unsealed = codec.unseal_file(sealed, plain, key=key, embedded_path=None, mode=PRIVATE)
    path = unsealed.embedded_path
    if not is_safe_relative(path) or path.split("/")[0] not in (*FOLDERS, "host", DEPLOYMENT_FILE):
        raise OwnerCode.BACKUP_CONTENT.error(
            f"The backup {name} contains the path {path!r}, which is not a path of a workspace.", hint=DAMAGED
        )
    place = restored / path
    for above in reversed(place.relative_to(restored).parents[:-1]):
        (restored / above).mkdir(mode=0o700 if above.parts[0] in FOLDERS else 0o755, parents=True, exist_ok=True)
    if os.path.lexists(place):
        raise OwnerCode.BACKUP_CONTENT.error(f"The backup {name} contains the path {path!r} twice.", hint=DAMAGED)
    plain.rename(place)
    return path, unsealed.size


@contextlib.contextmanager
def _unwrap(workspace: Workspace, header: Header, master_key: Path | None) -> Iterator[SecretBytes]:
    """Yield the key of a backup, unwrapped by the master key or by a key service."""
    settings = keystore_settings(workspace)
    try:
        wrapped = base64.b64decode(header.key, validate=True)
    except binascii.Error as error:
        raise OwnerCode.BACKUP_FORMAT.error(
            f"The wrapped key in {HEADER} of the backup is not valid base64.", hint=DAMAGED
        ) from error
    with contextlib.ExitStack() as stack:
        if master_key is not None:
            wrappers: tuple[KeyWrapper, ...] = (
                MasterKey(read_master_key(master_key, passphrase=passphrase_source(settings))),
            )
        else:
            wrappers = stack.enter_context(key_services(settings)).by_preference
        if not wrappers:
            raise OwnerCode.BACKUP_NO_KEY.error(
                "The key of the backup is not specified: expected --master-key, or a sealserve.toml whose [keystore] "
                "names a key service.",
                hint="Give your copy of owner/master.key with --master-key. With a key service, put the "
                "sealserve.toml into the folder first.",
            )
        with _unwrap_with(wrappers, wrapped) as key:
            yield key


def _unwrap_with(wrappers: Iterable[KeyWrapper], wrapped: bytes) -> SecretBytes:
    """Return the key of a backup, unwrapped by the first wrapper that can decrypt it."""
    failed: KeyUnwrapError | None = None
    for wrapper in wrappers:
        try:
            return wrapper.unwrap(wrapped, context=KEY_CONTEXT)
        except KeyUnwrapError as error:
            failed = error
    raise OwnerCode.BACKUP_WRONG_KEY.error(
        "The master key cannot open the backup: the backup was made under another master key, or is damaged.",
        hint="Give the master key that the workspace had when the backup was made.",
    ) from failed
