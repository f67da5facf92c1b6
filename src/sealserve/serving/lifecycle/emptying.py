"""Model files in memory, emptied once TensorFlow has its own copy of what was in them.

Inside a simulated enclave the opened model lies in a tmpfs, which is memory as well: a second copy that nobody reads
again. Only files are emptied that TensorFlow reads at the load and never later: the graph and the variables. Assets
stay, since a graph may read them in any run. The folders stay too: they say which versions there are.
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
    """Empty the files below a version's folder that are read only once; return how many bytes that freed.

    Where they are on a disk, nothing is gained, and they stay as they are.

    Args:
        folder: The version's folder.
    """
    files = [file for pattern in _READ_ONCE for file in sorted(folder.glob(pattern)) if file.is_file()]
    freed = 0
    for file in files:
        if not _is_in_memory(file):
            logger.info("%s is not in memory (no tmpfs): it is left as it is", file)
            continue
        freed += file.stat().st_size
        os.truncate(file, 0)
    return freed


def _is_in_memory(path: Path) -> bool:
    """Whether a file is a tmpfs's. Links are not followed: what they name lies somewhere else.

    Source: statfs(2); ``f_type`` is the first field, a long.
    """
    if path.is_symlink():
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(256)  # struct statfs has 120 bytes on 64-bit Linux
    if libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    return ctypes.c_long.from_buffer(buffer).value == _TMPFS
