"""Ports of this machine."""

import socket

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


def answers(port: int, address: str = "127.0.0.1") -> bool:
    """Return whether something accepts connections on ``port``."""
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False
