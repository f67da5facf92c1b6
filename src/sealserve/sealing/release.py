"""Releases: sealed servables, configuration and TLS material under one key, with a signed public index."""

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError

from sealserve.atomic_file import write_file
from sealserve.canonical_document import ListedFile
from sealserve.regular_file import InputFileMissingError, InputFileSizeError, read_regular
from sealserve.sealing import codec
from sealserve.sealing.codec import DigestedFile, Progress
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.embedded_path import is_safe_relative
from sealserve.sealing.file_tree import regular_files
from sealserve.sealing.format_version import FormatVersion
from sealserve.sealing.ordered_work import in_order
from sealserve.sealing.release_files import check_files
from sealserve.sealing.release_index import (
    ENCLAVE_FOLDER,
    FILE_LIST,
    INDEX_FILE,
    MODELS_FOLDER,
    SIGNATURE_FILE,
    IndexedFile,
    IndexedServable,
    ReleaseIndex,
    folder_name,
    format_time,
    parse_index,
)
from sealserve.sealing.signed_index import RELEASE_DOMAIN, SIGNATURE_SIZE, VerifiedIndex, sign_index, verify_index
from sealserve.sealing.tree import file_list
from sealserve.secret import SecretBytes
from sealserve.terms import LARGEST_VERSION
from sealserve.whole_folder import staging

MAX_INDEX_SIZE: Final = 64 * 2**20  # about 400,000 files
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class _StoppedError(Exception):
    """Another file could not be sealed, or nobody waits any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Servable:
    """One version of a model: a SavedModel folder that is served as ``name``."""

    name: str
    version: int
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseContents:
    """What goes into a release.

    Attributes:
        name: Of the release.
        servables: The models, each a whole folder, sealed as ``models/NAME/VERSION/...``.
        files: Other files by their path in the release, such as ``tls/ssl.cfg``.
        simulated: Whether the release is for the simulated platform only.
        created: The time that the index tells, with a time zone.
    """

    name: str
    servables: Sequence[Servable]
    files: Mapping[str, bytes | SecretBytes] = field(default_factory=dict, repr=False)
    simulated: bool
    created: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release that was built: its id, its folder and its index."""

    id: str
    folder: Path
    index: ReleaseIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedRelease:
    """A release whose signature and files were verified: its id, its folder and its index."""

    id: str
    folder: Path
    index: ReleaseIndex


def build_release(
    contents: ReleaseContents,
    parent: Path,
    *,
    key: SecretBytes,
    key_id: str,
    signer: Ed25519PrivateKey,
    file_format: FormatVersion = FormatVersion.V1_0,
    progress: Progress | None = None,
) -> Release:
    """Seal ``contents`` into a new folder ``NAME-ID`` in ``parent``. It appears whole or not at all.

    Args:
        contents: What goes in.
        parent: The folder of releases. It must exist.
        key: The release's own fresh key, 16 bytes.
        key_id: The key's public name, 32 hexadecimal digits.
        signer: The owner's key.
        file_format: Of the sealed files.
        progress: Called with plaintext bytes as they are sealed.

    Raises:
        InputError: `release.invalid-contents`: The contents do not fit together.
        SealserveError: What `codec.seal_digested` and `file_tree.regular_files` raise.
        UnavailableError: `file.unwritable`: There is no ``parent``, or it does not admit it.
        UnavailableError: `file.disk-full`: No room.
    """
    sources = dict(_sources(contents))
    for path in sources:
        if above := next((str(folder) for folder in PurePosixPath(path).parents if str(folder) in sources), None):
            raise SealingCode.RELEASE_INVALID_CONTENTS.error(
                f"{above!r} cannot be both a file and the folder of {path!r}."
            )
    with staging(parent, contents.name) as stage:
        seal = partial(_seal, folder=stage.folder, key=key, file_format=file_format)
        sealed = _seal_all(sources, seal, progress)
        plain = (ListedFile(path=path, size=f.plain_size, sha256=f.plain_sha256) for path, f in sealed.items())
        sealed[FILE_LIST] = seal(file_list(plain), FILE_LIST, progress=None)
        index = _index(contents, sealed, key_id, file_format)
        content = index.to_bytes()
        release_id = hashlib.sha256(content).hexdigest()
        write_file(stage.folder / SIGNATURE_FILE, sign_index(RELEASE_DOMAIN, content, signer))
        write_file(stage.folder / INDEX_FILE, content)
        folder = parent / folder_name(contents.name, release_id)
        stage.publish(folder)
    return Release(id=release_id, folder=folder, index=index)


def verify_release(folder: Path, owner_key: Ed25519PublicKey) -> VerifiedRelease:
    """Verify the release in ``folder``. No secret is needed.

    1. index and signature are there;
    2. the owner's key signed the index's exact bytes as a release's index;
    3. the index has our schema, in canonical form;
    4. each file of the index is there, regular, with its size and SHA-256;
    5. nothing else is there, apart from ``enclave/``, which has an index of its own.

    Args:
        folder: The release.
        owner_key: The key that must have signed it.

    Raises:
        VerificationError: `release.incomplete`: Index or signature are missing.
        VerificationError: `index.bad-signature`: Another key signed it, or it was changed.
        VerificationError: `release.invalid-index`: No index that sealserve writes.
        ReleaseFileChangedError: A file differs; the message names each.
        ReleaseFileMissingError: A file is missing; the message names each.
        ReleaseFileExtraError: Something is there that is not in the index; the message names each.
    """
    verified = read_verified_index(folder, owner_key)  # (1), (2)
    index = parse_index(verified.content, name=str(folder / INDEX_FILE))  # (3)
    check_files(folder, index)  # (4), (5)
    return VerifiedRelease(id=verified.sha256, folder=folder, index=index)


