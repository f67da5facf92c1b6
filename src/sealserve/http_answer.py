"""Replies of untrusted HTTP servers: limited in size and time, and decompressed only within a limit.

httpx decodes ``Content-Encoding`` before its caller receives any data, one encoding after the other. With
``gzip, gzip``, 800 bytes can expand to 800 MB of memory. Therefore bodies are read raw here. Requests accept only
``identity``. Any other encoding is rejected, except a single gzip if the caller permits it. It is decompressed within
the limit.

httpx and h11 limit the size of the headers (100 KiB). The deadline limits silence, slow transfers, endless
informational responses, and redirects.

Source: RFC 9110 sections 8.4 (Content-Encoding) and 12.5.3 (Accept-Encoding).
"""

import contextlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpx

from sealserve.errors import UnavailableError
from sealserve.http_cutoff import OWN_CONNECTION, Cutoff

CHUNK_SIZE: Final = 1 << 20
STALLED: Final = 300.0
"""Time limit of a download in seconds: until the reply starts, and then for each MiB."""
MAX_REDIRECTS: Final = 5
"""Maximum number of redirects of a download."""
_GZIP: Final = 31  # the window of zlib for a gzip header (zlib.h, inflateInit2)
_LONGEST_LENGTH: Final = 19  # digits of a Content-Length below 2**63


def no_cookies() -> CookieJar:
    """Return a cookie jar that stores nothing.

    A long-lived client would otherwise keep the cookies of a server, which could recognize the client by them.
    """
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))


class HttpFailedError(UnavailableError):
    """The HTTP server cannot be reached, the connection was lost, or the reply is not valid HTTP."""

    code = "http.failed"


class HttpSlowError(UnavailableError):
    """The HTTP reply was not complete, or made no progress, within its time limit."""

    code = "http.too-slow"


class HttpSizeError(UnavailableError):
    """The HTTP reply exceeds the size limit for its kind of reply."""

    code = "http.too-large"


