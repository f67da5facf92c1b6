"""The index of a release's enclaves, ``enclave/index.json``. It is public and signed by the owner.

The release's id is measured, so measurements exist only after the release. Therefore enclaves have a separate index,
which names the release. The index is for people and for the broker's owner. An enclave's loader trusts only measured
files.
"""

import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, StringConstraints

from sealserve.atomic_file import write_file
from sealserve.canonical_document import CanonicalDocument, DocumentPart, ListedFile, Sha256
from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.environment import BROKER_CA_FILE
from sealserve.enclave.findings import Danger
from sealserve.enclave.measurement import MAX_MANIFEST_SIZE, SignedEnclave, load_enclave, manifest_path, sigstruct_path
from sealserve.errors import ErrorCode, VerificationError
from sealserve.names import Name
from sealserve.regular_file import InputFileError, read_regular
from sealserve.sealing.listed_folder import compare
from sealserve.sealing.release import MAX_INDEX_SIZE
from sealserve.sealing.release_index import ENCLAVE_FOLDER
from sealserve.sealing.release_index import INDEX_FILE as RELEASE_INDEX_FILE
from sealserve.sealing.signed_index import ENCLAVE_DOMAIN, sign_index, verify_index
from sealserve.sgx.report import Attributes, MrEnclave, MrSigner
from sealserve.sgx.sigstruct import Sigstruct
from sealserve.terms import PlatformKind

INDEX_FILE: Final = "index.json"
INDEX_SIGNATURE_FILE: Final = "index.json.sig"
_MAX_SIZE: Final = 2**20


class EnclaveIndexMissingError(VerificationError):
    """The release does not have a signed index of its enclaves."""

    code = "enclave-index.missing"


class IndexedEnclave(DocumentPart):
    """An enclave in the index: its name, and its MRENCLAVE in hexadecimal."""

    name: Name
    mr_enclave: Sha256


class IndexedFile(ListedFile):
    """A file in ``enclave/``: name, size in bytes, SHA-256 in hexadecimal."""

    path: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][A-Za-z0-9._-]*$")]


