"""Wrap key files: 16 raw bytes, the format of gramine-sgx-pf-crypt."""

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
        InputError: `wrap-key.missing` if the file does not exist or cannot be read.
        InputError: `wrap-key.size` if the file does not contain exactly 16 bytes.
    """
    try:
        with open_regular(path) as descriptor:
            content = os.read(descriptor, WRAP_KEY_SIZE + 1)
    except InputFileError as error:
        raise SealingCode.WRAP_KEY_MISSING.error(
            f"The key file {path} cannot be read: {error.reason}.",
            hint="Check the path, or run `sealserve seal --new-key` to create a key file of 16 raw bytes.",
        ) from error
    if len(content) != WRAP_KEY_SIZE:
        raise SealingCode.WRAP_KEY_SIZE.error(
            f"The key file {path} has an invalid size: expected exactly {WRAP_KEY_SIZE} bytes.",
            hint="Use a file of raw bytes: no text encoding, and no newline at its end.",
        )
    return SecretBytes(content)


def create_wrap_key(path: Path) -> SecretBytes:
    """Generate a key, write it to a new file with mode 0600, and return it.

    Raises:
        OutputExistsError: The file already exists. A key file is never overwritten.
    """
    key = SecretBytes.random(WRAP_KEY_SIZE)
    write_file(path, key.reveal(), mode=PRIVATE, overwrite=False)
    return key
