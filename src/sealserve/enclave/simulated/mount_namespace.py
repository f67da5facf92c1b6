"""A private mount namespace for this process, with a new root in which one folder is memory of this namespace only.

The new root is a tmpfs. Every top-level entry of the real root is bind-mounted into it, so all paths stay the same, and
one folder is added. The namespace exists as long as the processes in it. The host's root is not changed, and no files
remain.

Source: Linux manual pages unshare(2), mount_namespaces(7), user_namespaces(7), pivot_root(2).
"""

import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

_CLONE_NEWNS: Final = 0x0002_0000
_CLONE_NEWUSER: Final = 0x1000_0000
_MS_RDONLY: Final = 1
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MS_REMOUNT: Final = 32
_MS_BIND: Final = 4096
_MS_REC: Final = 16384
_MS_PRIVATE: Final = 1 << 18
_MNT_DETACH: Final = 2
_SYS_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
_OLD_ROOT: Final = ".old-root"
_STAGES: Final = ("/mnt", "/usr")  # one of them is covered briefly, in this namespace only

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def enter(private: str) -> None:
    """Move this process into a new namespace, in which the folder ``private`` is an empty tmpfs with mode 0700.

    The current directory stays the same. Root does not need a user namespace. Any other user gets a user namespace that
    maps only this user and its group.

    Args:
        private: An absolute path of one level, such as ``/release``. The host's folder at this path is hidden inside.

    Raises:
        OSError: The kernel refuses. The process may then be in an incomplete state, so call `why_not` first.
    """
    directory = Path.cwd()
    if os.geteuid() == 0:
        _unshare(_CLONE_NEWNS)
    else:
        user, group = os.geteuid(), os.getegid()
        _unshare(_CLONE_NEWNS | _CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    entries = {entry.name: entry for entry in os.scandir("/")}
    stage = next(place for place in _STAGES if place.strip("/") in entries)
    _mount("sealserve", stage, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=1m")
    (Path(stage) / _OLD_ROOT).mkdir()
    _pivot_root(stage, f"{stage}/{_OLD_ROOT}")  # from here on, the old root is accessible below /.old-root
    os.chdir("/")
    for name in sorted(entries.keys() - {private.strip("/")}):
        _bind(Path("/", _OLD_ROOT, name), Path("/", name))
    Path(private).mkdir()
    _mount("sealserve-private", private, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0700")
    _call(_LIBC.umount2, b"/" + _OLD_ROOT.encode(), _MNT_DETACH)
    Path("/", _OLD_ROOT).rmdir()
    _mount(None, "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)  # affects only the root folder, not the mounts in it
    os.chdir(directory)


def why_not(private: str) -> str | None:
    """Try `enter` in a child process; return why it does not work on this machine, or None if it works.

    Args:
        private: As for `enter`.
    """
    if _has_other_threads():
        return "the process has several threads"
    return _in_child(lambda: enter(private))


def _has_other_threads() -> bool:
    return sum(1 for _ in Path("/proc/self/task").iterdir()) > 1


def _in_child(action: Callable[[], None]) -> str | None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            action()
            status = 0
        except OSError as error:
            os.write(writing, f"{error.strerror} ({error.filename})".encode()[:500])
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        reason = stream.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return None if status == 0 else reason or f"the attempt ended with status {status}"


def _bind(source: Path, target: Path) -> None:
    if source.is_symlink():
        target.symlink_to(source.readlink())
        return
    if source.is_dir():
        target.mkdir()
    elif source.is_file():
        target.touch()
    else:
        return  # a server does not need a socket or device in the root folder
    with contextlib.suppress(FileNotFoundError):  # the entry was removed meanwhile
        _mount(str(source), str(target), None, _MS_BIND | _MS_REC)


def _unshare(flags: int) -> None:
    _call(_LIBC.unshare, flags, what="unshare")


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    data = None if options is None else options.encode()
    _call(_LIBC.mount, *encoded, ctypes.c_ulong(flags), data, what=f"mount {target}")


def _pivot_root(new: str, old: str) -> None:
    number = _SYS_PIVOT_ROOT[os.uname().machine]
    _call(_LIBC.syscall, ctypes.c_long(number), new.encode(), old.encode(), what="pivot_root")


def _call(function: Callable[..., int], *arguments: object, what: str = "umount") -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
