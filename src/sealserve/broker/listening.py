"""The listening socket of the broker, and the number of connections that the limit of open files permits."""

import contextlib
import errno
import logging
import resource
import socket
from collections.abc import Iterator
from typing import Any, Final

from sealserve.addresses import usable_address
from sealserve.broker.codes import BrokerCode
from sealserve.broker.server_limits import Limits
from sealserve.errors import PortTakenError

_LOG: Final = logging.getLogger(__name__)
_BACKLOG: Final = 4096  # the kernel reduces it to net.core.somaxconn
_DESCRIPTORS: Final = 256  # for files, the database and collateral downloads, beside the connections


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that has the address. `listen` makes it accept connections.

    Args:
        host: The address to listen on.
        port: The port. 0 selects a free port.

    Raises:
        PortTakenError: The port is in use.
        InputError: `broker.cannot-listen` if the address does not belong to this machine, or if the port requires more
            privileges.
    """
    host = usable_address(host)
    with _explaining(host, port):
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # make "::" accept IPv4 too, independently of net.ipv6.bindv6only
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    return listener


def listen(listener: socket.socket) -> None:
    """Make a socket from `bind` accept connections.

    Raises:
        PortTakenError: Another program listens on the port since the call of `bind`.
    """
    with _explaining(*listener.getsockname()[:2]):
        listener.listen(_BACKLOG)


@contextlib.contextmanager
def _explaining(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"The broker cannot listen on {host} port {port}: another program already uses the port.",
                hint="Run `ss -ltnp` to find the program and stop it, or set broker.port to a free port.",
            ) from error
        raise BrokerCode.CANNOT_LISTEN.error(
            f"The broker cannot listen on {host} port {port}: {error.strerror or error}.",
            hint="Set broker.listen to an address of this machine and broker.port to 1024 or more.",
        ) from error


def affordable(limits: Limits) -> int:
    """Raise the soft limit of open files. Return the number of silent connections that the limit permits."""
    needed = limits.silent + limits.connections + _DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        soft = min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft >= needed:
        return limits.silent
    silent = max(soft - limits.connections - _DESCRIPTORS, 1)
    _LOG.warning(
        "the limit of open files (%d) reduces the number of silent connections from %d to %d",
        hard,
        limits.silent,
        silent,
    )
    return silent


def peer_name(address: Any) -> str:
    """Return the text of a peer's address and port."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
