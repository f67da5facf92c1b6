"""One client of the proxy: recognize its protocol, open a verified connection, and copy bytes in both directions."""

import asyncio
import contextlib
import logging
import ssl
from http import HTTPStatus
from typing import Final

from sealserve.errors import SealserveError, VerificationError
from sealserve.log_line import fields
from sealserve.proxy import http1
from sealserve.proxy.codes import ProxyCode
from sealserve.proxy.first_bytes import Protocol, check_host, recognize
from sealserve.proxy.http2 import FAILED_PRECONDITION, UNAVAILABLE, MalformedError, Refusal
from sealserve.proxy.upstream import CHUNK, Service, Upstream

_LOG: Final = logging.getLogger(__name__)
_FIRST_BYTES_SECONDS: Final = 30.0
_FIRST_CALL_SECONDS: Final = 10.0
"""How long a refused client has for its first call. gRPC clients connect before they call."""
_LINGER_SECONDS: Final = 2.0
"""How long a refused client's connection stays open, so that it receives the answer."""
_FLUSH_SECONDS: Final = 60.0
"""How long a slow client has to receive the last bytes of the service."""
_LARGEST_DISCARDED: Final = 8 * 2**20


class Relay:
    """A connection of a client.

    Args:
        reader: Bytes from the client.
        writer: Bytes to the client.
        service: The service.
        check_hosts: Whether HTTP/1.1 requests must name this machine or the service.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: Service, *, check_hosts: bool
    ) -> None:
        self._reader, self._writer = reader, writer
        self._service = service
        self._check_hosts = check_hosts
        self._received = b""
        self._protocol: Protocol | None = None
        self.upstream: Upstream | None = None
        self.active = asyncio.get_running_loop().time()
        """The loop's time of the last byte."""

    async def run(self) -> None:
        """Serve the client until one side closes the connection, or the task is canceled."""
        try:
            try:
                # 1. Which API does the client use? No byte leaves this machine before step 3.
                self._protocol = await self._recognize()
                # 2. Open a connection, and verify the enclave at its other end.
                self.upstream = await self._service.open(self._protocol)
            except SealserveError as error:
                await self._refuse(error)
                return
            # 3. Forward the bytes unchanged.
            await self._forward(self.upstream)
        except asyncio.CancelledError:
            self.close()
            raise
        except (OSError, EOFError) as error:
            _LOG.debug("a client's connection was lost: %s", error)
        finally:
            await self._close()

    async def refuse(self, error: SealserveError) -> None:
        """Recognize the client's protocol, and refuse its requests without a connection to the service."""
        try:
            try:
                self._protocol = await self._recognize()
            except SealserveError as invalid:
                error = invalid
            await self._refuse(error)
        except (OSError, EOFError):
            pass
        finally:
            await self._close()

    def close(self) -> None:
        """Close the connection immediately."""
        self._writer.transport.abort()
        if self.upstream is not None:
            self.upstream.writer.transport.abort()

    async def _recognize(self) -> Protocol:
        try:
            async with asyncio.timeout(_FIRST_BYTES_SECONDS):
                while part := await self._reader.read(CHUNK):
                    self._received += part
                    if (found := recognize(self._received)) is not None:
                        if found is Protocol.HTTP1 and self._check_hosts:
                            check_host(self._received, server_name=self._service.tls.server_name)
                        return found
        except TimeoutError as error:
            raise ProxyCode.FIRST_BYTES.error(
                f"The client sent no complete request within {_FIRST_BYTES_SECONDS:.0f} s."
            ) from error
        raise EOFError("the client closed the connection before its first request")

    async def _forward(self, upstream: Upstream) -> None:
        upstream.writer.write(self._received)
        self._received = b""
        up = asyncio.create_task(self._copy(self._reader, upstream.writer))
        down = asyncio.create_task(self._copy(upstream.reader, self._writer))
        try:
            done, _ = await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if up in done and up.exception() is not None:
                # The service may have answered and closed before it received everything: deliver the answer.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LINGER_SECONDS):
                        await asyncio.wait({down})
            if down.done() and isinstance(error := down.exception(), ssl.SSLError):
                _LOG.warning("the service ended a TLS connection: %s", error.reason, extra=fields(code="client.tls"))
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        now = asyncio.get_running_loop().time
        while part := await reader.read(CHUNK):
            writer.write(part)
            await writer.drain()  # a slow receiver slows the sender
            self.active = now()

    async def _refuse(self, error: SealserveError) -> None:
        _LOG.warning("refused a connection: %s", error, extra=fields(code=error.code))
        message = f"sealserve proxy: {error.code}: {error}"
        if self._protocol is Protocol.HTTP2:
            await self._refuse_calls(error, message)
        elif self._received[:1].isalpha():
            self._writer.write(http1.refusal(_status(error), message))
            await self._linger()

    async def _refuse_calls(self, error: SealserveError, message: str) -> None:
        permanent = isinstance(error, VerificationError)
        refusal = Refusal(status=FAILED_PRECONDITION if permanent else UNAVAILABLE, message=message)
        received = self._received
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_FIRST_CALL_SECONDS) as limit:
                while received:
                    self._writer.write(refusal.receive(received))
                    await self._writer.drain()
                    if refusal.answered:  # answer further calls that were sent at the same time
                        limit.reschedule(min(limit.when() or 0, loop.time() + _LINGER_SECONDS))
                    received = await self._reader.read(CHUNK)
        except (MalformedError, TimeoutError):
            pass
        self._writer.write(refusal.goodbye())

    async def _linger(self) -> None:
        """Discard the rest of a request, because a connection with unread bytes is reset before the answer arrives."""
        left = _LARGEST_DISCARDED
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                await self._writer.drain()
                if self._writer.can_write_eof():
                    self._writer.write_eof()
                while left > 0 and (part := await self._reader.read(CHUNK)):
                    left -= len(part)

    async def _close(self) -> None:
        """Close both connections. Bytes from the service are delivered, bytes for it are not."""
        if self.upstream is not None:
            self.upstream.writer.transport.abort()
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._writer.wait_closed()
        self._writer.transport.abort()


def _status(error: SealserveError) -> HTTPStatus:
    match error.code:
        case ProxyCode.HOST:
            return HTTPStatus.FORBIDDEN
        case ProxyCode.FIRST_BYTES:
            return HTTPStatus.BAD_REQUEST
        case ProxyCode.BUSY:
            return HTTPStatus.SERVICE_UNAVAILABLE
        case _:
            return HTTPStatus.BAD_GATEWAY
