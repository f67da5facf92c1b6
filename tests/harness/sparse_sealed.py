"""Sealed files of any size that take little room: only chosen data nodes are there, and the MHT nodes above them.

The format's rules stand here once more, independent of the product.
"""

import os
import struct
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC


def mht_position(number: int) -> int:
    return 1 + 97 * number


def data_position(number: int) -> int:
    return 2 + number + number // 96


def write_sparse(path: Path, *, size: int, nodes: Mapping[int, bytes], wrap_key: bytes) -> None:
    """Write a file of format 1.0 whose content has ``size`` bytes, with the data nodes given by number."""
    data_total = -(-(size - 3072) // 4096)
    mht_total = -(-data_total // 96)
    contents: dict[int, bytearray] = {}
    with path.open("wb", buffering=0) as stream:

        def put(position: int, content: bytes) -> bytes:
            key = os.urandom(16)
            sealed = AESGCM(key).encrypt(bytes(12), content, None)
            os.pwrite(stream.fileno(), sealed[:4096], 4096 * position)
            return key + sealed[4096:]

        for number, content in nodes.items():
            entries = contents.setdefault(number // 96, bytearray(4096))
            entries[32 * (number % 96) : 32 * (number % 96) + 32] = put(data_position(number), content)
        root = bytes(32)
        while contents:
            number = max(contents)
            entry = put(mht_position(number), bytes(contents.pop(number)))
            if number == 0:
                root = entry
                break
            above, slot = divmod(number - 1, 32)
            contents.setdefault(above, bytearray(4096))[3072 + 32 * slot : 3104 + 32 * slot] = entry
        nonce = os.urandom(32)
        cmac = CMAC(AES(wrap_key))
        label = b"SGX-PROTECTED-FS-METADATA-KEY".ljust(64, b"\0")
        cmac.update(b"\1\0\0\0" + label + nonce + b"\x80\0\0\0")
        metadata = b"sparse".ljust(772, b"\0") + struct.pack("<Q", size) + root + b"h" * 3072
        sealed = AESGCM(cmac.finalize()).encrypt(bytes(12), metadata, None)
        node = b"GRAFS_PF\1\0" + nonce + sealed[3884:] + sealed[:3884]
        os.pwrite(stream.fileno(), node.ljust(4096, b"\0"), 0)
        os.truncate(stream.fileno(), 4096 * (1 + mht_total + data_total))
