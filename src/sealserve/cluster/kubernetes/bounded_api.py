"""Limits for answers of an API server, which may be hostile or replaced by a proxy.

By default, urllib3 decompresses each answer without a limit, reads answers of any size, waits as long as
``Retry-After`` requests, and restarts its timeouts with each byte. With this module, an answer must be uncompressed, at
most `MAX_ANSWER` bytes long, and complete in time. Redirects are not followed: API servers do not redirect, and the
request contains a credential.

This module imports urllib3, which is installed only with the ``kubernetes`` extra.

Source: urllib3 documentation, "Advanced Usage", "Customizing pool behavior"; ``urllib3/poolmanager.py``
(``pool_classes_by_scheme``), ``urllib3/connection.py`` (``_new_conn``, which its SOCKS support overrides too).
"""

import io
import socket
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final

from urllib3 import BaseHTTPResponse, HTTPResponse, PoolManager, Retry
from urllib3.exceptions import HTTPError

from sealserve.http_answer import require_identity, require_in_time, within
from sealserve.http_cutoff import Cutoff

MAX_ANSWER: Final = 16 << 20
"""Maximum bytes of an answer. etcd stores objects of at most 1.5 MB. The longest answers list a deployment's pods."""

MAX_LINE: Final = 64 << 10
"""Maximum bytes of a line in a followed log. A longer line is split. Container runtimes split at 16 KiB."""

_PART: Final = 64 << 10
_LONGEST_PAUSE: Final = 5  # seconds; busy API servers request a pause
_OK: Final = range(200, 300)
_cutoff: ContextVar[Cutoff | None] = ContextVar("cutoff", default=None)


class Retries(Retry):
    """A retry policy: one retry, no redirects, and a limit on the pause that the server requests."""

    @classmethod
    def one(cls) -> "Retries":
        """Return the policy for a request."""
        return cls(1, redirect=False)

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        """Return the seconds to wait before the retry."""
        try:
            pause = super().get_retry_after(response)
        except (ValueError, OverflowError, HTTPError):  # too many digits for Python, or not a time
            return None
        return None if pause is None else min(pause, _LONGEST_PAUSE)


def bound(pools: PoolManager, *, seconds: float | None) -> None:
    """Limit what a client library reads through its connection pools.

    Args:
        pools: The library's pools, changed in place.
        seconds: Time limit for a request and its whole answer, including retries. None is for streams: the answer has
            no time limit, and the caller reads its body with `lines`.
    """
    send = pools.urlopen
    pools.pool_classes_by_scheme = {scheme: _watched(pool) for scheme, pool in pools.pool_classes_by_scheme.items()}

    def urlopen(method: str, url: str, **options: Any) -> BaseHTTPResponse:
        options |= {"preload_content": False, "decode_content": False, "redirect": False}
        if seconds is None:
            response = send(method, url, **options)
            return response if response.status in _OK else _whole(response)
        with Cutoff(seconds) as cutoff:
            token = _cutoff.set(cutoff)
            try:
                response = _whole(send(method, url, **options))
            except (HTTPError, OSError):
                require_in_time(cutoff)  # otherwise the timeout looks like a broken connection
                raise
            finally:
                _cutoff.reset(token)
            require_in_time(cutoff)  # an answer without a length seems complete when its connection ends
            return response

    pools.urlopen = urlopen  # type: ignore[method-assign, assignment]


def lines(stream: BaseHTTPResponse) -> Iterator[bytes]:
    """Yield the lines of a stream as they arrive. A line of more than `MAX_LINE` bytes is split.

    Raises:
        HttpEncodingError: The stream is compressed.
    """
    require_identity(stream.headers)
    rest = b""
    for part in _parts(stream):
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield from (line[start : start + MAX_LINE] for start in range(0, len(line) or 1, MAX_LINE))
        if len(rest) > MAX_LINE:
            yield rest[:MAX_LINE]
            rest = rest[MAX_LINE:]
    if rest:
        yield rest


def _whole(response: BaseHTTPResponse) -> HTTPResponse:
    """Return an answer whose body was read within the limits."""
    try:
        require_identity(response.headers)
        body = b"".join(within(MAX_ANSWER, _parts(response)))
    except BaseException:
        response.close()  # do not reuse the connection, because the rest of the answer is unread
        raise
    response.release_conn()
    return HTTPResponse(
        io.BytesIO(body), response.headers, response.status, reason=response.reason,
        version=response.version, preload_content=False, decode_content=False, enforce_content_length=False,
    )  # fmt: skip


def _parts(response: BaseHTTPResponse) -> Iterator[bytes]:
    # Do not use `stream`: it reads the length of a chunk without a limit.
    while part := response.read1(_PART, decode_content=False):
        yield part


def _watched(pools: type) -> type:
    """Return a class of pools whose connections are closed by the current `Cutoff`, from the TLS handshake on."""

    class Connection(pools.ConnectionCls):  # type: ignore[misc, name-defined]
        def _new_conn(self) -> socket.socket:
            made: socket.socket = super()._new_conn()
            if cutoff := _cutoff.get():
                cutoff.watch(made)
            return made

        def request(self, *args: Any, **options: Any) -> None:
            if self.sock is not None and (cutoff := _cutoff.get()):  # a reused connection
                cutoff.watch(self.sock)
            super().request(*args, **options)

    return type(pools.__name__, (pools,), {"ConnectionCls": Connection})
