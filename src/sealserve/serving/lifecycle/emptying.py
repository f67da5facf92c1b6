"""Empties model files in memory after TensorFlow has loaded its own copy of them.

Inside a simulated enclave the decrypted model is in a tmpfs, which is memory too. It is a second copy that is not read
again. Only files are emptied that TensorFlow reads during the load and never later: the graph and the variables. Assets
stay, because a graph may read them in any run. The folders stay too, because they define which versions exist.
"""

import ctypes
import logging
import os
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

_TMPFS: Final = 0x01021994
"""``f_type`` of a tmpfs (Linux, ``include/uapi/linux/magic.h``, TMPFS_MAGIC)."""
_READ_ONCE: Final = ("saved_model.pb", "variables/variables.*")


def empty_files(folder: Path) -> int:
    """Empty the files in a version's folder that are read only once; return the number of freed bytes.

    Files on a disk are not emptied, because that would not free memory.

    Args:
        folder: The version's folder.
    """
    files = [file for pattern in _READ_ONCE for file in sorted(folder.glob(pattern)) if file.is_file()]
    freed = 0
    for file in files:
        if not _is_in_memory(file):
            logger.info("%s is not in memory (not in a tmpfs), so it is not emptied", file)
            continue
        freed += file.stat().st_size
        os.truncate(file, 0)
    return freed


def _is_in_memory(path: Path) -> bool:
    """Return whether a file is in a tmpfs. Links are not followed, because their target is elsewhere.

    Source: statfs(2); ``f_type`` is the first field, a long.
    """
    if path.is_symlink():
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(256)  # struct statfs has 120 bytes on 64-bit Linux
    if libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    return ctypes.c_long.from_buffer(buffer).value == _TMPFS
