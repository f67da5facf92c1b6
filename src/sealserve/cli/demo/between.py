"""A machine between two peers: it records what it forwards, and can end TLS on both sides with its own keys.

Without TLS, it is the packet capture of a host. With TLS, it is an active attacker: it sees the plaintext if both peers
accept it.
"""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self

from sealserve.memory_file import memory_file

_PIECE: Final = 64 * 1024
_HOST: Final = "127.0.0.1"
_START_SECONDS: Final = 10.0


class Between:
    """Forwards connections from a free port to a peer, and records the bytes. Use it as a context manager.

    Args:
        peer: Host and port of the peer.
        end: The attacker's TLS settings towards clients, or None to forward the bytes of TLS unchanged.
        begin: The attacker's TLS settings towards the peer, or None likewise.
        name: The peer's TLS server name, with ``begin``.
    """

    def __init__(
        self,
        peer: tuple[str, int],
        *,
        end: ssl.SSLContext | None = None,
        begin: ssl.SSLContext | None = None,
        name: str | None = None,
    ) -> None:
        self._peer, self._end, self._begin, self._name = peer, end, begin, name
        self._from_client, self._from_peer = bytearray(), bytearray()
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="between", daemon=True)
        self.port = 0

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"{_HOST}:{self.port}"

    @property
    def sent(self) -> bytes:
        """What clients sent, as far as it was read: plaintext, if the attacker ends TLS."""
        return bytes(self._from_client)

    @property
    def answered(self) -> bytes:
        """What the peer answered."""
        return bytes(self._from_peer)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._accept, _HOST, 0, ssl=self._end))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, task: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(task, self._loop).result(timeout=_START_SECONDS)

    async def _stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:  # a closed connection over TLS still waits for its peer
            writer.transport.abort()
        await asyncio.sleep(0)  # lets the transports end

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._forward(reader, writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            to_peer, from_peer = await asyncio.open_connection(*self._peer, ssl=self._begin, server_hostname=self._name)
        except BaseException:
            writer.close()
            raise
        self._writers.append(from_peer)
        copies = [
            asyncio.ensure_future(_copy(reader, from_peer, self._from_client.extend)),
            asyncio.ensure_future(_copy(to_peer, writer, self._from_peer.extend)),
        ]
        try:  # TLS has no half-closed connections: the first end ends both
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)
            writer.close()
            from_peer.close()


async def _copy(
    source: asyncio.StreamReader, destination: asyncio.StreamWriter, record: Callable[[bytes], None]
) -> None:
    while data := await source.read(_PIECE):
        record(data)
        destination.write(data)
        await destination.drain()


def ending(chain_pem: bytes, key_pem: bytes, *, protocol: str) -> ssl.SSLContext:
    """Return TLS settings with which an attacker ends clients' connections.

    Args:
        chain_pem: The certificate that the attacker presents, and its issuers, PEM.
        key_pem: The private key of the certificate, PEM.
        protocol: The ALPN name of the protocol.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([protocol])
    _load(context, chain_pem, key_pem)
    return context


def beginning(*, protocol: str, chain_pem: bytes | None = None, key_pem: bytes | None = None) -> ssl.SSLContext:
    """Return TLS settings with which an attacker connects to a peer. The attacker does not verify the peer.

    Args:
        protocol: The ALPN name of the protocol.
        chain_pem: The attacker's client certificate, PEM, or None.
        key_pem: Its private key, PEM, or None.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([protocol])
    if chain_pem is not None and key_pem is not None:
        _load(context, chain_pem, key_pem)
    return context


def _load(context: ssl.SSLContext, chain_pem: bytes, key_pem: bytes) -> None:
    with memory_file(chain_pem) as chain, memory_file(key_pem) as key:
        context.load_cert_chain(chain, key)
