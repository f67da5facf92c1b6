"""Replaces the content of the master key file, so that the broker's container gets the new master key.

A container mounts the file alone, and no other file of the owner's folder. Such a mount refers to the file, not to its
name: after a rename, the container would still have the former file. The content is therefore written into the existing
file, which also keeps its owner. An interruption loses nothing, because the complete new file remains beside it until
the content is durable.
"""

import contextlib
import os
import stat
from pathlib import Path

from sealserve.atomic_file import PRIVATE


def move_content(source: Path, path: Path) -> None:
    """Give ``path`` the content of ``source``, and remove ``source``.

    The modification time of ``path`` always changes. If ``path`` does not exist, is a link, or has several names (such
    as a copy by hard link, which must keep its content), ``source`` is renamed.

    Args:
        source: A complete file in the same folder. Its content is durable.
        path: The file to replace.

    Raises:
        OSError: The content could not be written. ``source`` still exists.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # it does not exist, is a link, or must not be opened
        source.replace(path)
        return
    with contextlib.closing(os.fdopen(descriptor, "wb", buffering=0)) as stream:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode) or before.st_nlink != 1:
            source.replace(path)
            return
        content = source.read_bytes()
        os.fchmod(descriptor, PRIVATE)
        # 1. One call writes the whole content, so that a reader sees either the former or the new content.
        if stream.write(content) != len(content):
            raise OSError(f"{path} was written only in part")
        stream.truncate(len(content))
        os.fsync(descriptor)
        # 2. The clock of a file system is coarse. Readers compare the time to recognize a new key.
        after = os.fstat(descriptor)
        if after.st_mtime_ns <= before.st_mtime_ns:
            os.utime(descriptor, ns=(after.st_atime_ns, before.st_mtime_ns + 1))
    # 3. The content is durable now. Delete the other copy.
    source.unlink()
