"""Comparison of a manifest's trusted files with the files on the host."""

import hashlib
from pathlib import Path
from typing import Final

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.manifest import EnclaveManifest
from sealserve.regular_file import InputFileError, read_regular

_LARGEST: Final = 4 * 2**30  # bytes; the largest trusted files are libraries


def check_trusted_files(manifest: EnclaveManifest, bundle: Path) -> int:
    """Compare every trusted file with its digest, and return the number of files.

    Gramine compares a file when it is opened. This function compares all files once, before the start.

    Args:
        manifest: Lists the trusted files; relative paths are below ``bundle``.
        bundle: The release's folder.

    Raises:
        VerificationError: `enclave.trusted-file-missing`: A file is missing or cannot be read; the message names it.
        VerificationError: `enclave.trusted-file-changed`: A file differs; the message names it.
    """
    for file in manifest.sgx.trusted_files:
        _read(bundle / file.path, file.sha256)
    return len(manifest.sgx.trusted_files)


def read_trusted_file(manifest: EnclaveManifest, bundle: Path, path: Path) -> bytes:
    """Return the content of a trusted file. The returned bytes are the bytes that were compared with the digest.

    Raises:
        VerificationError: `enclave.trusted-file-missing`: The file is missing, or is not trusted in the manifest.
        VerificationError: `enclave.trusted-file-changed`: The file differs.
    """
    expected = next((file.sha256 for file in manifest.sgx.trusted_files if bundle / file.path == path), None)
    if expected is None:
        raise EnclaveCode.TRUSTED_FILE_MISSING.error(
            f"{path} cannot be used: the enclave's manifest does not list it as a trusted file."
        )
    return _read(path, expected)


def _read(path: Path, expected: str) -> bytes:
    try:
        content = read_regular(path, limit=_LARGEST)
    except InputFileError as error:
        raise EnclaveCode.TRUSTED_FILE_MISSING.error(
            f"The trusted file {path} cannot be read: {error.reason}.",
            hint="Build the enclave again, on a machine with the same paths, or restore the file.",
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise EnclaveCode.TRUSTED_FILE_CHANGED.error(
            f"The trusted file {path} was changed after the enclave was built: expected SHA-256 {expected}, got "
            f"{found}.",
            hint="Restore the file, or build the enclave again.",
        )
    return content
