"""The manifest for gramine-direct, which contains the release's key: a file in memory without a path on disk.

gramine-direct takes a path, appends ``.manifest`` and opens the result. Here the path is a symbolic link to the
descriptor of a memory file (memfd), which the loader inherits. The kernel frees such a file when the last process that
holds it ends. So SIGKILL leaves only the link. In addition, the file is overwritten when the server has ended.

Source: Gramine 1.9, ``tools/gramine.in`` (what the script checks), ``pal/src/host/linux-common/file_utils.c``,
read_text_file_to_cstr; Linux manual pages memfd_create(2) and proc_pid_fd(5).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from sealserve.atomic_file import PRIVATE
from sealserve.regular_file import write_at

# /dev/shm is writable even if the root file system is read-only. It holds only the link.
_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108  # not a predictable file name: a random folder is created in it


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestInMemory:
    """A manifest that gramine-direct can open.

    Args:
        application: The path to pass to gramine-direct as its argument.
        descriptor: The descriptor that gramine-direct must inherit under the same number.
    """

    application: Path
    descriptor: int


@contextmanager
def manifest_in_memory(name: str, content: bytes) -> Iterator[ManifestInMemory]:
    """Yield a manifest with this content, and overwrite it at the end.

    Args:
        name: The enclave's name.
        content: The manifest's text.
    """
    descriptor = os.memfd_create(f"{name}.manifest")
    try:
        os.fchmod(descriptor, PRIVATE)
        write_at(descriptor, content, 0)
        with TemporaryDirectory(prefix="sealserve-", dir=_SHARED_MEMORY) as folder:
            application = Path(folder, name)
            Path(folder, f"{name}.manifest").symlink_to(f"/proc/self/fd/{descriptor}")
            yield ManifestInMemory(application=application, descriptor=descriptor)
    finally:
        write_at(descriptor, bytes(len(content)), 0)
        os.close(descriptor)
