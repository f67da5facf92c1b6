"""The address that the server listens on, and why it cannot."""

import errno
import logging
import socket
from pathlib import Path
from typing import Final

from sealserve.errors import PortTakenError, UnavailableError

logger = logging.getLogger(__name__)

_NO_IPV6: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class AddressError(UnavailableError):
    """The address cannot be listened on."""

    code = "server.address"


def choose_address(bind_address: str, port: int) -> str:
    """Return ``host:port`` as gRPC takes it, for an address and a port that are free.

    Args:
        bind_address: A host name or an address; empty for every address of the machine, IPv6 and IPv4.
        port: The port; 0 for any.

    Raises:
        PortTakenError: Something listens there.
        AddressError: The machine has no such address, or this user may not use the port.
    """
    if bind_address:
        _try_binding(bind_address, port)
        return f"[{bind_address}]:{port}" if ":" in bind_address else f"{bind_address}:{port}"
    try:
        _try_binding("::", port)
    except AddressError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _NO_IPV6:
            raise
        _try_binding("0.0.0.0", port)  # noqa: S104  # every address is what an empty --bind_address asks for
        return f"0.0.0.0:{port}"
    return f"[::]:{port}"


def _try_binding(host: str, port: int) -> None:
    """Bind and release: nobody can connect, since nothing listens."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise taken(f"{host}:{port}") from error
        raise AddressError(
            f"Cannot listen on {host} port {port}: {error.strerror}.", hint="Choose another --bind_address or --port."
        ) from error


def choose_socket(path: Path) -> str:
    """Return ``unix:path`` as gRPC takes it. gRPC replaces a socket that is there, also one that a process listens on.

    So a server can start that takes over from one that still drains, as with TensorFlow Serving. gRPC follows links
    when it looks for a socket, but removes the link: links are rejected, so that only sockets are ever removed.

    Source: grpc/grpc, ``src/core/lib/iomgr/unix_sockets_posix.cc`` (``grpc_unlink_if_unix_domain_socket``).

    Raises:
        AddressError: There is no such folder, or something else has that name.
    """
    if not path.parent.is_dir():
        raise AddressError(f"Cannot listen on {path}: its folder does not exist.", hint="Make it first.")
    if path.is_symlink() or (path.exists() and not path.is_socket()):
        raise AddressError(
            f"Cannot listen on {path}: expected a socket or nothing, got something else.",
            hint="Choose another path for the socket.",
        )
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) == 0:
            logger.warning("replacing the socket %s, on which another process listens", path)
    return f"unix:{path}"


def taken(address: str) -> PortTakenError:
    """Return the error that says that ``address`` is taken."""
    return PortTakenError(
        f"Cannot listen on {address}: another program does.", hint="Stop it, or choose another --port (0 for any)."
    )


def refused(address: str) -> PortTakenError | AddressError:
    """Return why gRPC, which gives no reason, does not listen on an address that it was given.

    Args:
        address: What `choose_address` or `choose_socket` returned.
    """
    try:
        if address.startswith("unix:"):
            choose_socket(Path(address.removeprefix("unix:")))
        else:
            host, _, port = address.rpartition(":")
            _try_binding(host.strip("[]"), int(port))
    except (PortTakenError, AddressError) as error:
        return error
    return AddressError(
        f"Cannot listen on {address}: gRPC rejects the address or the TLS settings.",
        hint="See the lines of gRPC in the log; GRPC_VERBOSITY=info writes more.",
    )
