"""An HTTP server that receives signed notifications, and its own verification of their signatures."""

import base64
import hashlib
import hmac
import json
import queue
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

SECRET = b"0123456789abcdef0123456789abcdef"

Handler = BaseHTTPRequestHandler


def write_secret(path: Path, *secrets: bytes) -> Path:
    """Write a file with signing secrets."""
    path.touch(mode=0o600)
    lines = [f"whsec_{base64.b64encode(secret).decode()}\n" for secret in secrets or (SECRET,)]
    path.write_text("".join(lines))
    return path


@dataclass(frozen=True, slots=True)
class Received:
    """A request: its path, its headers with names in lower case, and its body."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    def verifies(self, secret: bytes = SECRET) -> bool:
        """Return whether a signature is valid. RFC 2104 is written out, independently of the code under test."""
        content = b".".join(
            [self.headers["webhook-id"].encode(), self.headers["webhook-timestamp"].encode(), self.body]
        )
        padded = secret.ljust(64, b"\0")
        inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + content).digest()
        outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded) + inner).digest()
        expected = f"v1,{base64.b64encode(outer).decode()}"
        return any(hmac.compare_digest(given, expected) for given in self.headers["webhook-signature"].split(" "))


class WebhookReceiver:
    """A server on a free port. Each request takes the next of ``answers``, or the status 204.

    Args:
        context: The TLS context. `None` means plain HTTP.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.received: queue.Queue[Received] = queue.Queue()
        self.answers: deque[Callable[[Handler], None]] = deque()
        outer = self

        class _Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.received.put(Received(self.path, headers, body))
                try:
                    (outer.answers.popleft() if outer.answers else status(204))(self)
                except OSError:  # the client has closed the connection
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        class _Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), _Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def next(self) -> Received:
        """Return the next request, and wait for it."""
        return self.received.get(timeout=60)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def status(code: int, **headers: str) -> Callable[[Handler], None]:
    """Return an answer without a body."""

    def answer(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer
