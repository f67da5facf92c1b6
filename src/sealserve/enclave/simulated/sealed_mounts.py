"""Decryption of a manifest's encrypted mounts into private memory."""

import contextlib
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sealserve.enclave.codes import EnclaveCode
from sealserve.enclave.manifest import EnclaveManifest, EncryptedMount
from sealserve.enclave.simulated.private_memory import PrivateMemory
from sealserve.sealing.codec import unseal_file
from sealserve.sealing.file_tree import TreeMissingError, list_folder, regular_files
from sealserve.secret import SecretBytes


@dataclass(frozen=True, slots=True)
class OpenedFiles:
    """The number of decrypted files, and of plaintext bytes."""

    files: int
    size: int


def open_mounts(manifest: EnclaveManifest, bundle: Path, memory: PrivateMemory, key: SecretBytes) -> OpenedFiles:
    """Decrypt every file of every encrypted mount, and create the empty folders that the manifest requires.

    As in Gramine, a file must have been sealed under its path in the release. A file that was moved to a different path
    does not open. This function does not detect that the host hides a file: the server's file list does.

    Args:
        manifest: Lists the mounts; their sources are relative to ``bundle``.
        bundle: The release's folder.
        memory: The destination of the plaintext.
        key: The release's key.

    Raises:
        VerificationError: `enclave.mount-source`: A mount's source is missing.
        SealserveError: The errors of `regular_files` and `unseal_file`.
    """
    count = size = 0
    for mount in manifest.encrypted_mounts:
        for path in _files(mount, bundle, memory):
            destination = memory.path(mount.path) / path
            destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            embedded = f"{mount.source}/{path}" if mount.is_folder else mount.source
            opened = unseal_file(bundle / embedded, destination, key=key, embedded_path=embedded, follow_links=False)
            count, size = count + 1, size + opened.size
    for folder in manifest.private_folders:
        memory.path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    return OpenedFiles(count, size)


def sealed_size(manifest: EnclaveManifest, bundle: Path) -> int:
    """Return the total size in bytes of the sealed files below the encrypted mounts. Their plaintext is smaller.

    Args:
        manifest: Lists the mounts.
        bundle: The release's folder. A missing or irregular file is not counted, because `open_mounts` reports it.
    """
    total = 0
    for mount in manifest.encrypted_mounts:
        source = bundle / mount.source
        for path in source.rglob("*") if mount.is_folder else (source,):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found = path.lstat()
                total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


def _files(mount: EncryptedMount, bundle: Path, memory: PrivateMemory) -> Sequence[str]:
    source = bundle / mount.source
    if not mount.is_folder and source.exists():
        return ("",)
    try:
        listing = list_folder(source)
        for folder in listing.empty_folders:  # Gramine lists folders as the host presents them, including empty ones
            (memory.path(mount.path) / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        return regular_files(source) if listing.files or listing.others else ()
    except TreeMissingError as error:
        raise EnclaveCode.MOUNT_SOURCE.error(
            f"The release does not contain {mount.source!r}, which the enclave mounts at {mount.path}.",
            hint="Copy the release again from the machine that built it.",
        ) from error
