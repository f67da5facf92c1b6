"""Selection of the address to listen on, and errors if it cannot be used."""

import errno
import logging
import socket
from pathlib import Path
from typing import Final

from sealserve.errors import PortTakenError, UnavailableError

logger = logging.getLogger(__name__)

_NO_IPV6: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class AddressError(UnavailableError):
    """The server cannot listen on the address."""

    code = "server.address"


def choose_address(bind_address: str, port: int) -> str:
    """Return ``host:port`` in gRPC's form, after checking that the address and the port are free.

    Args:
        bind_address: A host name or an address; empty for every address of the machine, IPv6 and IPv4.
        port: The port; 0 for any.

    Raises:
        PortTakenError: Another process listens on the port.
        AddressError: The machine does not have the address, or this user may not use the port.
    """
    if bind_address:
        _try_binding(bind_address, port)
        return f"[{bind_address}]:{port}" if ":" in bind_address else f"{bind_address}:{port}"
    try:
        _try_binding("::", port)
    except AddressError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _NO_IPV6:
            raise
        _try_binding("0.0.0.0", port)  # noqa: S104  # an empty --bind_address means every address
        return f"0.0.0.0:{port}"
    return f"[::]:{port}"


def _try_binding(host: str, port: int) -> None:
    """Bind the address and release it. No client can connect, because the socket does not listen."""
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
    """Return ``unix:path`` in gRPC's form. gRPC replaces an existing socket, even if a process listens on it.

    So a new server can take over from a server that still drains, as with TensorFlow Serving. gRPC follows a link to
    find a socket, but removes the link. Therefore links are rejected, so that only sockets are ever removed.

    Source: grpc/grpc, ``src/core/lib/iomgr/unix_sockets_posix.cc`` (``grpc_unlink_if_unix_domain_socket``).

    Raises:
        AddressError: The folder does not exist, or the path exists and is not a socket.
    """
    if not path.parent.is_dir():
        raise AddressError(f"Cannot listen on {path}: its folder does not exist.", hint="Create the folder first.")
    if path.is_symlink() or (path.exists() and not path.is_socket()):
        raise AddressError(
            f"Cannot listen on {path}: the path exists and is not a socket.",
            hint="Choose a different path for the socket.",
        )
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) == 0:
            logger.warning("replacing the socket %s, on which another process listens", path)
    return f"unix:{path}"


def taken(address: str) -> PortTakenError:
    """Return the error for an address that is taken."""
    return PortTakenError(
        f"Cannot listen on {address}: another program listens there.",
        hint="Stop the other program, or choose a different --port (0 for any free port).",
    )


def refused(address: str) -> PortTakenError | AddressError:
    """Return the error for an address on which gRPC cannot listen. gRPC itself gives no reason.

    Args:
        address: The address that `choose_address` or `choose_socket` returned.
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
        hint="Check --bind_address, --port and the certificates in the TLS settings. gRPC does not report the reason.",
    )
