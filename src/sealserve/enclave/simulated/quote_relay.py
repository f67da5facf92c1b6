"""The quote relay of an enclave in gramine-direct: see `sealserve.enclave.relay_address` for the protocol.

The launcher knows the enclave's measurement, so the enclave chooses only the report data.
"""

import contextlib
import hmac
import logging
import socket
import socketserver
import time
from collections.abc import Callable
from typing import Final, Self

from sealserve.attestation.claims import REPORT_DATA_SIZE
from sealserve.enclave.relay_address import LOOPBACK, TOKEN_SIZE, RelayAddress
from sealserve.errors import SealserveError
from sealserve.sgx.simulated.background import BackgroundServer, LimitedThreads

LOGGER: Final = logging.getLogger(__name__)
_PEER_TIMEOUT: Final = 5.0
_REQUEST: Final = TOKEN_SIZE + REPORT_DATA_SIZE


class QuoteRelay(BackgroundServer):
    """The relay of one start of an enclave. It is bound after construction, and runs after `start`.

    Start it after the enclave's process, because starting a process must not copy other threads. Requests wait until
    then.

    Args:
        quote_for: Returns a quote with the given report data. Called in several threads.
        peer_timeout: The timeout for a peer to send its request, in seconds.
    """

    def __init__(self, quote_for: Callable[[bytes], bytes], *, peer_timeout: float = _PEER_TIMEOUT) -> None:
        server = _Server(quote_for, peer_timeout)
        self.address = server.address
        super().__init__(server)

    def __enter__(self) -> Self:
        """Return the relay, which is not started."""
        return self


class _Server(LimitedThreads, socketserver.TCPServer):
    request_queue_size = 64
    what = "quote relay"

    def __init__(self, quote_for: Callable[[bytes], bytes], peer_timeout: float) -> None:
        self.quote_for = quote_for
        self.peer_timeout = peer_timeout
        super().__init__((LOOPBACK, 0), _Peer)
        self.address = RelayAddress.create(self.server_address[1])


class _Peer(socketserver.BaseRequestHandler):
    server: _Server
    request: socket.socket

    def handle(self) -> None:
        request = self._receive()
        token, report_data = request[:TOKEN_SIZE], request[TOKEN_SIZE:]
        if len(request) != _REQUEST or not hmac.compare_digest(token, self.server.address.token):
            LOGGER.warning("quote relay: rejected a request without the token of this start")
            return
        try:
            quote = self.server.quote_for(report_data)
        except SealserveError as error:
            LOGGER.error("error[%s]: %s", error.code, error)  # noqa: TRY400  # one line
            return
        with contextlib.suppress(OSError):  # the enclave may have ended
            self.request.sendall(quote)

    def _receive(self) -> bytes:
        """Return the bytes of the request. They are incomplete if the peer is too slow or disconnects."""
        deadline = time.monotonic() + self.server.peer_timeout  # for the whole request
        received = bytearray()
        with contextlib.suppress(OSError):
            while len(received) < _REQUEST:
                self.request.settimeout(max(deadline - time.monotonic(), 0.001))
                if not (part := self.request.recv(_REQUEST - len(received))):
                    break
                received += part
        self.request.settimeout(self.server.peer_timeout)
        return bytes(received)
