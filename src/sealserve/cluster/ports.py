"""TCP ports of this machine: free ports, and listening processes."""

import contextlib
import errno
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sealserve.addresses import usable_address
from sealserve.cluster.codes import ClusterCode
from sealserve.errors import PortTakenError
from sealserve.process_signal import running

_CHOSEN: Final = range(10_000, 30_000)
"""Below Kubernetes' node ports (30000) and Linux' ephemeral ports (32768, ``net.ipv4.ip_local_port_range``)."""


def is_free(port: int, address: str = "127.0.0.1") -> bool:
    """Return whether no other program listens on ``port`` at ``address`` now.

    Raises:
        UnavailableError: `port.unusable` if no program could listen there.
    """
    address = usable_address(address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise ClusterCode.PORT_UNUSABLE.error(
                f"No program can listen on port {port} at {address}: {error.strerror or error}.",
                hint="Use an address of this machine. Only root may use ports below 1024.",
            ) from error
    return True


def find_free(address: str = "127.0.0.1") -> int:
    """Return a port that is free at ``address`` now. A different program may still take it first.

    The port is outside the kernel's range for outgoing connections, which would soon use it.

    Raises:
        PortTakenError: No port of the range is free.
    """
    for port in random.sample(_CHOSEN, len(_CHOSEN)):
        if is_free(port, address):
            return port
    raise PortTakenError(
        f"None of the ports {_CHOSEN[0]} to {_CHOSEN[-1]} at {address} is free.",
        hint="Stop the programs that use them (`ss -ltnp` lists them).",
    )


def require_free(port: int, what: str, address: str = "127.0.0.1") -> None:
    """Check that ``port`` is free.

    Raises:
        PortTakenError: A different program uses the port. ``what`` names the intended use in the message.
    """
    if not is_free(port, address):
        raise PortTakenError(
            f"Port {port} at {address}, for {what}, is in use by another program.",
            hint=f"Stop that program (`ss -ltnp sport = :{port}` names it), or set a different port in sealserve.toml.",
        )


def is_listening(port: int, *, session: int) -> bool:
    """Return whether a process of a session listens on ``port``. No connection is made.

    Checking for any listener is not sufficient: a different program may have taken the port first.

    Args:
        port: The port, at any address.
        session: The ID of the session's leader.

    Source: proc_pid_net(5): local address ``ADDRESS:PORT`` in hexadecimal, state 0A is LISTEN, the tenth column the
    socket's inode; proc_pid_fd(5): ``socket:[INODE]``.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    return bool(sockets) and any(sockets & _sockets(pid) for pid, found in running() if found.session == session)


def has_listener(port: int) -> bool:
    """Return whether any program listens on ``port``. No connection is made."""
    return any(_listening(port))


def _listening(port: int) -> Iterator[str]:
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if table.is_file():
            for line in table.read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _sockets(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):  # the process has ended, or belongs to a different user
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(descriptor.readlink()))
    return found
