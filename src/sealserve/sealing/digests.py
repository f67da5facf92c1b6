"""SHA-256 of open files, each in its own thread. The threads stop when the caller is interrupted."""

import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from sealserve.regular_file import read_at

_PIECE: Final = 2**20


def sha256_of(descriptors: Sequence[int]) -> list[str]:
    """Return the SHA-256 of each file's complete content, in hexadecimal. The current file offsets are ignored."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(descriptors), thread_name_prefix="digest") as pool:
        futures = [pool.submit(_sha256, descriptor, stop) for descriptor in descriptors]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            raise


def _sha256(descriptor: int, stop: threading.Event) -> str:
    digest, offset = hashlib.sha256(), 0
    buffer = memoryview(bytearray(_PIECE))
    while not stop.is_set() and (count := read_at(descriptor, buffer, offset)):
        digest.update(buffer[:count])
        offset += count
    return digest.hexdigest()
