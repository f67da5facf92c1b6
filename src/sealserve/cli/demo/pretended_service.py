"""A service that an attacker pretends to be: it answers requests for evidence with whatever the attacker chose."""

import http.server
import socket
import ssl
import threading
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from sealserve.attested.evidence_conversation import PARAMETER, parse_nonce
from sealserve.cli.demo.between import ending

HTTP: Final = "http/1.1"


class PretendedService:
    """An HTTPS server on a free port of this machine. Use it as a context manager.

    Args:
        chain_pem: The attacker's certificate, PEM.
        key_pem: Its private key, PEM.
        answer: Returns the evidence for a user's nonce.
    """

    def __init__(self, chain_pem: bytes, key_pem: bytes, answer: Callable[[bytes], bytes]) -> None:
        self._server = _Server(ending(chain_pem, key_pem, protocol=HTTP), answer)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def address(self) -> str:
        """Where users connect."""
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, context: ssl.SSLContext, answer: Callable[[bytes], bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self._context = context

    def get_request(self) -> tuple[socket.socket, Any]:
        plain, address = self.socket.accept()
        return self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore users that end a connection."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name in the base class
        """Log nothing."""

    def do_GET(self) -> None:
        """Answer a request for evidence."""
        nonce = parse_nonce(parse_qs(urlsplit(self.path).query)[PARAMETER][0])
        content = self.server.answer(nonce)  # type: ignore[attr-defined]  # the server is a `_Server`
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
