"""Ports of this machine."""

import socket
from pathlib import Path

from sealserve.errors import UnavailableError


class PortTakenError(UnavailableError):
    """Another program listens on the port."""

    code = "port.taken"


def is_free(port: int, address: str = "127.0.0.1") -> bool:
    """Return whether ``port`` can be listened on at ``address`` now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def find_free(address: str = "127.0.0.1") -> int:
    """Return a port that is free at ``address`` now; whoever binds first has it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def require_free(port: int, what: str, address: str = "127.0.0.1") -> None:
    """Check that ``port`` is free.

    Raises:
        PortTakenError: It is not; ``what`` says for whom it was meant.
    """
    if not is_free(port, address):
        raise PortTakenError(
            f"Port {port} at {address}, for {what}, is taken by another program.",
            hint=f"Stop it (`ss -ltnp sport = :{port}` names it), or set another port in sealserve.toml.",
        )


def is_listening(port: int) -> bool:
    """Return whether something in this network namespace listens on ``port``. No connection is made.

    Source: proc_pid_net(5): the local address is ``ADDRESS:PORT`` in hexadecimal, and state 0A is LISTEN.
    """
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if table.is_file():
            for line in table.read_text(encoding="ascii").splitlines()[1:]:
                _, local, _, state = line.split()[:4]
                if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                    return True
    return False
