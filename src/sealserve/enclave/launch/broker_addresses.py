"""Parser for the brokers' addresses in an enclave's manifest."""

import re
from typing import Final

from sealserve.enclave.codes import EnclaveCode

_SEPARATORS: Final = re.compile(r"[,; ]+")


def broker_addresses(text: str) -> list[tuple[str, int]]:
    """Return the hosts and ports of a ``SECRET_PROVISION_SERVERS`` list: ``host1:port1;host2:port2``.

    Source: Gramine 1.9, ``tools/sgx/ra-tls/secret_prov_attest.c``.

    Raises:
        VerificationError: `provisioning.servers`: The list is empty, or a port is not a number from 1 to 65535.
    """
    found = []
    for entry in filter(None, _SEPARATORS.split(text)):
        host, _, port = entry.partition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 2**16:
            raise EnclaveCode.PROVISIONING_SERVERS.error(
                f"SECRET_PROVISION_SERVERS is invalid: expected host:port entries joined by ';', got {text!r}."
            )
        found.append((host, int(port)))
    if not found:
        raise EnclaveCode.PROVISIONING_SERVERS.error(
            f"SECRET_PROVISION_SERVERS is empty: expected host:port entries joined by ';', got {text!r}."
        )
    return found