class EnclaveIndex(CanonicalDocument):
    """The content of ``enclave/index.json``, with enclaves and files in ascending order."""

    what: ClassVar[str] = "index of enclaves"
    refusal: ClassVar[ErrorCode] = EnclaveCode.ENCLAVE_INDEX_INVALID

    version: Literal[1] = 1
    release_id: Sha256
    enclaves: Annotated[tuple[IndexedEnclave, ...], Field(min_length=1)]
    files: tuple[IndexedFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEnclave:
    """A built enclave: the paths of its files, and its reference values for the broker.

    Args:
        name: The enclave's name.
        release_id: The id of the release that it opens.
        manifest: The path of its ``.manifest.sgx``.
        sigstruct: The path of its ``.sig``.
        verified_sigstruct: The SIGSTRUCT as it was read and verified. The file may have changed since then.
        mr_enclave: Its measurement.
        mr_signer: The identity of its signer.
        isv_prod_id: Its product id.
        isv_svn: Its security version.
        attributes: The values of ATTRIBUTES that its SIGSTRUCT requires, where `attribute_mask` has ones.
        attribute_mask: The bits of ATTRIBUTES that the SIGSTRUCT fixes.
        simulated: Whether the enclave is for the simulated platform.
    """

    name: str
    release_id: str
    manifest: Path
    sigstruct: Path
    verified_sigstruct: Sigstruct = field(repr=False)
    mr_enclave: MrEnclave
    mr_signer: MrSigner
    isv_prod_id: int
    isv_svn: int
    attributes: Attributes
    attribute_mask: Attributes
    simulated: bool


def release_id_of(release: Path) -> str:
    """Return the id of the release in a folder: the SHA-256 of its index. The release is not verified.

    Raises:
        VerificationError: `enclave-index.release`: The folder does not have an index, or it cannot be read.
    """
    try:
        return hashlib.sha256(read_regular(release / RELEASE_INDEX_FILE, limit=MAX_INDEX_SIZE)).hexdigest()
    except InputFileError as error:
        raise EnclaveCode.ENCLAVE_INDEX_RELEASE.error(
            f"{release} is not a release: {RELEASE_INDEX_FILE} cannot be read: {error.reason}.",
            hint="Give the folder of a release, as `sealserve release build` prints it.",
        ) from error


def describe(release: Path, enclave: SignedEnclave) -> BuiltEnclave:
    """Return the paths and reference values of an enclave that was loaded from a release."""
    sigstruct = enclave.sigstruct
    return BuiltEnclave(
        name=enclave.name,
        release_id=enclave.manifest.loader.env["SEALSERVE_RELEASE_ID"],
        manifest=manifest_path(release, enclave.name),
        sigstruct=sigstruct_path(release, enclave.name),
        verified_sigstruct=sigstruct,
        mr_enclave=sigstruct.mr_enclave,
        mr_signer=sigstruct.mr_signer,
        isv_prod_id=sigstruct.isv_prod_id,
        isv_svn=sigstruct.isv_svn,
        attributes=sigstruct.attributes,
        attribute_mask=sigstruct.attribute_mask,
        simulated=enclave.manifest.loader.env["SEALSERVE_PLATFORM"] == PlatformKind.SIMULATED,
    )


def read_index(release: Path, owner_key: Ed25519PublicKey) -> EnclaveIndex:
    """Read the index of a release's enclaves and verify its signature. The listed files are not checked.

    Raises:
        EnclaveIndexMissingError: The index or its signature is missing.
        VerificationError: `index.bad-signature`: A different key signed the index, or the index was changed.
        VerificationError: `enclave-index.invalid`: The index does not have the format that sealserve writes.
    """
    path = release / ENCLAVE_FOLDER / INDEX_FILE
    try:
        content = read_regular(path, limit=_MAX_SIZE, follow_links=False)
        signed = read_regular(path.with_name(INDEX_SIGNATURE_FILE), limit=_MAX_SIZE, follow_links=False)
    except InputFileError as error:
        raise EnclaveIndexMissingError(
            f"{release} does not have a signed index of enclaves. {error.message}",
            hint="Build its enclaves with `sealserve enclave build`.",
        ) from error
    verified = verify_index(ENCLAVE_DOMAIN, content, signed, owner_key, name=str(path))
    return EnclaveIndex.parse(verified.content, name=str(path))


def write_index(release: Path, enclaves: dict[str, MrEnclave], public_files: set[str], key: Ed25519PrivateKey) -> None:
    """Write and sign an index of the given enclaves, and of the current content of the given files."""
    folder = release / ENCLAVE_FOLDER
    names = public_files.union(*({manifest_path(release, n).name, sigstruct_path(release, n).name} for n in enclaves))
    index = EnclaveIndex(
        release_id=release_id_of(release),
        enclaves=tuple(IndexedEnclave(name=name, mr_enclave=enclaves[name].hex()) for name in sorted(enclaves)),
        files=tuple(_describe_file(folder / name) for name in sorted(names)),
    )
    content = index.to_bytes()
    write_file(folder / INDEX_SIGNATURE_FILE, sign_index(ENCLAVE_DOMAIN, content, key))
    write_file(folder / INDEX_FILE, content)


def verify_enclave_index(
    release: Path, owner_key: Ed25519PublicKey, *, dangerous: Collection[Danger] = ()
) -> tuple[BuiltEnclave, ...]:
    """Verify the enclaves of a release. No secret is needed. Insecure settings are rejected unless ``dangerous``.

    Steps:

    1. The owner signed the index, as an index of enclaves.
    2. The index names this release.
    3. Each listed file exists and is unchanged, and the folder contains no other file.
    4. Each enclave has a valid SIGSTRUCT for its manifest, the measurement in the index, and this release's id in its
       measured environment. The bytes that this step reads are compared with the index again.

    Raises:
        EnclaveIndexMissingError: (1) The index or its signature is missing.
        VerificationError: `index.bad-signature`: (1) A different key signed the index, or the index was changed.
        VerificationError: `enclave-index.invalid`: (1) The index does not have the format that sealserve writes.
        VerificationError: `enclave-index.release`: (2) (4) The enclaves belong to a different release.
        VerificationError: `enclave-index.files`: (3) (4) A file is missing, changed or not listed, or a measurement
            differs.
        SealserveError: (4) What `load_enclave` raises.
    """
    index = read_index(release, owner_key)  # (1)
    release_id = release_id_of(release)
    _check_release(release, release_id, index)  # (2)
    _check_files(release, index)  # (3)
    digests = {file.path: file.sha256 for file in index.files}
    built = []
    for entry in index.enclaves:  # (4)
        loaded = load_enclave(release, entry.name, dangerous=dangerous)
        _check_read(release, loaded, digests)
        enclave = describe(release, loaded)
        if enclave.mr_enclave.hex() != entry.mr_enclave:
            raise EnclaveCode.ENCLAVE_INDEX_FILES.error(
                f"The measurement of the enclave {entry.name!r} does not match the signed index: expected MRENCLAVE "
                f"{entry.mr_enclave}, got {enclave.mr_enclave.hex()}.",
                hint="Copy the bundle again from the machine that built it.",
            )
        if enclave.release_id != release_id:
            raise EnclaveCode.ENCLAVE_INDEX_RELEASE.error(
                f"The enclave {entry.name!r} opens a different release: expected {release_id}, got "
                f"{enclave.release_id}.",
                hint="Build the enclaves for this release.",
            )
        built.append(enclave)
    return tuple(built)


def other_enclaves(release: Path, name: str, owner_key: Ed25519PublicKey) -> dict[str, MrEnclave]:
    """Return the measurements of a release's enclaves except ``name``, whose files may be in any state.

    Raises:
        SealserveError: The errors of steps (1) to (3) of `verify_enclave_index`. A missing index is not an error.
    """
    try:
        index = read_index(release, owner_key)
    except EnclaveIndexMissingError:
        return {}
    _check_release(release, release_id_of(release), index)
    _check_files(release, index, ignored={manifest_path(release, name).name, sigstruct_path(release, name).name})
    return {entry.name: MrEnclave(bytes.fromhex(entry.mr_enclave)) for entry in index.enclaves if entry.name != name}


def remove_enclave(release: Path, name: str, key: Ed25519PrivateKey) -> None:
    """Remove an enclave from a release, and sign the index of the remaining enclaves. Its files may be in any state.

    The files are removed first. If the removal is interrupted, the index lists missing files, and verification fails
    until the enclave is removed or built again.

    Args:
        release: The release's folder.
        name: The enclave's name.
        key: The owner's key for signing indexes.

    Raises:
        InputError: `enclave.missing`: The release does not contain the enclave.
        SealserveError: The errors of `other_enclaves` for the remaining enclaves.
    """
    files = manifest_path(release, name), sigstruct_path(release, name)
    others = other_enclaves(release, name, key.public_key())
    indexed = _indexed_names(release, key.public_key())
    if name not in indexed and not any(os.path.lexists(path) for path in files):
        raise EnclaveCode.MISSING.error(
            f"{release} does not contain the enclave {name!r}.",
            hint=f"Choose an enclave of this release: {', '.join(indexed)}." if indexed else None,
        )
    for path in files:
        path.unlink(missing_ok=True)
    if others:
        write_index(release, others, {BROKER_CA_FILE}, key)
        return
    for left in (INDEX_FILE, INDEX_SIGNATURE_FILE, BROKER_CA_FILE):  # an empty index is not valid
        (release / ENCLAVE_FOLDER / left).unlink(missing_ok=True)
    (release / ENCLAVE_FOLDER).rmdir()


def _indexed_names(release: Path, owner_key: Ed25519PublicKey) -> list[str]:
    try:
        return [entry.name for entry in read_index(release, owner_key).enclaves]
    except EnclaveIndexMissingError:
        return []


def _check_release(release: Path, release_id: str, index: EnclaveIndex) -> None:
    if index.release_id != release_id:
        raise EnclaveCode.ENCLAVE_INDEX_RELEASE.error(
            f"{release / ENCLAVE_FOLDER} holds enclaves for a different release: expected {release_id}, got "
            f"{index.release_id}.",
            hint="Build the enclaves for this release.",
        )


def _check_files(release: Path, index: EnclaveIndex, *, ignored: Collection[str] = ()) -> None:
    folder = release / ENCLAVE_FOLDER
    expected = [file for file in index.files if file.path not in ignored]
    found = compare(folder, expected, known=(*ignored, INDEX_FILE, INDEX_SIGNATURE_FILE))
    problems = {"changed": found.changed, "missing": found.missing, "not in the index": found.extra}
    shown = "; ".join(f"{kind}: {', '.join(paths)}" for kind, paths in problems.items() if paths)
    if shown:
        raise EnclaveCode.ENCLAVE_INDEX_FILES.error(
            f"The files of {folder} do not match its signed index: {shown}.",
            hint="Copy the bundle again from the machine that built it. On that machine, `sealserve enclave remove "
            "--name NAME` removes an enclave, and `sealserve enclave build --name NAME` builds it again.",
        )


def _check_read(release: Path, enclave: SignedEnclave, digests: dict[str, str]) -> None:
    """Compare the bytes that step (4) read with the index, because files may change after step (3)."""
    for path, content in (
        (manifest_path(release, enclave.name), enclave.manifest_bytes),
        (sigstruct_path(release, enclave.name), enclave.sigstruct_bytes),
    ):
        if digests.get(path.name) != hashlib.sha256(content).hexdigest():
            raise EnclaveCode.ENCLAVE_INDEX_FILES.error(
                f"{path} does not match its signed index: the index does not list it, or it was changed during the "
                "verification.",
                hint="Copy the bundle again from the machine that built it.",
            )


def _describe_file(path: Path) -> IndexedFile:
    content = read_regular(path, limit=MAX_MANIFEST_SIZE, follow_links=False)
    return IndexedFile(path=path.name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
