"""IP addresses: parsing, loopback addresses, and the addresses that stand for all addresses of this machine."""

import ipaddress
import socket

from sealserve.terms import EVERY_ADDRESS, EVERY_IPV4_ADDRESS


def usable_address(listen: str) -> str:
    """Return the address to listen on: ``0.0.0.0`` instead of ``::`` (all addresses) if the kernel lacks IPv6.

    A kernel with the boot option ``ipv6.disable=1`` rejects every IPv6 socket. A program that listens on ``::`` for
    both address families would not start there.
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
    """Return whether a host is this machine itself, so that connections need no network and no proxy."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def with_port(host: str, port: int) -> str:
    """Return ``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
