"""Wrap keys in files: raw, 16 bytes, as gramine-sgx-pf-crypt reads and writes them."""

import os
from pathlib import Path

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.regular_file import InputFileError, open_regular
from sealserve.sealing.codes import SealingCode
from sealserve.secret import SecretBytes

WRAP_KEY_SIZE = 16


def read_wrap_key(path: Path) -> SecretBytes:
    """Return the key in the file at ``path``.

    Raises:
        InputError: `wrap-key.missing`: No such file, or no right to read it.
        InputError: `wrap-key.size`: Not exactly 16 bytes.
    """
    try:
        with open_regular(path) as descriptor:
            content = os.read(descriptor, WRAP_KEY_SIZE + 1)
    except InputFileError as error:
        raise SealingCode.WRAP_KEY_MISSING.error(
            f"The key file {path} cannot be read: {error.reason}.",
            hint="A key is a raw file of 16 bytes; `sealserve seal --new-key` makes one.",
        ) from error
    if len(content) != WRAP_KEY_SIZE:
        raise SealingCode.WRAP_KEY_SIZE.error(
            f"The key file {path} is not 16 bytes long.", hint="A key is raw: not text, and no newline at its end."
        )
    return SecretBytes(content)


def create_wrap_key(path: Path) -> SecretBytes:
    """Write a fresh key to a new file, 0600, and return it.

    Raises:
        OutputExistsError: There is a file already; a key is never overwritten.
    """
    key = SecretBytes.random(WRAP_KEY_SIZE)
    write_file(path, key.reveal(), mode=PRIVATE, overwrite=False)
    return key
