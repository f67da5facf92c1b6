"""Secrets for libraries that read them from files only, such as Python's ``ssl``: in memory, without a name."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def memory_file(content: bytes) -> Iterator[Path]:
    """Yield the path of a file with ``content`` that exists only inside of the block.

    The file is in memory and without a name where the system has such files. Otherwise it is one that only this user
    can read, and that is removed right afterwards.
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
