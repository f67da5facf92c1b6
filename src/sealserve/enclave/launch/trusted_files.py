"""The trusted files of a manifest, compared with what the host has."""

import hashlib
from pathlib import Path
from typing import Final

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.manifest import EnclaveManifest
from sealserve.regular_file import InputFileError, read_regular

_LARGEST: Final = 4 * 2**30  # of a library


def check_trusted_files(manifest: EnclaveManifest, bundle: Path) -> int:
    """Compare every trusted file with its digest; return how many there are.

    Gramine does it when a file is opened; here it happens once, before the start, for all.

    Args:
        manifest: Names the files; relative ones are looked for in ``bundle``.
        bundle: The release's folder.

    Raises:
        VerificationError: `enclave.trusted-file-missing`: One is missing; the message names it.
        VerificationError: `enclave.trusted-file-changed`: One differs; the message names it.
    """
    for file in manifest.sgx.trusted_files:
        _read(bundle / file.path, file.sha256)
    return len(manifest.sgx.trusted_files)


def read_trusted_file(manifest: EnclaveManifest, bundle: Path, path: Path) -> bytes:
    """Return the content of a trusted file, just as it was compared.

    Raises:
        VerificationError: `enclave.trusted-file-missing`: It is missing, or the manifest does not name it as trusted.
        VerificationError: `enclave.trusted-file-changed`: It differs.
    """
    expected = next((file.sha256 for file in manifest.sgx.trusted_files if bundle / file.path == path), None)
    if expected is None:
        raise EnclaveCode.TRUSTED_FILE_MISSING.error(f"{path} is no trusted file of this enclave.")
    return _read(path, expected)


def _read(path: Path, expected: str) -> bytes:
    try:
        content = read_regular(path, limit=_LARGEST)
    except InputFileError as error:
        raise EnclaveCode.TRUSTED_FILE_MISSING.error(
            f"The trusted file {path} cannot be read: {error.reason}.",
            hint="The enclave was built on a machine with other paths, or the file was removed: build it again.",
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise EnclaveCode.TRUSTED_FILE_CHANGED.error(
            f"The trusted file {path} has SHA-256 {found}, and {expected} was measured.",
            hint="It was changed after the enclave was built; restore it, or build the enclave again.",
        )
    return content
