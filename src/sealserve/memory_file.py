"""Secrets for libraries that read only from files, such as Python's ``ssl``: in an unnamed file in memory."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def memory_file(content: bytes) -> Iterator[Path]:
    """Yield the path of a file with ``content`` that exists only inside the block.

    The file is in memory and unnamed, if the system supports such files. Otherwise it is a temporary file that only
    this user can read, and it is removed at the end of the block.
    """
    try:
        descriptor = os.memfd_create("secret", os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "secret"
            path.touch(0o600)
            path.write_bytes(content)
            yield path
        return
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, content)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
