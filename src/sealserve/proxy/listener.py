"""Where the proxy listens: a TCP address of this machine, or a Unix socket that only this user can open."""

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.addresses import is_ip_address, is_loopback, with_port
from sealserve.errors import PortTakenError, SealserveError
from sealserve.proxy.codes import ProxyCode
from sealserve.tcp_ports import LARGEST_PORT

_UNIX: Final = "unix:"
_LONGEST_PATH: Final = 107  # `sun_path` has 108 bytes with the final NUL, see unix(7)
_ONLY_THIS_USER: Final = 0o177
_BACKLOG: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenAddress:
    """An address to listen on. Either ``path``, or ``host`` and ``port`` are used.

    Args:
        path: The path of a Unix socket, or `None`.
        host: An IP address.
        port: A TCP port; 0 means a free port.
    """

    path: Path | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return with_port(self.host, self.port) if self.path is None else f"{_UNIX}{self.path}"

    @property
    def is_private(self) -> bool:
        """Whether only programs on this machine can connect."""
        return self.path is not None or is_loopback(self.host)


def parse_listen(text: str, *, dangerous_anywhere: bool = False) -> ListenAddress:
    """Parse ``unix:PATH``, ``IP:PORT``, ``[IPv6]:PORT`` or ``localhost:PORT``.

    Args:
        text: The address.
        dangerous_anywhere: Accept addresses that other machines can reach. Inputs then travel without TLS.

    Raises:
        InputError: `proxy.listen`: The address is invalid. `proxy.listen-anywhere`: Other machines can reach it.
    """
    if text.startswith(_UNIX):
        path = Path(text.removeprefix(_UNIX)).absolute()
        if text == _UNIX or "\0" in text or len(os.fsencode(path)) > _LONGEST_PATH:
            raise _invalid(text)
        return ListenAddress(path=path)
    host, separator, port = text.rpartition(":")
    if host == "localhost":
        host = "127.0.0.1"
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    is_port = port.isascii() and port.isdecimal() and len(port) <= len(str(LARGEST_PORT)) and int(port) <= LARGEST_PORT
    is_host = is_ip_address(bare) and bracketed == (":" in bare) and "%" not in bare
    if not (separator and is_port and is_host):
        raise _invalid(text)
    address = ListenAddress(host=bare, port=int(port))
    if not address.is_private and not dangerous_anywhere:
        raise ProxyCode.LISTEN_ANYWHERE.error(
            f"Other machines can reach {address}, and clients send their inputs to the proxy without TLS.",
            hint="Listen on 127.0.0.1 or a Unix socket. In a protected network, add --dangerous-listen-anywhere.",
        )
    return address


def _invalid(text: str) -> SealserveError:
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:200])
    return ProxyCode.LISTEN.error(
        f"The address to listen on is invalid: expected IP:PORT or unix:PATH, got {shown!r}.",
        hint=f"Give for example 127.0.0.1:8500, [::1]:8500 or unix:/run/user/1000/model.sock. A path has at most "
        f"{_LONGEST_PATH} bytes.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A listening socket. Close it with `close`.

    Args:
        address: The address with the port that was chosen.
        stream: The socket.
        identity: Device, inode and time of a Unix socket's file, or `None`.
    """

    address: ListenAddress
    stream: socket.socket
    identity: tuple[int, int, int] | None = None

    def close(self) -> None:
        """Close the socket, and remove its file if it is still the file of this socket."""
        self.stream.close()
        if self.address.path is not None:
            with contextlib.suppress(OSError):
                if _identity(self.address.path) == self.identity:
                    self.address.path.unlink()


def listen(address: ListenAddress) -> Listener:
    """Listen on an address.

    Raises:
        PortTakenError: Another program listens on the port.
        InputError: `proxy.listen`: Other users can replace the file of the Unix socket.
        UnavailableError: `proxy.listen-failed`: The address cannot be used.
    """
    return _listen_tcp(address) if address.path is None else _listen_unix(address.path)


def _listen_tcp(address: ListenAddress) -> Listener:
    stream = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
    try:
        # A restarted proxy must not wait for the end of old connections (TIME_WAIT).
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stream.bind((address.host, address.port))
        stream.listen(_BACKLOG)
    except OSError as error:
        stream.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"Cannot listen on {address}: another program listens there.",
                hint="Stop the other program, or give another port with --listen.",
            ) from error
        raise _failed(address, error.strerror or "unknown reason") from error
    return Listener(address=ListenAddress(host=address.host, port=stream.getsockname()[1]), stream=stream)


def _listen_unix(path: Path) -> Listener:
    address = ListenAddress(path=path)
    _check_folder(path.parent, address)
    _remove_stale(path, address)
    stream = socket.socket(socket.AF_UNIX)
    before = os.umask(_ONLY_THIS_USER)  # the file must never be open to others, not even for a moment
    try:
        stream.bind(str(path))
        stream.listen(_BACKLOG)
        return Listener(address=address, stream=stream, identity=_identity(path))
    except OSError as error:
        stream.close()
        raise _failed(address, error.strerror or "unknown reason") from error
    finally:
        os.umask(before)


def _check_folder(folder: Path, address: ListenAddress) -> None:
    """Reject a folder in which another user can replace the socket and receive the inputs."""
    try:
        found = folder.stat()
    except OSError as error:
        raise _failed(address, f"its folder cannot be used: {error.strerror}") from error
    shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
    if shared or found.st_uid not in {0, os.geteuid()}:
        raise ProxyCode.LISTEN.error(
            f"Other users can replace files in {folder}, and receive the inputs in place of the proxy.",
            hint=f"Use a folder of your own, or run `chmod go-w {folder}`.",
        )


def _remove_stale(path: Path, address: ListenAddress) -> None:
    """Remove the socket of a proxy that was killed. Nothing else is ever removed."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # the usual case; any other problem is reported when the socket is created
    if not stat.S_ISSOCK(mode):
        raise _failed(address, "the path exists and is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
            raise _failed(address, "another program listens there")
    try:
        path.unlink()
    except OSError as error:
        raise _failed(address, f"the old socket cannot be removed: {error.strerror}") from error


def _identity(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino, found.st_ctime_ns  # an inode is reused


def _failed(address: ListenAddress, reason: str) -> SealserveError:
    return ProxyCode.LISTEN_FAILED.error(
        f"Cannot listen on {address}: {reason}.", hint="Give another address with --listen."
    )
