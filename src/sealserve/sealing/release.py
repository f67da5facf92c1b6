"""Releases: sealed models, configuration and TLS material with one key, and a signed public index."""

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
from sealserve.attestation.secret_provisioning import SecretForm
from sealserve.canonical_document import ListedFile
from sealserve.regular_file import InputFileMissingError, InputFileSizeError, read_regular
from sealserve.sealing import codec
from sealserve.sealing.codec import DigestedFile, Progress
from sealserve.sealing.codes import SealingCode
from sealserve.sealing.embedded_path import is_safe_relative
from sealserve.sealing.file_tree import regular_files
from sealserve.sealing.format_version import FormatVersion
from sealserve.sealing.model_signature import SignedModel, compare_signed
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
    IndexedSigner,
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
    """Sealing stops, because another file could not be sealed or the caller was interrupted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Servable:
    """One version of a model: a SavedModel folder that is served under ``name``.

    Attributes:
        name: The name.
        version: The version.
        folder: The SavedModel.
        signed: The files that a verified signature of the model covers, with the signer. None: it has no signature.
    """

    name: str
    version: int
    folder: Path
    signed: SignedModel | None = None

    @property
    def place(self) -> str:
        """The folder in the release."""
        return f"{MODELS_FOLDER}/{self.name}/{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseContents:
    """The content of a new release.

    Attributes:
        name: The name of the release.
        servables: The models. Each is a complete folder that is sealed as ``models/NAME/VERSION/...``.
        files: Other files by their path in the release, such as ``tls/ssl.cfg``.
        simulated: Whether the release is only for the simulated platform.
        created: The creation time for the index, with a time zone.
        secret_form: The form in which enclaves receive the key. None: it is chosen when the release is registered.
    """

    name: str
    servables: Sequence[Servable]
    files: Mapping[str, bytes | SecretBytes] = field(default_factory=dict, repr=False)
    simulated: bool
    created: datetime
    secret_form: SecretForm | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A newly built release: its id, its folder, its index, and the plaintext files that it contains in sealed form."""

    id: str
    folder: Path
    index: ReleaseIndex
    plain: tuple[ListedFile, ...] = field(default=(), repr=False)


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
    """Seal ``contents`` into a new folder ``NAME-ID`` in ``parent``. The folder appears only when it is complete.

    Args:
        contents: The content of the release.
        parent: The folder of releases. It must exist.
        key: A new key for this release only, 16 bytes.
        key_id: The public id of the key, 32 hexadecimal digits.
        signer: The owner's private key.
        file_format: The format of the sealed files.
        progress: Called with the number of plaintext bytes during sealing.

    Raises:
        InputError: `release.invalid-contents` if the contents are invalid or contradict each other.
        VerificationError: `model-signature.mismatch` if the sealed files of a signed model are not the signed files.
        SealserveError: The errors of `codec.seal_digested` and `file_tree.regular_files`.
        UnavailableError: `file.unwritable` if ``parent`` does not exist or is not writable.
        UnavailableError: `file.disk-full` if the disk is full.
    """
    sources = dict(_sources(contents))
    for path in sources:
        if above := next((str(folder) for folder in PurePosixPath(path).parents if str(folder) in sources), None):
            raise SealingCode.RELEASE_INVALID_CONTENTS.error(
                f"The release cannot be built: {above!r} is both a file and the parent folder of {path!r}.",
                hint="Rename one of the two files.",
            )
    with staging(parent, contents.name) as stage:
        seal = partial(_seal, folder=stage.folder, key=key, file_format=file_format)
        sealed = _seal_all(sources, seal, progress)
        plain = tuple(ListedFile(path=path, size=f.plain_size, sha256=f.plain_sha256) for path, f in sealed.items())
        sealed[FILE_LIST] = seal(file_list(plain), FILE_LIST, progress=None)
        index = _index(contents, sealed, key_id, file_format)
        _check_signed(contents, sealed)
        content = index.to_bytes()
        release_id = hashlib.sha256(content).hexdigest()
        write_file(stage.folder / SIGNATURE_FILE, sign_index(RELEASE_DOMAIN, content, signer))
        write_file(stage.folder / INDEX_FILE, content)
        folder = parent / folder_name(contents.name, release_id)
        stage.publish(folder)
    return Release(id=release_id, folder=folder, index=index, plain=plain)


def verify_release(folder: Path, owner_key: Ed25519PublicKey) -> VerifiedRelease:
    """Verify the release in ``folder``, without any secret.

    1. The index and the signature exist.
    2. The owner's key signed the exact bytes of the index as a release index.
    3. The index matches the schema and is in canonical form.
    4. Each file of the index exists, is a regular file, and has the indexed size and SHA-256.
    5. No other files exist, except below ``enclave/``, which has a separate index.

    Args:
        folder: The release.
        owner_key: The key that must have signed the index.

    Raises:
        VerificationError: `release.incomplete` if the index or the signature is missing.
        VerificationError: `index.bad-signature` if another key signed the index, or the index was changed.
        VerificationError: `release.invalid-index` if the index is not in the format that sealserve writes.
        ReleaseFileChangedError: Files differ from the index. The message lists them.
        ReleaseFileMissingError: Files are missing. The message lists them.
        ReleaseFileExtraError: The folder has entries that are not in the index. The message lists them.
    """
    verified = read_verified_index(folder, owner_key)  # (1), (2)
    index = parse_index(verified.content, name=str(folder / INDEX_FILE))  # (3)
    check_files(folder, index)  # (4), (5)
    return VerifiedRelease(id=verified.sha256, folder=folder, index=index)


