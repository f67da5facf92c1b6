"""Functions that seal and unseal single files and byte strings as Gramine encrypted files.

An output appears by atomic rename, complete or not at all. The memory use does not depend on the file size. If the
native cipher is available (`node_cipher`), all processors work on large files.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sealserve.atomic_file import PRIVATE, PUBLIC, replacing
from sealserve.regular_file import open_regular
from sealserve.sealing import embedded_path as paths
from sealserve.sealing import protected_file
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.digests import sha256_of
from sealserve.sealing.format_version import FormatVersion
from sealserve.sealing.protected_file import NODE_SIZE
from sealserve.sealing.reader import SealedReader, read_header
from sealserve.sealing.writer import BytesPlaintext, FilePlaintext, Plaintext, write_sealed
from sealserve.secret import SecretBytes

Progress = Callable[[int], None]
"""Called with the number of plaintext bytes processed since the last call. An exception from it cancels the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedFile:
    """The sizes of a sealed file and of its plaintext, in bytes."""

    plain_size: int
    sealed_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestedFile(SealedFile):
    """The sizes of a sealed file and of its plaintext, with both SHA-256 digests in hexadecimal."""

    plain_sha256: str
    sealed_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsealedFile:
    """The content of a sealed file: the authenticated path that it was bound to, and the plaintext size in bytes."""

    embedded_path: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicHeader:
    """The public part of a sealed file. Anyone can read it, and it is not authenticated.

    Attributes:
        version: The format version.
        minor_version: The minor format version, usually 0.
        feature_flags: Format 2.0 only. Bit 0 means that Gramine was interrupted while it wrote the file.
        sealed_size: The size of the sealed file in bytes.
        nodes: The number of nodes of 4096 bytes.
    """

    version: FormatVersion
    minor_version: int
    feature_flags: int
    sealed_size: int
    nodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedContent:
    """The authenticated properties of a sealed file, which the key reveals.

    Attributes:
        embedded_path: The path that the file is bound to.
        size: The size of the content in bytes.
        data_nodes: The number of data nodes. They hold the content after its first 3072 bytes.
        mht_nodes: The number of MHT nodes, which hold the keys and MACs.
        trailing: The number of meaningless bytes after the last node.
        complete: Whether every node was verified, not only node 0.
    """

    embedded_path: str
    size: int
    data_nodes: int
    mht_nodes: int
    trailing: int
    complete: bool


def seal_file(
    source: Path,
    destination: Path,
    *,
    key: SecretBytes,
    embedded_path: str,
    version: FormatVersion = FormatVersion.V1_0,
    overwrite: bool = False,
    follow_links: bool = True,
    progress: Progress | None = None,
    threads: int | None = None,
) -> SealedFile:
    """Seal the file ``source`` to ``destination``.

    Args:
        source: A regular file.
        destination: The path of the sealed file.
        key: The wrap key, 16 bytes.
        embedded_path: The path that the sealed file is bound to.
        version: The format version. All Gramine versions read 1.0.
        overwrite: Whether an existing ``destination`` may be replaced.
        follow_links: Whether ``source`` itself may be a symbolic link.
        progress: Called in this thread during the work.
        threads: The number of threads. `None` selects the number that is useful for the file size.

    Raises:
        InputError: `sealed-file.key-length` if the key does not have 16 bytes.
        InputError: `sealed-file.unusable-path` if the path cannot be embedded.
        InputFileMissingError: The source does not exist.
        InputFileKindError: The source is not a regular file.
        InputFileUnreadableError: The source cannot be read.
        InputError: `sealed-file.source-changed` if the source changed during the sealing.
        OutputExistsError: ``destination`` already exists.
        UnavailableError: `file.unwritable` if its folder does not exist or is not writable.
        UnavailableError: `file.disk-full` if the disk is full.
    """
    with (
        open_regular(source, follow_links=follow_links) as descriptor,
        replacing(destination, mode=PUBLIC, overwrite=overwrite) as output,
    ):
        plaintext = FilePlaintext(descriptor, source)
        seal = _Sealing(key=key, embedded_path=embedded_path, version=version, progress=progress, threads=threads)
        sealed_size = seal(plaintext, output.fileno())
        plaintext.check_unchanged()
    return SealedFile(plain_size=plaintext.size, sealed_size=sealed_size)