class HttpEncodingError(UnavailableError):
    """The HTTP reply uses a compression that the request did not accept."""

    code = "http.content-encoding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The status and headers of a reply. Its body can be read once, with `body` or `chunks`.

    Args:
        status: The HTTP status code.
        reason: The reason phrase.
        headers: The headers, with case-insensitive names.
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    _response: httpx.Response
    _cutoff: Cutoff

    @property
    def length(self) -> int | None:
        """The ``Content-Length``, or `None`. It may be wrong: the body can end earlier, or more data can follow."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= _LONGEST_LENGTH else None

    @property
    def next_url(self) -> httpx.URL | None:
        """The redirect target, or `None`."""
        return None if self._response.next_request is None else self._response.next_request.url

    def body(self, limit: int, *, gunzip: bool = False) -> bytes:
        """Return the whole body.

        Args:
            limit: The maximum size in bytes, compressed and decompressed.
            gunzip: Whether a single gzip compression is accepted.

        Raises:
            HttpSizeError: The body exceeds the limit.
            HttpEncodingError: The body is compressed in another way, or the compressed data is damaged.
        """
        if gunzip and _encodings(self.headers) in (["gzip"], ["x-gzip"]):
            return _inflate(self._raw(limit), limit)
        require_identity(self.headers)
        return b"".join(self._raw(limit))

    def chunks(self, limit: int) -> Iterator[bytes]:
        """Yield a large body in pieces. The time limit restarts after each `CHUNK_SIZE` bytes.

        Args:
            limit: The maximum size in bytes.

        Raises:
            HttpSizeError: The body exceeds the limit.
            HttpEncodingError: The body is compressed.
        """
        require_identity(self.headers)
        progress = 0
        for part in self._raw(limit):
            progress += len(part)
            if progress >= CHUNK_SIZE:
                progress = 0
                self._cutoff.prolong()
            yield part

    def _raw(self, limit: int) -> Iterator[bytes]:
        if (self.length or 0) > limit:
            raise _too_large(limit)
        yield from within(limit, self._response.iter_raw())
        require_in_time(self._cutoff)  # a body without length looks complete if its connection was shut down


@contextlib.contextmanager
def request(
    client: httpx.Client,
    method: str,
    url: str | httpx.URL,
    *,
    seconds: float,
    headers: Mapping[str, str] | None = None,
    json: Any = None,
    content: bytes | None = None,
    redirects: int = 0,
    check_redirect: Callable[[httpx.URL], object] = lambda _: None,
) -> Iterator[Answer]:
    """Send a request and yield the reply. The body must be read inside the block.

    Args:
        client: The HTTP client. Its timeouts apply to each step.
        method: ``GET`` or ``POST``.
        url: The URL, relative to the client's ``base_url`` if it has one.
        seconds: The time limit from the connection to the last byte. `Answer.chunks` restarts it.
        headers: Additional headers.
        json: A JSON body.
        content: A body of exactly these bytes, instead of ``json``.
        redirects: The maximum number of redirects. httpx itself would read the complete body of each redirect.
        check_redirect: Called with each redirect target before it is requested. It raises an error to reject the
            target.

    Raises:
        HttpFailedError: The server does not reply, the connection is lost, or the reply is not valid HTTP. The cause is
            omitted if the request had a body or headers, because it contains the request and possibly a secret.
        HttpSlowError: The time limit has passed.
    """
    everything = {"Accept-Encoding": "identity", **OWN_CONNECTION, **(headers or {})}
    secret = json is not None or content is not None or bool(headers)
    with Cutoff(seconds) as cutoff, contextlib.ExitStack() as opened:

        def ask(address: str | httpx.URL) -> httpx.Response:
            asked = client.build_request(
                method, address, headers=everything, json=json, content=content, extensions=cutoff.extensions
            )
            response = client.send(asked, stream=True, follow_redirects=False)
            opened.callback(response.close)
            return response

        with _explained(cutoff, seconds, secret=secret), _odd_names():
            response = ask(url)
        while redirects > 0 and response.next_request is not None:
            redirects -= 1
            response.close()
            check_redirect(response.next_request.url)
            with _explained(cutoff, seconds, secret=secret), _odd_names():
                response = ask(response.next_request.url)
        with _explained(cutoff, seconds, secret=secret):
            yield Answer(
                status=response.status_code, reason=response.reason_phrase, headers=response.headers,
                _response=response, _cutoff=cutoff,
            )  # fmt: skip


def require_identity(headers: Mapping[str, str]) -> None:
    """Check that a reply is not compressed.

    Raises:
        HttpEncodingError: The reply is compressed.
    """
    if encodings := _encodings(headers):
        raise HttpEncodingError(
            f"The reply is compressed ({', '.join(encodings)[:80]}), although the request accepts only identity.",
            hint="Turn off compression at the server or at the proxy in front of it.",
        )


def require_in_time(cutoff: Cutoff) -> None:
    """Check that the time limit of a reply has not passed.

    Raises:
        HttpSlowError: The time limit has passed, and the connection was shut down.
    """
    if cutoff.passed:
        raise _too_slow(cutoff.seconds)


def within(limit: int, parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the parts of a body as long as their total size is at most ``limit`` bytes.

    Raises:
        HttpSizeError: The body exceeds the limit.
    """
    size = 0
    for part in parts:
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        yield part


@contextlib.contextmanager
def _explained(cutoff: Cutoff, seconds: float, *, secret: bool) -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        if cutoff.passed:
            raise _too_slow(seconds) from None
        reason = type(error).__name__
        if not (secret and isinstance(error, httpx.LocalProtocolError)):  # h11 quotes a header that it cannot send
            reason += f": {str(error).rstrip('.') or 'no reason was reported'}"
        raise HttpFailedError(f"The server did not reply ({reason}).") from (None if secret else error)


@contextlib.contextmanager
def _odd_names() -> Iterator[None]:
    try:
        yield
    except UnicodeError as error:  # httpx accepts host names that Python's IDNA codec rejects
        raise httpx.LocalProtocolError(f"invalid host name or header: {error}") from error


def _encodings(headers: Mapping[str, str]) -> list[str]:
    listed = [name.strip().lower() for name in headers.get("Content-Encoding", "").split(",")]
    return [name for name in listed if name not in {"", "identity"}]


def _inflate(parts: Iterator[bytes], limit: int) -> bytes:
    inflater, content = zlib.decompressobj(_GZIP), bytearray()
    try:
        for part in parts:
            content += inflater.decompress(part, limit + 1 - len(content))
            if len(content) > limit:
                raise _too_large(limit)
    except zlib.error as error:
        raise HttpEncodingError(f"The compressed reply is damaged: {error}.") from error
    if not inflater.eof or inflater.unused_data:
        raise HttpEncodingError("The compressed reply is damaged: it is truncated, or data follows its end.")
    return bytes(content)


def _too_large(limit: int) -> HttpSizeError:
    return HttpSizeError(f"The reply has more than {limit:,} bytes.", hint="Check that the address is correct.")


def _too_slow(seconds: float) -> HttpSlowError:
    return HttpSlowError(
        f"The reply was not complete within {seconds:g} s.",
        hint="Check whether the server or the network connection is overloaded.",
    )
