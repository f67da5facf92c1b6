"""An enclave on disk: its manifest and its SIGSTRUCT, and the measurement that joins them."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.findings import Danger
from sealserve.enclave.manifest import EnclaveManifest
from sealserve.enclave.manifest_reader import parse_manifest
from sealserve.enclave.server_command import CHANNEL_FLAG, CONNECTION_AGE, PORT_FLAG, REST_PORT_FLAG
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.sealing.release_index import ENCLAVE_FOLDER
from sealserve.sgx.report import MrEnclave
from sealserve.sgx.sigstruct import Sigstruct
from sealserve.terms import PlatformKind

MANIFEST_SUFFIX: Final = ".manifest.sgx"
SIGSTRUCT_SUFFIX: Final = ".sig"
MAX_MANIFEST_SIZE: Final = 16 * 2**20  # some ten thousand trusted files
_DOMAIN: Final = b"sealserve simulated enclave v1\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedEnclave:
    """A manifest and the SIGSTRUCT that vouches for it.

    Args:
        name: The enclave's name.
        manifest: As parsed.
        sigstruct: As parsed; its signature was verified, and its MRENCLAVE is the manifest's measurement.
        manifest_bytes: The manifest's exact bytes.
        sigstruct_bytes: The SIGSTRUCT's exact bytes.
    """

    name: str
    manifest: EnclaveManifest
    sigstruct: Sigstruct
    manifest_bytes: bytes = field(repr=False)
    sigstruct_bytes: bytes = field(repr=False)


def measure_simulated(manifest: bytes, *, dangerous: Collection[Danger] = ()) -> MrEnclave:
    """Return the measurement of a simulated enclave.

    It is SHA-256 of: ``sealserve simulated enclave v1`` and a NUL; the enclave's size in bytes (u64, little-endian);
    ``sgx.max_threads`` (u32, little-endian); SHA-256 of the manifest's bytes. Like Gramine's, it depends on size,
    threads and manifest; unlike Gramine's, it has no library OS in it.

    Args:
        manifest: The exact bytes of the ``.manifest.sgx``.
        dangerous: The classes of insecure settings that are allowed in it.

    Raises:
        SealserveError: What `parse_manifest` raises.
    """
    return _measure(parse_manifest(manifest, dangerous=dangerous), manifest)


def _measure(parsed: EnclaveManifest, manifest: bytes) -> MrEnclave:
    layout = parsed.enclave_size.to_bytes(8, "little") + parsed.sgx.max_threads.to_bytes(4, "little")
    return MrEnclave(hashlib.sha256(_DOMAIN + layout + hashlib.sha256(manifest).digest()).digest())


def manifest_path(release: Path, name: str) -> Path:
    """Return where the manifest of the enclave ``name`` is."""
    return release / ENCLAVE_FOLDER / f"{name}{MANIFEST_SUFFIX}"


def sigstruct_path(release: Path, name: str) -> Path:
    """Return where the SIGSTRUCT of the enclave ``name`` is."""
    return release / ENCLAVE_FOLDER / f"{name}{SIGSTRUCT_SUFFIX}"


def enclave_names(release: Path) -> list[str]:
    """Return the names of a release's enclaves, in order. Nothing is verified."""
    found = (release / ENCLAVE_FOLDER).glob(f"*{MANIFEST_SUFFIX}")
    return sorted(path.name.removesuffix(MANIFEST_SUFFIX) for path in found)


def port_of(manifest: EnclaveManifest) -> int:
    """Return the port that an enclave's server listens on, from its measured arguments; the last flag counts.

    Raises:
        InputError: `enclave.port`: There is none: the manifest is the owner's own.
    """
    given = [flag.removeprefix(PORT_FLAG) for flag in manifest.loader.argv if flag.startswith(PORT_FLAG)]
    if not given or not given[-1].isascii() or not given[-1].isdigit():
        raise EnclaveCode.PORT.error(
            f"The enclave's arguments have no {PORT_FLAG}NUMBER, so that nothing knows where it listens.",
            hint=f"Give {PORT_FLAG}NUMBER in loader.argv, as `sealserve enclave manifest` prints it.",
        )
    return int(given[-1])


