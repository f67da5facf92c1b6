"""A release packed as one tar file for transport, and the unpacking. A received archive is untrusted until verified.

The members are in this order: index, signature, ``enclave/``, sealed files. Therefore the signature is verified before
anything else is written, and the size of each further member is known from the signed index. An archive that was
truncated between two members lacks sealed files.
"""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sealserve.atomic_file import replacing
from sealserve.regular_file import open_regular
from sealserve.sealing import plain_tar
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.file_tree import list_folder
from sealserve.sealing.release import MAX_INDEX_SIZE, VerifiedRelease, read_verified_index, verify_release
from sealserve.sealing.release_files import ReleaseFileMissingError
from sealserve.sealing.release_index import (
    ENCLAVE_FOLDER,
    INDEX_FILE,
    SIGNATURE_FILE,
    ReleaseIndex,
    folder_name,
    parse_index,
)
from sealserve.sealing.signed_index import SIGNATURE_SIZE
from sealserve.whole_folder import staging

MAX_ENCLAVE_SIZE: Final = 64 * 2**20  # manifests, SIGSTRUCTs, certificates: public files of a few kilobytes each
MAX_ENCLAVE_FILES: Final = 4096


def pack(folder: Path, tar: Path, *, overwrite: bool = False) -> None:
    """Write the release in ``folder``, including its ``enclave/``, to the new tar file ``tar``.

    The same release results in the same bytes. The signature and the digests are not verified here.

    Raises:
        VerificationError: `release.incomplete` if the folder lacks the index.
        VerificationError: `release.invalid-index` if the index is not in the format that sealserve writes.
        ReleaseFileMissingError: A file of the index is missing.
        OutputExistsError: ``tar`` already exists.
        UnavailableError: `file.disk-full` if the disk is full.
    """
    index_file = folder / INDEX_FILE
    if not index_file.is_file():
        raise SealingCode.RELEASE_INCOMPLETE.error(
            f"{folder} is not a complete release: the file {INDEX_FILE} is missing.",
            hint="Check the path, or copy the release again.",
        )
    index = parse_index(index_file.read_bytes(), name=str(index_file))
    present = set(list_folder(folder).files)
    sealed = [file.path for file in index.files]
    if missing := [path for path in (SIGNATURE_FILE, *sealed) if path not in present]:
        raise ReleaseFileMissingError(folder, missing=missing, changed=(), extra=())
    enclave = sorted(path for path in present if path.startswith(f"{ENCLAVE_FOLDER}/"))
    moment = int(index.created_at.timestamp())
    with (
        replacing(tar, overwrite=overwrite) as output,
        tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in (INDEX_FILE, SIGNATURE_FILE, *enclave, *sealed):
            plain_tar.add(archive, folder / path, path, moment=moment)


def unpack(
    tar: Path, parent: Path, *, owner_key: Ed25519PublicKey, check: Callable[[Path], None] | None = None
) -> VerifiedRelease:
    """Unpack the release in ``tar`` into a new folder ``NAME-ID`` in ``parent``, and verify it.

    1. Each member is a regular file with a safe path, and each path occurs once.
    2. The index and the signature come first, and the owner's key signed the index.
    3. Each further member is in the index and has the indexed size, or is below ``enclave/`` and within fixed limits.
    4. The archive ends with a valid end marker, without trailing data.
    5. The files are exactly the files of the index (`verify_release`).
    6. ``check`` raises no error.

    The files below ``enclave/`` have a separate signed index, which ``check`` must verify.

    Args:
        tar: An archive from `pack`.
        parent: The parent of the new folder. The new folder appears only when it is complete and verified.
        owner_key: Verifies the index.
        check: Called with the unpacked folder before it gets its final name. `None` means no further check.

    Raises:
        InputFileMissingError: The archive does not exist.
        VerificationError: `archive.not-a-tar` if the file is not a tar archive.
        VerificationError: `archive.truncated` if the archive is incomplete.
        VerificationError: `archive.trailing-data` if data follows the end of the archive.
        VerificationError: `archive.unsafe-path` if a path points outside the folder.
        VerificationError: `archive.unsafe-member` if a member is a link, device, pipe, folder or sparse file.
        VerificationError: `archive.duplicate-member` if a path occurs twice.
        VerificationError: `archive.unexpected-member` if a member is not in the index.
        VerificationError: `archive.too-large` if a member's size differs from the index or exceeds a limit.
        SealserveError: An error from `verify_release` or ``check``.
        OutputExistsError: The folder of the release already exists.
        UnavailableError: `file.disk-full` if the disk is full.
    """
    with (
        open_regular(tar) as descriptor,
        open(descriptor, "rb", closefd=False) as stream,
        staging(parent, tar.name) as stage,
    ):
        index = _extract(stream, str(tar), stage.folder, owner_key)
        verified = verify_release(stage.folder, owner_key)  # (5)
        if check is not None:  # (6)
            check(stage.folder)
        folder = parent / folder_name(index.name, verified.id)
        stage.publish(folder)
    return VerifiedRelease(id=verified.id, folder=folder, index=index)


def _extract(stream: BinaryIO, name: str, folder: Path, owner_key: Ed25519PublicKey) -> ReleaseIndex:
    paths = _Paths(name)
    index: ReleaseIndex | None = None
    sizes: dict[str, int] = {INDEX_FILE: MAX_INDEX_SIZE, SIGNATURE_FILE: SIGNATURE_SIZE}
    room = MAX_ENCLAVE_SIZE
    for member, content in plain_tar.members(stream, name):
        plain_tar.check_member(member, name)  # (1)
        path = member.name
        paths.add(path)
        if index is None and path not in sizes:
            raise SealingCode.ARCHIVE_UNEXPECTED_MEMBER.error(
                f"{name} is not a packed release: {path!r} comes before {INDEX_FILE} and {SIGNATURE_FILE}.",
                hint="Run `sealserve release pack` to pack the release again.",
            )
        if path in (INDEX_FILE, SIGNATURE_FILE):
            _check_size(member, sizes[path], name, exact=False)
        elif path in sizes:  # (3)
            _check_size(member, sizes[path], name, exact=True)
        elif path.startswith(f"{ENCLAVE_FOLDER}/"):
            _check_size(member, room, name, exact=False)
            room -= max(member.size, MAX_ENCLAVE_SIZE // MAX_ENCLAVE_FILES)
        else:
            raise SealingCode.ARCHIVE_UNEXPECTED_MEMBER.error(
                f"{name} contains the unexpected file {path!r}, which is not in the signed index of the release.",
                hint="Run `sealserve release pack` to pack the release again.",
            )
        plain_tar.write(content, folder / path)
        if index is None and {INDEX_FILE, SIGNATURE_FILE} <= paths.files:  # (2)
            index = parse_index(read_verified_index(folder, owner_key).content, name=f"{name}: {INDEX_FILE}")
            sizes.update((file.path, file.size) for file in index.files)
    if index is None:
        raise SealingCode.RELEASE_INCOMPLETE.error(
            f"{name} is not a complete release: {INDEX_FILE} or {SIGNATURE_FILE} is missing.",
            hint="Copy the archive again.",
        )
    return index


def _check_size(member: tarfile.TarInfo, limit: int, name: str, *, exact: bool) -> None:
    if member.size < 0 or member.size > limit or (exact and member.size != limit):
        expected = f"{limit} bytes as in the signed index" if exact else f"at most {limit} bytes"
        raise SealingCode.ARCHIVE_TOO_LARGE.error(
            f"{name}: the size of {member.name!r} is invalid: expected {expected}, got {member.size}.",
            hint="Copy the archive again.",
        )


class _Paths:
    """The paths of the members read so far. Each path occurs once, and no path is below another file."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.files: set[str] = set()
        self._folders: set[str] = set()

    def add(self, path: str) -> None:
        parts = path.split("/")
        above = {"/".join(parts[:end]) for end in range(1, len(parts))}
        if path in self.files or path in self._folders or above & self.files:
            raise SealingCode.ARCHIVE_DUPLICATE_MEMBER.error(
                f"{self._name}: the path {path!r} occurs twice, or is both a file and a folder.",
                hint="Run `sealserve release pack` to pack the release again.",
            )
        self.files.add(path)
        self._folders |= above
