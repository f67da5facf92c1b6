"""Quotes from the relay of a launcher, in place of the device's ``quote`` file. Only gramine-direct needs it.

The quotes are the simulated vendor's. A broker refuses them for a release of the platform ``sgx``.
"""

import socket
import time
from typing import Final

from sealserve.attester.codes import AttesterCode
from sealserve.enclave.relay_address import LOOPBACK, RelayAddress

RELAY_TIMEOUT: Final = 60.0
"""Seconds for a complete request. The simulated quoting service behind the relay has 30 seconds."""


def relayed_quote(relay: RelayAddress, report_data: bytes, *, limit: int, timeout: float = RELAY_TIMEOUT) -> bytes:
    """Return the relay's response to a request: a quote, or no bytes if the relay created none.

    Args:
        relay: The address of the relay.
        report_data: The 64 bytes of report data.
        limit: The maximum number of bytes to read.
        timeout: Maximum seconds for the request.

    Raises:
        UnavailableError: `attester.quote`: The relay cannot be reached, or did not respond in time.
    """
    deadline = time.monotonic() + timeout
    found = bytearray()
    try:
        with socket.create_connection((LOOPBACK, relay.port), timeout=timeout) as connection:
            connection.sendall(relay.token + report_data)
            while len(found) < limit:
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
                if not (part := connection.recv(limit - len(found))):
                    break
                found += part
    except OSError as error:
        raise AttesterCode.QUOTE.error(
            f"The launcher's quote relay at {relay} did not return a quote: {error.strerror or error}.",
            hint="Read the launcher's log, and check that the simulated platform runs.",
        ) from error
    return bytes(found)
