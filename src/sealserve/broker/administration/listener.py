"""The listening socket of the administration API."""

import socket
from typing import Final

from sealserve.addresses import usable_address, with_port
from sealserve.broker.codes import BrokerCode
from sealserve.terms import EVERY_ADDRESS

_BACKLOG: Final = 64


def open_listener(listen: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        UnavailableError: `administration.port` if the address cannot be used.
    """
    host = usable_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=host == EVERY_ADDRESS)
    except OSError as error:
        raise BrokerCode.ADMINISTRATION_PORT.error(
            f"The broker cannot serve the administration API on {with_port(host, port)}: {error.strerror or error}.",
            hint="Set broker.admin_port to a free port, or remove the setting to turn remote administration off.",
        ) from error
