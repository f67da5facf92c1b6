"""An enclave on disk: its manifest, its SIGSTRUCT, and the measurement that connects them."""

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
MAX_MANIFEST_SIZE: Final = 16 * 2**20  # enough for tens of thousands of trusted files
_DOMAIN: Final = b"sealserve simulated enclave v1\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedEnclave:
    """An enclave's manifest and SIGSTRUCT, verified against each other.

    Args:
        name: The enclave's name.
        manifest: The parsed manifest.
        sigstruct: The parsed SIGSTRUCT. Its signature is verified, and its MRENCLAVE is the manifest's measurement.
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

    It is the SHA-256 of four values: ``sealserve simulated enclave v1`` and a NUL; the enclave's size in bytes (u64,
    little-endian); ``sgx.max_threads`` (u32, little-endian); the SHA-256 of the manifest's bytes. Like Gramine's
    measurement, it depends on size, threads and manifest. Unlike Gramine's, it does not include a library OS.

    Args:
        manifest: The exact bytes of the ``.manifest.sgx``.
        dangerous: The classes of insecure settings that are allowed in it.

    Raises:
        SealserveError: The errors of `parse_manifest`.
    """
    return _measure(parse_manifest(manifest, dangerous=dangerous), manifest)


def _measure(parsed: EnclaveManifest, manifest: bytes) -> MrEnclave:
    layout = parsed.enclave_size.to_bytes(8, "little") + parsed.sgx.max_threads.to_bytes(4, "little")
    return MrEnclave(hashlib.sha256(_DOMAIN + layout + hashlib.sha256(manifest).digest()).digest())


def manifest_path(release: Path, name: str) -> Path:
    """Return the path of the manifest of the enclave ``name``."""
    return release / ENCLAVE_FOLDER / f"{name}{MANIFEST_SUFFIX}"


def sigstruct_path(release: Path, name: str) -> Path:
    """Return the path of the SIGSTRUCT of the enclave ``name``."""
    return release / ENCLAVE_FOLDER / f"{name}{SIGSTRUCT_SUFFIX}"


def enclave_names(release: Path) -> list[str]:
    """Return the sorted names of a release's enclaves, without verification."""
    found = (release / ENCLAVE_FOLDER).glob(f"*{MANIFEST_SUFFIX}")
    return sorted(path.name.removesuffix(MANIFEST_SUFFIX) for path in found)


def port_of(manifest: EnclaveManifest) -> int:
    """Return the port of an enclave's server from its measured arguments. If the flag is repeated, the last one counts.

    Raises:
        InputError: `enclave.port`: The arguments have no valid port. This happens only with a custom manifest.
    """
    given = [flag.removeprefix(PORT_FLAG) for flag in manifest.loader.argv if flag.startswith(PORT_FLAG)]
    if not given or not given[-1].isascii() or not given[-1].isdigit():
        raise EnclaveCode.PORT.error(
            f"The enclave's arguments do not contain {PORT_FLAG}NUMBER, so the port of its server is unknown.",
            hint=f"Add {PORT_FLAG}NUMBER to loader.argv, as `sealserve enclave manifest` prints it.",
        )
    return int(given[-1])


def rest_port_of(manifest: EnclaveManifest) -> int | None:
    """Return the port of an enclave's REST API from its measured arguments; None if REST is off. The last flag counts.

    Raises:
        InputError: `enclave.port`: The port is not a number. This happens only with a custom manifest.
    """
    given = [flag.removeprefix(REST_PORT_FLAG) for flag in manifest.loader.argv if flag.startswith(REST_PORT_FLAG)]
    if not given:
        return None
    if not given[-1].isascii() or not given[-1].isdigit():
        raise EnclaveCode.PORT.error(
            f"The enclave's argument {REST_PORT_FLAG}{given[-1]} is not a port: expected a number.",
            hint=f"Set {REST_PORT_FLAG}NUMBER in loader.argv, as `sealserve enclave manifest` prints it.",
        )
    return int(given[-1]) or None


def connection_age_of(manifest: EnclaveManifest) -> int | None:
    """Return the age in seconds at which an enclave's server drains a connection, from its measured arguments.

    None if the arguments contain no age, or an age that is not a number. This happens only with a custom manifest.
    """
    given = [flag.removeprefix(CHANNEL_FLAG) for flag in manifest.loader.argv if flag.startswith(CHANNEL_FLAG)]
    arguments = dict(part.partition("=")[::2] for part in given[-1].split(",")) if given else {}
    age = arguments.get(CONNECTION_AGE, "")
    return -(-int(age) // 1000) if age.isascii() and age.isdigit() else None


def load_enclave(release: Path, name: str, *, dangerous: Collection[Danger] = ()) -> SignedEnclave:
    """Read and verify an enclave as a loader does before it starts the enclave.

    Steps:

    1. The manifest and the SIGSTRUCT parse.
    2. The SIGSTRUCT's signature verifies under the key in it.
    3. The MRENCLAVE, product id and SVN in the SIGSTRUCT match this manifest. On SGX the processor compares MRENCLAVE
       when the enclave is initialized (EINIT).

    This function does not decide whether the signer is trusted. The broker decides that.

    Args:
        release: The release's folder.
        name: The enclave's name.
        dangerous: The classes of insecure settings that are allowed in its manifest.

    Raises:
        InputError: `enclave.missing`: One of the two files is missing.
        SealserveError: The errors of `parse_manifest`, `Sigstruct.parse` and `Sigstruct.verify`.
        VerificationError: `enclave.measurement`: (3) The SIGSTRUCT was signed for a different enclave.
    """
    paths = manifest_path(release, name), sigstruct_path(release, name)
    manifest_bytes, sigstruct_bytes = (_read(path, name) for path in paths)
    manifest = parse_manifest(manifest_bytes, name=str(paths[0]), dangerous=dangerous)  # (1)
    sigstruct = Sigstruct.parse(sigstruct_bytes)
    sigstruct.verify()  # (2)
    if (manifest.sgx.isvprodid, manifest.sgx.isvsvn) != (sigstruct.isv_prod_id, sigstruct.isv_svn):  # (3)
        raise EnclaveCode.MEASUREMENT.error(
            f"{paths[0]} does not match its signature: it has product id {manifest.sgx.isvprodid} and SVN "
            f"{manifest.sgx.isvsvn}, and {paths[1].name} was signed for {sigstruct.isv_prod_id} and "
            f"{sigstruct.isv_svn}.",
            hint="Copy the bundle again from the machine that built it: the two files belong to different enclaves.",
        )
    simulated = manifest.loader.env["SEALSERVE_PLATFORM"] == PlatformKind.SIMULATED
    measured = _measure(manifest, manifest_bytes) if simulated else sigstruct.mr_enclave
    if measured != sigstruct.mr_enclave:
        raise EnclaveCode.MEASUREMENT.error(
            f"{paths[0]} does not match its signature: {paths[1].name} was signed for MRENCLAVE "
            f"{sigstruct.mr_enclave.hex()}, and the manifest measures {measured.hex()}.",
            hint="Copy the bundle again from the machine that built it: the manifest was changed after it was signed, "
            "or the two files belong to different enclaves.",
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
            f"The release does not contain the enclave {name!r}: {path} is missing.",
            hint=f"Choose an enclave of this release: {', '.join(known)}."
            if known
            else "Build an enclave with `sealserve enclave build`.",
        ) from error
