"""Create and read the owner's Ed25519 keys as PEM files."""

import logging
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sealserve.atomic_file import PRIVATE, OutputExistsError, write_file
from sealserve.owner.codes import OwnerCode
from sealserve.regular_file import InputFileError, read_regular

_LOG = logging.getLogger(__name__)


def create_signer(path: Path) -> None:
    """Create a signing key in the file ``path`` (PEM, mode 0600). A file that another process created first is kept."""
    content = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        write_file(path, content, mode=PRIVATE, overwrite=False)
    except OutputExistsError:
        return
    _LOG.info("created the signing key %s", path)


def read_signer(path: Path) -> Ed25519PrivateKey:
    """Return the signing key in the file ``path``.

    Raises:
        InputError: `owner-key.unreadable`: The file does not exist, or contains another kind of key.
    """
    key = load_key(path, lambda content: serialization.load_pem_private_key(content, password=None))
    if not isinstance(key, Ed25519PrivateKey):
        raise OwnerCode.OWNER_KEY_UNREADABLE.error(
            f"The signing key {path} is of another kind: expected an Ed25519 private key.",
            hint="Restore the file from a backup.",
        )
    return key


def read_owner_key(path: Path) -> Ed25519PublicKey:
    """Return the owner's public key from a PEM file.

    Raises:
        InputError: `owner-key.unreadable`: The file does not exist, or contains another kind of key.
    """
    key = load_key(path, serialization.load_pem_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise OwnerCode.OWNER_KEY_UNREADABLE.error(
            f"The owner's key {path} is of another kind: expected an Ed25519 public key.",
            hint="Copy .sealserve/host/owner.pub from the owner's machine again.",
        )
    return key


def public_pem(key: Ed25519PublicKey) -> bytes:
    """Return a public key in PEM, the format that `read_owner_key` reads."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def load_key(path: Path, load: Callable[[bytes], object]) -> object:
    """Return the key that ``load`` reads from the content of a PEM file.

    Raises:
        InputError: `owner-key.unreadable`: The file cannot be read, or ``load`` rejects its content.
    """
    try:
        return load(read_regular(path))
    except InputFileError as error:
        raise OwnerCode.OWNER_KEY_UNREADABLE.error(
            f"The key {path} cannot be read: {error.reason}.",
            hint="Copy .sealserve/host/owner.pub from the owner's machine, or give another file with --owner-key.",
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: the key has a passphrase
        raise OwnerCode.OWNER_KEY_UNREADABLE.error(
            f"The key {path} cannot be read: expected a PEM file with a key without a passphrase.",
            hint="Copy the file from the owner's machine again, or restore it from a backup.",
        ) from error
