"""The address of the quote relay, with which a launcher gives quotes to an enclave in gramine-direct.

Without SGX, Gramine has no files for quotes below ``/dev/attestation``, and programs in it cannot reach a Unix socket
or a named pipe of the host. So the launcher relays simulated quotes over TCP, on the loopback interface only. Other
users of the machine can reach this port too. Therefore each request begins with a token that the launcher created for
this start.

The launcher adds `RELAY_VARIABLE` to the manifest in memory. No signed manifest may have this variable.

A request is the token (32 bytes) and the report data (64 bytes). The response is the quote, and ends with the
connection. It is empty if no quote can be created.

Source: Gramine 1.9, ``libos/src/fs/dev/attestation.c`` (``user_report_data`` and ``quote`` exist on SGX only),
``Documentation/devel/features.md`` (Unix sockets and named pipes exist only inside of Gramine).
"""

import re
import secrets
from dataclasses import dataclass, field
from typing import Final, Self

RELAY_VARIABLE: Final = "SEALSERVE_QUOTE_RELAY"
LOOPBACK: Final = "127.0.0.1"
TOKEN_SIZE: Final = 32
_FORM: Final = re.compile(r"(?P<port>[1-9][0-9]{0,4})/(?P<token>[0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayAddress:
    """Where a quote relay listens, and the token that it requires.

    Args:
        port: The TCP port on `LOOPBACK`.
        token: 32 random bytes, secret from other users of the machine.
    """

    port: int
    token: bytes = field(repr=False)

    @classmethod
    def create(cls, port: int) -> Self:
        """Return an address with a new token."""
        return cls(port=port, token=secrets.token_bytes(TOKEN_SIZE))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the address in a variable, or None if the text is not an address."""
        found = _FORM.fullmatch(text)
        if found is None or int(found["port"]) >= 2**16:
            return None
        return cls(port=int(found["port"]), token=bytes.fromhex(found["token"]))

    def __str__(self) -> str:
        """Return the place without the token, for messages."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def variable(self) -> str:
        """The value of `RELAY_VARIABLE`. It contains the token."""
        return f"{self.port}/{self.token.hex()}"