def rest_port_of(manifest: EnclaveManifest) -> int | None:
    """Return the port of an enclave's REST API, from its measured arguments; None if it is off. The last flag counts.

    Raises:
        InputError: `enclave.port`: It is not a number: the manifest is the owner's own.
    """
    given = [flag.removeprefix(REST_PORT_FLAG) for flag in manifest.loader.argv if flag.startswith(REST_PORT_FLAG)]
    if not given:
        return None
    if not given[-1].isascii() or not given[-1].isdigit():
        raise EnclaveCode.PORT.error(
            f"The enclave's argument {REST_PORT_FLAG}{given[-1]} is not a port: expected a number.",
            hint=f"Give {REST_PORT_FLAG}NUMBER in loader.argv, as `sealserve enclave manifest` prints it.",
        )
    return int(given[-1]) or None


def connection_age_of(manifest: EnclaveManifest) -> int | None:
    """Return after how many seconds an enclave's server drains a connection, from its measured arguments.

    It is None if the arguments name no age, or one that is no number: then the manifest is the owner's own.
    """
    given = [flag.removeprefix(CHANNEL_FLAG) for flag in manifest.loader.argv if flag.startswith(CHANNEL_FLAG)]
    arguments = dict(part.partition("=")[::2] for part in given[-1].split(",")) if given else {}
    age = arguments.get(CONNECTION_AGE, "")
    return -(-int(age) // 1000) if age.isascii() and age.isdigit() else None


def load_enclave(release: Path, name: str, *, dangerous: Collection[Danger] = ()) -> SignedEnclave:
    """Read an enclave as a loader does before it starts one.

    Steps: (1) the manifest and the SIGSTRUCT parse; (2) the SIGSTRUCT's signature verifies under the key in it; (3) the
    MRENCLAVE in it is this manifest's; product id and SVN too. Whether the signer is anybody's friend is for the broker
    to say. For SGX it is the processor that compares MRENCLAVE, when the enclave is initialised (EINIT).

    Args:
        release: The release's folder.
        name: The enclave's name.
        dangerous: The classes of insecure settings that are allowed in its manifest.

    Raises:
        InputError: `enclave.missing`: One of the two files is not there.
        SealserveError: What `parse_manifest`, `Sigstruct.parse` and `Sigstruct.verify` raise.
        VerificationError: `enclave.measurement`: (3) It is another's.
    """
    paths = manifest_path(release, name), sigstruct_path(release, name)
    manifest_bytes, sigstruct_bytes = (_read(path, name) for path in paths)
    manifest = parse_manifest(manifest_bytes, name=str(paths[0]), dangerous=dangerous)  # (1)
    sigstruct = Sigstruct.parse(sigstruct_bytes)
    sigstruct.verify()  # (2)
    if (manifest.sgx.isvprodid, manifest.sgx.isvsvn) != (sigstruct.isv_prod_id, sigstruct.isv_svn):  # (3)
        raise EnclaveCode.MEASUREMENT.error(
            f"{paths[0]} has product id {manifest.sgx.isvprodid} and SVN {manifest.sgx.isvsvn}, and {paths[1].name} "
            f"was signed for {sigstruct.isv_prod_id} and {sigstruct.isv_svn}.",
            hint="The two files belong to different enclaves.",
        )
    simulated = manifest.loader.env["SEALSERVE_PLATFORM"] == PlatformKind.SIMULATED
    measured = _measure(manifest, manifest_bytes) if simulated else sigstruct.mr_enclave
    if measured != sigstruct.mr_enclave:
        raise EnclaveCode.MEASUREMENT.error(
            f"{paths[0]} measures {measured.hex()}, and {paths[1].name} was signed for {sigstruct.mr_enclave.hex()}.",
            hint="The manifest was changed after it was signed, or the two files belong to different enclaves.",
        )
    return SignedEnclave(
        name=name,
        manifest=manifest,
        sigstruct=sigstruct,
        manifest_bytes=manifest_bytes,
        sigstruct_bytes=sigstruct_bytes,
    )


def _read(path: Path, name: str) -> bytes:
    try:
        return read_regular(path, limit=MAX_MANIFEST_SIZE, follow_links=False)
    except InputFileMissingError as error:
        folder = path.parent
        known = sorted(found.name.removesuffix(MANIFEST_SUFFIX) for found in folder.glob(f"*{MANIFEST_SUFFIX}"))
        raise EnclaveCode.MISSING.error(
            f"There is no enclave {name!r}: {path} is missing.",
            hint=f"This release has: {', '.join(known)}." if known else "Build one with `sealserve enclave build`.",
        ) from error
