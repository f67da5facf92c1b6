"""Restore the owner's workspace from a backup. See `backup_format`."""

import base64
import binascii
import contextlib
import os
import tarfile
from collections.abc import Callable, Iterator
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
from sealserve.owner.vault import keystore_settings, passphrase_source, transit_key
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
    """Bring back a workspace from the backup ``source``, whole or not at all, into a folder that has none.

    Args:
        workspace: Where it appears.
        source: What `back_up` wrote.
        master_key: The file with the master key; it becomes the workspace's. None where ``sealserve.toml`` is there
            already, and names a key management service.
        progress: Called with plaintext bytes as they are unsealed.

    Raises:
        OutputExistsError: There is a workspace already.
        InputError: `backup.no-key`: Neither a master key nor a service.
        VerificationError: `backup.wrong-key`: The key is another one.
        VerificationError: `backup.format`: No backup.
        VerificationError: `backup.content`: A file of it is missing, added or changed.
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
        # Decrypt into a folder beside the workspace, and compare everything with the list.
        listed = _extract(
            stream,
            str(source),
            workspace=workspace,
            scratch=scratch.folder,
            restored=stage.folder,
            master_key=master_key,
            tell=tell,
        )
        # The backup does not hold the master key: the owner's copy becomes the workspace's.
        if master_key is not None:
            content = read_private_bytes(master_key, what="master key", limit=LARGEST_HEADER)
            write_file(stage.folder / "owner" / workspace.owner.master_key.name, content, mode=PRIVATE)
        make_folders(stage.folder)
        # Publish. Renaming the folder comes last: from here on nothing can fail.
        with _deployment_file_placed(workspace, stage.folder / DEPLOYMENT_FILE):
            stage.publish(workspace.root)
    return listed.summary


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
) -> FileList:
    """Unseal the members of a backup below ``restored``, and compare them with its list; return that."""
    header: Header | None = None
    listed: FileList | None = None
    found: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        key = SecretBytes(b"")
        for member, content in plain_tar.members(stream, name):
            plain_tar.check_member(member, name)
            sealed = scratch / "sealed"
            if header is None:  # the first member holds the wrapped key
                header = _read_header(member, content, name)
                key = stack.enter_context(_unwrap(workspace, header, master_key))
                continue
            expected = LIST if listed is None and member.name == LIST else str(len(found) + 1)
            if member.name != expected or listed is not None:
                raise OwnerCode.BACKUP_CONTENT.error(
                    f"{name}: {member.name!r} is not where it should be.", hint=DAMAGED
                )
            plain_tar.write(content, sealed)
            if member.name == LIST:  # the last member
                listed = parse_list(codec.unseal_bytes(sealed, key=key, embedded_path=LIST_PATH), name)
            else:  # a file of the workspace
                path, size = _unseal(sealed, scratch / "plain", restored, key, name)
                found[path] = size
                tell(size)
            sealed.unlink()
    # A truncated backup, and one whose header belongs to another one, are rejected.
    if header is None or listed is None or header.created != listed.created:
        raise OwnerCode.BACKUP_CONTENT.error(f"{name} ends before its list.", hint=DAMAGED)
    # Exactly the listed files must be there: none left out, none added.
    if found != {row.path: row.size for row in listed.files}:
        raise OwnerCode.BACKUP_CONTENT.error(f"The files of {name} are not those of its list.", hint=DAMAGED)
    for row in listed.files:
        (restored / row.path).chmod(row.mode)
    return listed


def _read_header(member: tarfile.TarInfo, content: BinaryIO, name: str) -> Header:
    if member.name != HEADER or member.size > LARGEST_HEADER:
        raise OwnerCode.BACKUP_FORMAT.error(f"{name} is no backup: it does not begin with {HEADER}.")
    return parse_header(content.read(LARGEST_HEADER), name)


def _unseal(sealed: Path, plain: Path, restored: Path, key: SecretBytes, name: str) -> tuple[str, int]:
    """Put a sealed file where its embedded path says, below ``restored``; return path and size."""
    unsealed = codec.unseal_file(sealed, plain, key=key, embedded_path=None, mode=PRIVATE)
    path = unsealed.embedded_path
    if not is_safe_relative(path) or path.split("/")[0] not in (*FOLDERS, "host", DEPLOYMENT_FILE):
        raise OwnerCode.BACKUP_CONTENT.error(f"{name} holds {path!r}, which is no path of a workspace.", hint=DAMAGED)
    place = restored / path
    for above in reversed(place.relative_to(restored).parents[:-1]):
        (restored / above).mkdir(mode=0o700 if above.parts[0] in FOLDERS else 0o755, parents=True, exist_ok=True)
    if os.path.lexists(place):
        raise OwnerCode.BACKUP_CONTENT.error(f"{name} holds {path!r} twice.", hint=DAMAGED)
    plain.rename(place)
    return path, unsealed.size


@contextlib.contextmanager
def _unwrap(workspace: Workspace, header: Header, master_key: Path | None) -> Iterator[SecretBytes]:
    """Yield the key of a backup, unwrapped by the master key, or by the service of ``sealserve.toml``."""
    settings = keystore_settings(workspace)
    try:
        wrapped = base64.b64decode(header.key, validate=True)
    except binascii.Error as error:
        raise OwnerCode.BACKUP_FORMAT.error(f"{HEADER} holds no wrapped key.", hint=DAMAGED) from error
    with contextlib.ExitStack() as stack:
        if master_key is not None:
            wrapper: KeyWrapper = MasterKey(read_master_key(master_key, passphrase=passphrase_source(settings)))
        elif (service := transit_key(settings)) is not None:
            wrapper = stack.enter_context(service)
        else:
            raise OwnerCode.BACKUP_NO_KEY.error(
                "Nothing says which key opens the backup.",
                hint="Give the copy of owner/master.key that you keep apart with --master-key; or put a sealserve.toml "
                "here whose [keystore] names your key management service.",
            )
        try:
            key = wrapper.unwrap(wrapped, context=KEY_CONTEXT)
        except KeyUnwrapError as error:
            raise OwnerCode.BACKUP_WRONG_KEY.error(
                "The key does not open the backup: it was made under another master key, or was damaged.",
                hint="A backup opens with the master key of the time when it was made.",
            ) from error
        with key:
            yield key
