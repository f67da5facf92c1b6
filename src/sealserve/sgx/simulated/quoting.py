"""The interface to the simulated quoting enclave for the enclaves of this host: a Unix socket in place of aesmd's.

A request is a report (384 bytes). The reply is a status byte, followed by the quote or a message. Each message is sent
as a big-endian u32 length and that number of bytes. Each connection carries one request.
"""

import logging
import os
import socket
import socketserver
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sealserve.atomic_file import PRIVATE
from sealserve.errors import VerificationError
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.report import REPORT_SIZE, EnclaveReport
from sealserve.sgx.simulated.background import BackgroundServer, LimitedThreads
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting_enclave import quote

__all__ = ["QuotingServer", "quote", "request_quote"]

_LENGTH: Final = struct.Struct(">I")
_OK: Final = b"\0"
_REFUSED: Final = b"\1"
_MAX_ANSWER: Final = 1 + 8192  # the maximum size of Gramine's /dev/attestation/quote
_PEER_TIMEOUT: Final = 5.0

_log = logging.getLogger(__name__)


def request_quote(socket_path: Path, report: EnclaveReport, *, timeout: float = 30.0) -> bytes:
    """Request a quote for ``report`` from the quoting enclave at ``socket_path``.

    Args:
        socket_path: The socket of the quoting enclave.
        report: The report to quote.
        timeout: The timeout of connecting, and then of the whole reply, in seconds.

    Raises:
        UnavailableError: `quoting.unavailable` if the quoting enclave does not reply.
        UnavailableError: `quoting.refused` if the quoting enclave rejects the report.
    """
    try:
        with _short(socket_path) as name, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(name)
            _send(connection, report.to_bytes())
            answer = _receive(connection, at_most=_MAX_ANSWER, timeout=timeout)
    except (OSError, _BadPeerError) as error:
        raise SgxCode.QUOTING_UNAVAILABLE.error(
            f"The quoting service at {socket_path} did not return a quote: {error}.",
            hint="Check that the simulated platform is running. On an SGX machine, aesmd has this role.",
        ) from error
    if answer[:1] != _OK:
        raise SgxCode.QUOTING_REFUSED.error(
            f"The quoting service at {socket_path} rejected the report: {answer[1:].decode(errors='replace')}"
        )
    return answer[1:]


class QuotingServer(BackgroundServer):
    """The simulated platform's server at a Unix socket. It is bound after construction, and runs after `start`.

    Args:
        platform: The platform that signs the quotes.
        socket_path: The path of the socket. A stale socket of an ended process is removed.
        mode: The permission bits of the socket.
        peer_timeout: The timeout for a peer to send its request, in seconds.

    Raises:
        UnavailableError: `quoting.socket-taken` if a running server or another kind of file is at the path.
    """

    def __init__(
        self,
        platform: SimulatedPlatform,
        socket_path: Path,
        *,
        mode: int = PRIVATE,
        peer_timeout: float = _PEER_TIMEOUT,
    ) -> None:
        try:
            with _short(socket_path) as name:
                _remove_stale(socket_path, name)
                server = _Server(platform, name, peer_timeout)
        except OSError as error:
            raise SgxCode.QUOTING_SOCKET_TAKEN.error(
                f"The simulated platform cannot listen on {socket_path}: {error}."
            ) from error
        socket_path.chmod(mode)
        super().__init__(server)
        self._path = socket_path
        self._identity = _identity(socket_path)

    def stop(self) -> None:
        """Stop handling requests and remove the socket, unless another server has replaced it."""
        super().stop()
        if self._identity is not None and _identity(self._path) == self._identity:
            self._path.unlink(missing_ok=True)
        self._identity = None


class _BadPeerError(Exception):
    """The other side violated the protocol."""


class _Server(LimitedThreads, socketserver.UnixStreamServer):
    request_queue_size = 64
    what = "simulated quoting enclave"

    def __init__(self, platform: SimulatedPlatform, name: str, peer_timeout: float) -> None:
        self.platform = platform
        self.peer_timeout = peer_timeout
        super().__init__(name, _Peer)


class _Peer(socketserver.BaseRequestHandler):
    server: _Server
    request: socket.socket

    def handle(self) -> None:
        try:
            raw = _receive(self.request, at_most=REPORT_SIZE, timeout=self.server.peer_timeout)
            report = EnclaveReport.parse(raw)
            answer = _OK + quote(self.server.platform, report)
        except VerificationError as error:
            answer = _REFUSED + str(error).encode()
        except (OSError, _BadPeerError) as error:
            _log.warning("simulated quoting enclave: disconnected a peer: %s", error)
            return
        try:
            _send(self.request, answer)
        except OSError as error:
            _log.warning("simulated quoting enclave: a peer disconnected: %s", error)


def _send(connection: socket.socket, message: bytes) -> None:
    connection.sendall(_LENGTH.pack(len(message)) + message)


def _receive(connection: socket.socket, *, at_most: int, timeout: float) -> bytes:
    deadline = time.monotonic() + timeout  # for the whole message, so that slow peers cannot occupy a thread for long
    (length,) = _LENGTH.unpack(_receive_exactly(connection, _LENGTH.size, deadline))
    if length > at_most:
        raise _BadPeerError(f"expected at most {at_most} bytes, got an announcement of {length}")
    return _receive_exactly(connection, length, deadline)


def _receive_exactly(connection: socket.socket, size: int, deadline: float) -> bytes:
    received = bytearray()
    while len(received) < size:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        part = connection.recv(size - len(received))
        if not part:
            raise _BadPeerError(f"the other side closed the connection after {len(received)} of {size} bytes")
        received += part
    return bytes(received)


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield an alternative path of a socket that is short enough for ``sockaddr_un``, at any folder depth."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _remove_stale(path: Path, name: str) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise SgxCode.QUOTING_SOCKET_TAKEN.error(
            f"The simulated platform cannot listen on {path}: the path exists and is not a socket.",
            hint="Remove the file.",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PEER_TIMEOUT)
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            raise SgxCode.QUOTING_SOCKET_TAKEN.error(
                f"The simulated platform cannot listen on {path}: the existing socket cannot be checked ({error})."
            ) from error
    raise SgxCode.QUOTING_SOCKET_TAKEN.error(
        f"The simulated platform cannot listen on {path}: another simulated platform already listens there.",
        hint="Run `sealserve down` to stop it first.",
    )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
