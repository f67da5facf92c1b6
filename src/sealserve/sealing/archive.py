"""A release as one tar file for the journey, and back. What arrives is taken for hostile until it is verified.

Order of the members: index, signature, ``enclave/``, sealed files. So the signature is verified before anything else is
written, each further member's size is known from the signed index, and an archive that was cut off between two members
lacks sealed files.
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

MAX_ENCLAVE_SIZE: Final = 64 * 2**20  # manifests, SIGSTRUCTs, certificates: public files, of kilobytes each
MAX_ENCLAVE_FILES: Final = 4096


def pack(folder: Path, tar: Path, *, overwrite: bool = False) -> None:
    """Write the release in ``folder``, with its ``enclave/``, to the new tar file ``tar``.

    The same release gives the same bytes. Signature and digests are not verified here.

    Raises:
        VerificationError: `release.incomplete`: No release.
        VerificationError: `release.invalid-index`: No index that sealserve writes.
        ReleaseFileMissingError: A file of the index is not there.
        OutputExistsError: ``tar`` exists.
        UnavailableError: `file.disk-full`: No room for it.
    """
    index_file = folder / INDEX_FILE
    if not index_file.is_file():
        raise SealingCode.RELEASE_INCOMPLETE.error(f"{folder} is no release: it has no {INDEX_FILE}.")
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

    1. each member is a plain regular file with a safe path, and comes once;
    2. first come index and signature, and the owner's key signed the index;
    3. each further member is in the index, with the index's size, or below ``enclave/``, within fixed bounds;
    4. the archive ends as a tar file ends, with nothing behind it;
    5. the files are exactly those of the index (`verify_release`);
    6. ``check`` raises nothing.

    What is below ``enclave/`` has a signed index of its own, which is for ``check`` to verify.

    Args:
        tar: What `pack` wrote.
        parent: Where the new folder appears, whole or not at all.
        owner_key: Verifies the index.
        check: Looks at the folder before it gets its name.

    Raises:
        InputFileMissingError: There is no such archive.
        VerificationError: `archive.not-a-tar`: No tar file.
        VerificationError: `archive.truncated`: It is cut off.
        VerificationError: `archive.trailing-data`: There is something behind its end.
        VerificationError: `archive.unsafe-path`: A path that leads outside.
        VerificationError: `archive.unsafe-member`: A link, device, pipe, folder or sparse file.
        VerificationError: `archive.duplicate-member`: A path comes twice.
        VerificationError: `archive.unexpected-member`: A member that is not in the index.
        VerificationError: `archive.too-large`: A member of another size than in the index, or too large.
        SealserveError: What `verify_release` and ``check`` raise.
        OutputExistsError: The release is there already.
        UnavailableError: `file.disk-full`: No room for it.
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
                f"{name}: {path!r} comes before {INDEX_FILE} and {SIGNATURE_FILE}: it is no packed release.",
                hint="Pack releases with `sealserve release pack`.",
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
                f"{name}: {path!r} is not in the signed index of the release."
            )
        plain_tar.write(content, folder / path)
        if index is None and {INDEX_FILE, SIGNATURE_FILE} <= paths.files:  # (2)
            index = parse_index(read_verified_index(folder, owner_key).content, name=f"{name}: {INDEX_FILE}")
            sizes.update((file.path, file.size) for file in index.files)
    if index is None:
        raise SealingCode.RELEASE_INCOMPLETE.error(f"{name} has no {INDEX_FILE} with a {SIGNATURE_FILE}.")
    return index


def _check_size(member: tarfile.TarInfo, limit: int, name: str, *, exact: bool) -> None:
    if member.size < 0 or member.size > limit or (exact and member.size != limit):
        expected = f"{limit}, as in the signed index" if exact else f"at most {limit}"
        raise SealingCode.ARCHIVE_TOO_LARGE.error(
            f"{name}: {member.name!r} has {member.size} bytes; expected {expected}."
        )


class _Paths:
    """The paths of an archive's members so far: each once, and none below another."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.files: set[str] = set()
        self._folders: set[str] = set()

    def add(self, path: str) -> None:
        parts = path.split("/")
        above = {"/".join(parts[:end]) for end in range(1, len(parts))}
        if path in self.files or path in self._folders or above & self.files:
            raise SealingCode.ARCHIVE_DUPLICATE_MEMBER.error(
                f"{self._name}: {path!r} comes twice, or is both a file and a folder."
            )
        self.files.add(path)
        self._folders |= above
