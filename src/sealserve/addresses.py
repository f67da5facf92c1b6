"""IP addresses: which text is one, and which one means every address of this machine."""

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