def read_verified_index(folder: Path, owner_key: Ed25519PublicKey) -> VerifiedIndex:
    """Verify the signature of the index in ``folder`` and return the index. The other files are not checked.

    Raises:
        VerificationError: `release.incomplete` if the index or the signature is missing or far too long.
        VerificationError: `index.bad-signature` if another key signed the index, or the index was changed.
    """
    content = _read(folder / INDEX_FILE, MAX_INDEX_SIZE)
    signature = _read(folder / SIGNATURE_FILE, 2 * SIGNATURE_SIZE)
    return verify_index(RELEASE_DOMAIN, content, signature, owner_key, name=str(folder / INDEX_FILE))


def _sources(contents: ReleaseContents) -> Iterator[tuple[str, Path | bytes | SecretBytes]]:
    for name in (contents.name, *(servable.name for servable in contents.servables)):
        if not _NAME.fullmatch(name):
            raise SealingCode.RELEASE_INVALID_CONTENTS.error(
                f"The name of a release or servable is invalid: {name!r}.",
                hint="Use up to 63 letters, digits, dots, dashes and underscores, with a letter or digit at both ends.",
            )
    if not contents.servables:
        raise SealingCode.RELEASE_INVALID_CONTENTS.error(
            f"The release {contents.name!r} cannot be built: it contains no servables.", hint="Add at least one model."
        )
    seen = set()
    for servable in contents.servables:
        identity = (servable.name, servable.version)
        if identity in seen:
            raise SealingCode.RELEASE_INVALID_CONTENTS.error(
                f"The release cannot be built: servable {servable.name!r} has version {servable.version} twice.",
                hint="Remove one of the two, or change its version number.",
            )
        if not 0 <= servable.version <= LARGEST_VERSION:
            raise SealingCode.RELEASE_INVALID_CONTENTS.error(
                f"The version of the servable {servable.name!r} is invalid: expected 0 to {LARGEST_VERSION}, "
                f"got {servable.version}."
            )
        seen.add(identity)
        for path in regular_files(servable.folder):
            yield f"{servable.place}/{path}", servable.folder / path
    for path, content in contents.files.items():
        reserved = {INDEX_FILE, SIGNATURE_FILE, FILE_LIST, ENCLAVE_FOLDER, MODELS_FOLDER}
        if not is_safe_relative(path) or path.split("/")[0] in reserved:
            raise SealingCode.RELEASE_INVALID_CONTENTS.error(
                f"The path of a file in the release is invalid or reserved: {path!r}.",
                hint="Use a relative path such as tls/ssl.cfg, not models/, enclave/ or the name of an index.",
            )
        yield path, content


def _seal_all(
    sources: Mapping[str, Path | bytes | SecretBytes], seal: Callable[..., DigestedFile], progress: Progress | None
) -> dict[str, DigestedFile]:
    """Seal each source to its path, several in parallel. If one fails or the caller is interrupted, the others stop."""
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


def _check_signed(contents: ReleaseContents, sealed: Mapping[str, DigestedFile]) -> None:
    """Compare the content that was sealed with the signatures of the models.

    Each digest is the digest of the bytes that were encrypted. A file that was replaced after the verification of the
    signature therefore differs.
    """
    for servable in contents.servables:
        if servable.signed is not None:
            inside = f"{servable.place}/"
            files = {path.removeprefix(inside): f.plain_sha256 for path, f in sealed.items() if path.startswith(inside)}
            compare_signed(files, servable.signed.files, name=f"{servable.name}, version {servable.version},")


def _index(
    contents: ReleaseContents, sealed: Mapping[str, DigestedFile], key_id: str, file_format: FormatVersion
) -> ReleaseIndex:
    versions: dict[str, list[int]] = {}
    signers: dict[str, list[IndexedSigner]] = {}
    for servable in sorted(contents.servables, key=lambda item: item.version):
        versions.setdefault(servable.name, []).append(servable.version)
        if servable.signed is not None:
            found = IndexedSigner(version=servable.version, signer=servable.signed.signer)
            signers.setdefault(servable.name, []).append(found)
    try:
        return ReleaseIndex(
            name=contents.name,
            created=format_time(contents.created),
            simulated=contents.simulated,
            file_format="1.0" if file_format is FormatVersion.V1_0 else "2.0",
            key_id=key_id,
            secret_form=contents.secret_form,
            servables=tuple(
                IndexedServable(name=name, versions=tuple(versions[name]), signers=tuple(signers.get(name, ())))
                for name in sorted(versions)
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
            f"{path.parent} is not a complete release: the file {path.name} is missing.",
            hint="Copy the release again. An interrupted build or copy leaves such a folder.",
        ) from error
    except InputFileSizeError as error:
        raise SealingCode.RELEASE_INCOMPLETE.error(
            f"{path} is not a file that sealserve wrote: expected at most {limit} bytes.",
            hint="Copy the release again.",
        ) from error