def read_verified_index(folder: Path, owner_key: Ed25519PublicKey) -> VerifiedIndex:
    """Return the index of the release in ``folder``, its signature verified; its files are not looked at.

    Raises:
        VerificationError: `release.incomplete`: Index or signature are missing, or far too long.
        VerificationError: `index.bad-signature`: Another key signed it, or it was changed.
    """
    content = _read(folder / INDEX_FILE, MAX_INDEX_SIZE)
    signature = _read(folder / SIGNATURE_FILE, 2 * SIGNATURE_SIZE)
    return verify_index(RELEASE_DOMAIN, content, signature, owner_key, name=str(folder / INDEX_FILE))


def _sources(contents: ReleaseContents) -> Iterator[tuple[str, Path | bytes | SecretBytes]]:
    for name in (contents.name, *(servable.name for servable in contents.servables)):
        if not _NAME.fullmatch(name):
            raise SealingCode.RELEASE_INVALID_CONTENTS.error(
                f"{name!r} cannot be the name of a release or servable.",
                hint="Use up to 63 letters, digits, dots, dashes and underscores, with a letter or digit at both ends.",
            )
    if not contents.servables:
        raise SealingCode.RELEASE_INVALID_CONTENTS.error(f"The release {contents.name!r} has no servable.")
    seen = set()
    for servable in contents.servables:
        identity = (servable.name, servable.version)
        if identity in seen:
            raise SealingCode.RELEASE_INVALID_CONTENTS.error(
                f"Version {servable.version} of servable {servable.name!r} occurs twice."
            )
        if not 0 <= servable.version <= LARGEST_VERSION:
            raise SealingCode.RELEASE_INVALID_CONTENTS.error(
                f"Servable {servable.name!r} has the version {servable.version}: expected 0 to {LARGEST_VERSION}."
            )
        seen.add(identity)
        for path in regular_files(servable.folder):
            yield f"{MODELS_FOLDER}/{servable.name}/{servable.version}/{path}", servable.folder / path
    for path, content in contents.files.items():
        reserved = {INDEX_FILE, SIGNATURE_FILE, FILE_LIST, ENCLAVE_FOLDER, MODELS_FOLDER}
        if not is_safe_relative(path) or path.split("/")[0] in reserved:
            raise SealingCode.RELEASE_INVALID_CONTENTS.error(
                f"{path!r} is no place for a file of a release.",
                hint="Give a relative path, such as tls/ssl.cfg; models/, enclave/ and the indexes have their own.",
            )
        yield path, content


def _seal_all(
    sources: Mapping[str, Path | bytes | SecretBytes], seal: Callable[..., DigestedFile], progress: Progress | None
) -> dict[str, DigestedFile]:
    """Seal each source to its path, several at a time; when one fails, or the caller is stopped, the others stop."""
    stop = threading.Event()
    telling = threading.Lock()

    def tell(done: int) -> None:
        if stop.is_set():
            raise _StoppedError
        if progress is not None:
            with telling:
                progress(done)

    threads = len(os.sched_getaffinity(0))
    with in_order(lambda path: seal(sources[path], path, progress=tell), sorted(sources), threads=threads) as results:
        try:
            return dict(results)
        finally:
            stop.set()


def _seal(
    source: Path | bytes | SecretBytes,
    path: str,
    *,
    folder: Path,
    key: SecretBytes,
    file_format: FormatVersion,
    progress: Progress | None,
) -> DigestedFile:
    output = folder / path
    output.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, Path):
        return codec.seal_digested(
            source,
            output,
            key=key,
            embedded_path=path,
            version=file_format,
            follow_links=False,
            progress=progress,
        )
    return codec.seal_bytes(source, output, key=key, embedded_path=path, version=file_format, progress=progress)


def _index(
    contents: ReleaseContents, sealed: Mapping[str, DigestedFile], key_id: str, file_format: FormatVersion
) -> ReleaseIndex:
    versions: dict[str, list[int]] = {}
    for servable in contents.servables:
        versions.setdefault(servable.name, []).append(servable.version)
    try:
        return ReleaseIndex(
            name=contents.name,
            created=format_time(contents.created),
            simulated=contents.simulated,
            file_format="1.0" if file_format is FormatVersion.V1_0 else "2.0",
            key_id=key_id,
            servables=tuple(
                IndexedServable(name=name, versions=tuple(sorted(versions[name]))) for name in sorted(versions)
            ),
            files=tuple(
                IndexedFile(path=path, size=file.sealed_size, sha256=file.sealed_sha256)
                for path, file in sorted(sealed.items())
            ),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "its files"
        raise SealingCode.RELEASE_INVALID_CONTENTS.error(
            f"The release {contents.name!r} cannot be built: {where}: {first['msg']}."
        ) from error


def _read(path: Path, limit: int) -> bytes:
    try:
        return read_regular(path, limit=limit, follow_links=False)
    except InputFileMissingError as error:
        raise SealingCode.RELEASE_INCOMPLETE.error(
            f"{path.parent} is no release: it has no {path.name}.",
            hint="A release that was interrupted while it was built or copied has none either: copy it again.",
        ) from error
    except InputFileSizeError as error:
        raise SealingCode.RELEASE_INCOMPLETE.error(
            f"{path} has over {limit} bytes: it is none that sealserve writes."
        ) from error
