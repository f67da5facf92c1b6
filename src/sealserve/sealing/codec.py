"""Seal and unseal single files and byte strings as Gramine encrypted files.

Outputs appear whole, by a rename, or not at all. Memory does not depend on the size of a file. Large files are worked
on by all processors, where the native cipher is there (`node_cipher`).
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
"""Called with the number of plaintext bytes done since the last call. What it raises cancels the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedFile:
    """What was sealed, and what came of it: sizes in bytes."""

    plain_size: int
    sealed_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestedFile(SealedFile):
    """The same with digests, SHA-256 in hexadecimal."""

    plain_sha256: str
    sealed_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsealedFile:
    """What a sealed file held: the path that it was bound to, authenticated, and its size in bytes."""

    embedded_path: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicHeader:
    """What everybody can read in a sealed file. None of it is authenticated.

    Attributes:
        version: The format.
        minor_version: Usually 0.
        feature_flags: Format 2.0 only; bit 0: Gramine was interrupted while it wrote.
        sealed_size: Size of the sealed file in bytes.
        nodes: How many nodes of 4096 bytes that is.
    """

    version: FormatVersion
    minor_version: int
    feature_flags: int
    sealed_size: int
    nodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedContent:
    """What the key shows of a sealed file. All of it is authenticated.

    Attributes:
        embedded_path: The path that it is bound to.
        size: Size of the content in bytes.
        data_nodes: How many data nodes that takes, beside the first 3072 bytes.
        mht_nodes: How many MHT nodes hold their keys and MACs.
        trailing: How many bytes there are behind the last node. They mean nothing.
        complete: Whether every node was verified, and not node 0 alone.
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
        destination: Where the sealed file appears.
        key: The wrap key, 16 bytes.
        embedded_path: The path that it is bound to.
        version: The format; every Gramine reads 1.0.
        overwrite: Whether an existing ``destination`` may be replaced.
        follow_links: Whether ``source`` itself may be a symbolic link.
        progress: Called as it goes, in this thread.
        threads: How many work at a time, or None for as many as help.

    Raises:
        InputError: `sealed-file.key-length`: The key does not have 16 bytes.
        InputError: `sealed-file.unusable-path`: The path cannot be embedded.
        InputFileMissingError: No such source.
        InputFileKindError: The source is no regular file.
        InputFileUnreadableError: The source cannot be read.
        InputError: `sealed-file.source-changed`: The source changed meanwhile.
        OutputExistsError: ``destination`` exists.
        UnavailableError: `file.unwritable`: Its folder is missing, or does not admit it.
        UnavailableError: `file.disk-full`: No room for it.
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
    """Seal ``source`` and tell the digests of both files; arguments and errors as in `seal_file`.

    Hashing takes longer than sealing: both files are hashed at the same time, when the second one is whole.
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
    """Seal ``plaintext`` to ``destination``; arguments and errors as in `seal_file`."""
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
    """How contents are sealed; called with a content and an empty file, it returns the file's size."""

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
        destination: Where the plaintext appears.
        key: The wrap key, 16 bytes.
        embedded_path: The path that it must be bound to, or None to accept any: look at the result then.
        allow_trailing: Whether there may be something behind the last node.
        overwrite: Whether an existing ``destination`` may be replaced.
        mode: Permission bits of ``destination``.
        follow_links: Whether ``source`` itself may be a symbolic link.
        progress: Called as it goes, in this thread.
        threads: How many work at a time, or None for as many as help.

    Raises:
        InputError: `sealed-file.key-length`: The key does not have 16 bytes.
        InputFileMissingError: No such source.
        InputFileKindError: The source is no regular file.
        InputFileUnreadableError: The source cannot be read.
        VerificationError: `sealed-file.bad-magic`: No encrypted file.
        VerificationError: `sealed-file.unknown-version`: A format that is not known.
        VerificationError: `sealed-file.wrong-key`: Another key, or a changed node 0.
        PathMismatchError: Sealed with another path.
        VerificationError: `sealed-file.truncated`: Too short.
        VerificationError: `sealed-file.trailing-data`: Too long, and not allowed.
        TamperedNodeError: A node does not match its MAC.
        OutputExistsError: ``destination`` exists.
        UnavailableError: `file.unwritable`: Its folder is missing, or does not admit it.
        UnavailableError: `file.disk-full`: No room for it.
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
    """Return the content of the sealed file ``source``; arguments and errors as in `unseal_file`.

    It is all in memory: this is for small files, such as a configuration with a private key.
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
    """Return what is public in the sealed file ``path``. No key is needed, and nothing is verified.

    Raises:
        InputFileMissingError: No such file.
        InputFileKindError: No regular file.
        InputFileUnreadableError: It cannot be read.
        VerificationError: `sealed-file.bad-magic`: No encrypted file.
        VerificationError: `sealed-file.unknown-version`: A format that is not known.
        VerificationError: `sealed-file.truncated`: Its size is no multiple of 4096.
    """
    with open_regular(path) as descriptor:
        header = read_header(descriptor, name=str(path))
        size = os.fstat(descriptor).st_size
    nodes, rest = divmod(size, NODE_SIZE)
    if rest:
        raise SealingCode.SEALED_FILE_TRUNCATED.error(
            f"{path} has {size} bytes, which is no multiple of {NODE_SIZE}: it was cut off."
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
    """Return what the key shows of the sealed file ``path``, and write nothing.

    Args:
        path: A sealed file; trailing bytes are told, not refused.
        key: The wrap key, 16 bytes.
        embedded_path: The path that it must be bound to, or None to accept any.
        complete: Whether to verify every node; otherwise node 0 and the file's length.
        progress: Called as it goes.

    Raises:
        SealserveError: What `unseal_file` raises about its source.
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