def seal_digested(
    source: Path,
    destination: Path,
    *,
    key: SecretBytes,
    embedded_path: str,
    version: FormatVersion = FormatVersion.V1_0,
    overwrite: bool = False,
    follow_links: bool = True,
    progress: Progress | None = None,
    threads: int | None = None,
) -> DigestedFile:
    """Seal ``source`` and return the digests of both files. Arguments and errors are the same as in `seal_file`.

    Hashing takes longer than sealing. Therefore both files are hashed in parallel, after the sealed file is complete.
    """
    with (
        open_regular(source, follow_links=follow_links) as descriptor,
        replacing(destination, mode=PUBLIC, overwrite=overwrite) as output,
    ):
        plaintext = FilePlaintext(descriptor, source)
        seal = _Sealing(key=key, embedded_path=embedded_path, version=version, progress=progress, threads=threads)
        sealed_size = seal(plaintext, output.fileno())
        plain_sha256, sealed_sha256 = sha256_of((descriptor, output.fileno()))
        plaintext.check_unchanged()
    return DigestedFile(
        plain_size=plaintext.size, sealed_size=sealed_size, plain_sha256=plain_sha256, sealed_sha256=sealed_sha256
    )


def seal_bytes(
    plaintext: bytes | SecretBytes,
    destination: Path,
    *,
    key: SecretBytes,
    embedded_path: str,
    version: FormatVersion = FormatVersion.V1_0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DigestedFile:
    """Seal ``plaintext`` to ``destination``. Arguments and errors are the same as in `seal_file`."""
    content = plaintext.reveal() if isinstance(plaintext, SecretBytes) else plaintext
    with replacing(destination, mode=PUBLIC, overwrite=overwrite) as output:
        seal = _Sealing(key=key, embedded_path=embedded_path, version=version, progress=progress, threads=None)
        sealed_size = seal(BytesPlaintext(content), output.fileno())
        (sealed_sha256,) = sha256_of((output.fileno(),))
    return DigestedFile(
        plain_size=len(content),
        sealed_size=sealed_size,
        plain_sha256=hashlib.sha256(content).hexdigest(),
        sealed_sha256=sealed_sha256,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sealing:
    """The parameters of sealing. The call seals a plaintext to an empty file and returns the sealed size in bytes."""

    key: SecretBytes
    embedded_path: str
    version: FormatVersion
    progress: Progress | None
    threads: int | None

    def __call__(self, plaintext: Plaintext, descriptor: int) -> int:
        write_sealed(
            plaintext,
            descriptor,
            key=self.key,
            embedded_path=paths.encode(self.embedded_path),
            version=self.version,
            progress=self.progress,
            threads=self.threads,
        )
        return os.fstat(descriptor).st_size


def unseal_file(
    source: Path,
    destination: Path,
    *,
    key: SecretBytes,
    embedded_path: str | None,
    allow_trailing: bool = False,
    overwrite: bool = False,
    mode: int = PRIVATE,
    follow_links: bool = True,
    progress: Progress | None = None,
    threads: int | None = None,
) -> UnsealedFile:
    """Unseal the file ``source`` to ``destination``, which appears only if every node was verified.

    Args:
        source: A sealed file, format 1.0 or 2.0.
        destination: The path of the plaintext file.
        key: The wrap key, 16 bytes.
        embedded_path: The path that the file must be bound to. `None` accepts any path; check it in the result.
        allow_trailing: Whether data after the last node is accepted.
        overwrite: Whether an existing ``destination`` may be replaced.
        mode: The permission bits of ``destination``.
        follow_links: Whether ``source`` itself may be a symbolic link.
        progress: Called in this thread during the work.
        threads: The number of threads. `None` selects the number that is useful for the file size.

    Raises:
        InputError: `sealed-file.key-length` if the key does not have 16 bytes.
        InputFileMissingError: The source does not exist.
        InputFileKindError: The source is not a regular file.
        InputFileUnreadableError: The source cannot be read.
        VerificationError: `sealed-file.bad-magic` if the source is not an encrypted file.
        VerificationError: `sealed-file.unknown-version` if the format version is not supported.
        VerificationError: `sealed-file.wrong-key` if the key is wrong or node 0 was changed.
        PathMismatchError: The file was sealed with another path.
        VerificationError: `sealed-file.truncated` if the file is too short.
        VerificationError: `sealed-file.trailing-data` if the file is too long and ``allow_trailing`` is `False`.
        TamperedNodeError: A node does not match its MAC.
        OutputExistsError: ``destination`` already exists.
        UnavailableError: `file.unwritable` if its folder does not exist or is not writable.
        UnavailableError: `file.disk-full` if the disk is full.
    """
    with open_regular(source, follow_links=follow_links) as descriptor:
        reader = SealedReader(
            descriptor, name=str(source), key=key, expected_path=embedded_path, allow_trailing=allow_trailing
        )
        with replacing(destination, mode=mode, overwrite=overwrite) as output:
            reader.write_to(output.fileno(), progress=progress, threads=threads)
        return UnsealedFile(embedded_path=reader.embedded_path, size=reader.size)


def unseal_bytes(
    source: Path,
    *,
    key: SecretBytes,
    embedded_path: str | None,
    allow_trailing: bool = False,
    follow_links: bool = True,
) -> SecretBytes:
    """Return the content of the sealed file ``source``. Arguments and errors are the same as in `unseal_file`.

    The whole content is held in memory. Use this only for small files, such as a configuration with a private key.
    """
    with open_regular(source, follow_links=follow_links) as descriptor:
        reader = SealedReader(
            descriptor, name=str(source), key=key, expected_path=embedded_path, allow_trailing=allow_trailing
        )
        content = bytearray()
        try:
            for piece in reader.chunks():
                content += piece
            return SecretBytes(content)
        finally:
            content[:] = bytes(len(content))


def inspect_file(path: Path) -> PublicHeader:
    """Return the public part of the sealed file ``path``, without a key and without verification.

    Raises:
        InputFileMissingError: The file does not exist.
        InputFileKindError: The path is not a regular file.
        InputFileUnreadableError: The file cannot be read.
        VerificationError: `sealed-file.bad-magic` if the file is not an encrypted file.
        VerificationError: `sealed-file.unknown-version` if the format version is not supported.
        VerificationError: `sealed-file.truncated` if the size is not a multiple of 4096.
    """
    with open_regular(path) as descriptor:
        header = read_header(descriptor, name=str(path))
        size = os.fstat(descriptor).st_size
    nodes, rest = divmod(size, NODE_SIZE)
    if rest:
        raise SealingCode.SEALED_FILE_TRUNCATED.error(
            f"{path} is truncated: expected a multiple of {NODE_SIZE} bytes, got {size}.",
            hint="Copy the file again from where it was sealed.",
        )
    return PublicHeader(
        version=header.version,
        minor_version=header.minor_version,
        feature_flags=header.feature_flags,
        sealed_size=size,
        nodes=nodes,
    )


def verify_file(
    path: Path,
    *,
    key: SecretBytes,
    embedded_path: str | None = None,
    complete: bool = True,
    progress: Progress | None = None,
) -> SealedContent:
    """Verify the sealed file ``path`` with the key and return its authenticated properties. Nothing is written.

    Args:
        path: A sealed file. Data after the last node is reported, not rejected.
        key: The wrap key, 16 bytes.
        embedded_path: The path that the file must be bound to. `None` accepts any path.
        complete: Whether to verify every node. Otherwise only node 0 and the file length are verified.
        progress: Called during the work.

    Raises:
        SealserveError: The errors of `unseal_file` about its source.
    """
    with open_regular(path) as descriptor:
        reader = SealedReader(descriptor, name=str(path), key=key, expected_path=embedded_path, allow_trailing=True)
        if complete:
            for piece in reader.chunks():
                if progress is not None:
                    progress(len(piece))
        return SealedContent(
            embedded_path=reader.embedded_path,
            size=reader.size,
            data_nodes=protected_file.data_nodes(reader.size),
            mht_nodes=protected_file.mht_nodes(reader.size),
            trailing=os.fstat(descriptor).st_size - protected_file.sealed_size(reader.size),
            complete=complete,
        )
