"""IP addresses: which text is one, and which ones mean this machine, or every address of it."""

import ipaddress
import socket

from sealserve.terms import EVERY_ADDRESS, EVERY_IPV4_ADDRESS


def usable_address(listen: str) -> str:
    """Return the address to listen on: ``::``, every address, is ``0.0.0.0`` where the kernel has no IPv6.

    A kernel that was started with ``ipv6.disable=1`` refuses every IPv6 socket, so that a program which listens on
    ``::`` for both families would not start.
    """
    return EVERY_IPV4_ADDRESS if listen == EVERY_ADDRESS and not socket.has_dualstack_ipv6() else listen


def is_ip_address(text: str) -> bool:
    """Return whether ``text`` is an IPv4 or IPv6 address rather than a DNS name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, to which no network and no proxy leads."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def with_port(host: str, port: int) -> str:
    """Return ``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
