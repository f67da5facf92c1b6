"""Answers of HTTP servers that are not trusted: bounded in size and time, and never inflated without a bound.

httpx decodes ``Content-Encoding`` before its caller sees a byte, each encoding of a list on top of the other: with
``gzip, gzip``, 800 bytes become 800 MB of memory. So bodies are read raw here. Only ``identity`` is asked for, and what
a server sends all the same is refused, except one gzip where the caller allows it: it is inflated within the limit.

What httpx and h11 bound themselves: the headers (100 KiB). What the deadline bounds: silence, slow drips, informational
answers without end, redirects.

Source: RFC 9110 sections 8.4 (Content-Encoding) and 12.5.3 (Accept-Encoding).
"""

import contextlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from sealserve.errors import UnavailableError
from sealserve.http_cutoff import OWN_CONNECTION, Cutoff

CHUNK_SIZE: Final = 1 << 20
STALLED: Final = 300.0
"""Seconds for a download: until the server begins to answer, and for each MiB after that."""
MAX_REDIRECTS: Final = 5
"""For a download."""
_GZIP: Final = 31  # the window of zlib for a gzip header (zlib.h, inflateInit2)
_LONGEST_LENGTH: Final = 19  # digits of a Content-Length below 2**63


class HttpFailedError(UnavailableError):
    """The server cannot be reached, the connection broke, or what it sends is not HTTP."""

    code = "http.failed"


class HttpSlowError(UnavailableError):
    """The answer does not come to an end, or makes no progress, in the time that it has."""

    code = "http.too-slow"


class HttpSizeError(UnavailableError):
    """The answer is larger than such an answer can be."""

    code = "http.too-large"


class HttpEncodingError(UnavailableError):
    """The answer is compressed in a way that was not asked for."""

    code = "http.content-encoding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The beginning of an answer. Its body is read by `body` or `chunks`, once.

    Args:
        status: HTTP status.
        reason: Reason phrase.
        headers: Headers; names are compared without regard to case.
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    _response: httpx.Response
    _cutoff: Cutoff

    @property
    def length(self) -> int | None:
        """The ``Content-Length``, if the server says one. It may lie: the connection ends before, or more comes."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= _LONGEST_LENGTH else None

    @property
    def next_url(self) -> httpx.URL | None:
        """Where the server redirects to, if it does."""
        return None if self._response.next_request is None else self._response.next_request.url

    def body(self, limit: int, *, gunzip: bool = False) -> bytes:
        """Return the whole body.

        Args:
            limit: How many bytes it may have, compressed and inflated.
            gunzip: Whether it may be compressed with gzip, once.

        Raises:
            HttpSizeError: It is larger.
            HttpEncodingError: It is compressed in another way, or the compressed data is damaged.
        """
        if gunzip and _encodings(self.headers) in (["gzip"], ["x-gzip"]):
            return _inflate(self._raw(limit), limit)
        require_identity(self.headers)
        return b"".join(self._raw(limit))

    def chunks(self, limit: int) -> Iterator[bytes]:
        """Yield a large body piece by piece. The time starts again with each `CHUNK_SIZE` bytes.

        Args:
            limit: How many bytes it may have.

        Raises:
            HttpSizeError: It is larger.
            HttpEncodingError: It is compressed.
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
        require_in_time(self._cutoff)  # an answer that ends with its connection looks whole


@contextlib.contextmanager
def request(
    client: httpx.Client,
    method: str,
    url: str | httpx.URL,
    *,
    seconds: float,
    headers: Mapping[str, str] | None = None,
    json: Any = None,
    redirects: int = 0,
    check_redirect: Callable[[httpx.URL], object] = lambda _: None,
) -> Iterator[Answer]:
    """Send a request and yield the answer, whose body is to be read in the block.

    Args:
        client: Its timeouts are those of each step.
        method: ``GET`` or ``POST``.
        url: Relative to the client's ``base_url``, if it has one.
        seconds: For everything, from the connection to the last byte; `Answer.chunks` starts it again.
        headers: Further headers.
        json: A body.
        redirects: How many redirects are followed. httpx itself would read the whole body of each one.
        check_redirect: Called with each address before it is asked; raises if that is not to be.

    Raises:
        HttpFailedError: Nobody answers, the connection breaks, or the answer is not HTTP. The cause is left out if
            there was a body or headers: it holds the request, which may hold a secret.
        HttpSlowError: The time is over.
    """
    everything = {"Accept-Encoding": "identity", **OWN_CONNECTION, **(headers or {})}
    secret = json is not None or bool(headers)
    with Cutoff(seconds) as cutoff, contextlib.ExitStack() as opened:

        def ask(address: str | httpx.URL) -> httpx.Response:
            asked = client.build_request(method, address, headers=everything, json=json, extensions=cutoff.extensions)
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
    """Check that an answer is not compressed.

    Raises:
        HttpEncodingError: It is.
    """
    if encodings := _encodings(headers):
        raise HttpEncodingError(
            f"The answer is compressed ({', '.join(encodings)[:80]}), and Accept-Encoding was identity.",
            hint="Turn compression off at that server, or at the proxy in front of it.",
        )


def require_in_time(cutoff: Cutoff) -> None:
    """Check that the time for an answer is not over.

    Raises:
        HttpSlowError: It is, and the connection was shut down.
    """
    if cutoff.passed:
        raise _too_slow(cutoff.seconds)


def within(limit: int, parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the parts of a body while they have at most ``limit`` bytes together.

    Raises:
        HttpSizeError: The body is larger.
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
            reason += f": {str(error).rstrip('.') or 'no reason is given'}"
        raise HttpFailedError(f"No answer ({reason}).") from (None if secret else error)


@contextlib.contextmanager
def _odd_names() -> Iterator[None]:
    try:
        yield
    except UnicodeError as error:  # httpx accepts host names that Python's codec for names refuses
        raise httpx.LocalProtocolError(f"not a host name, or not a header: {error}") from error


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
        raise HttpEncodingError(f"The compressed answer is damaged: {error}.") from error
    if not inflater.eof or inflater.unused_data:
        raise HttpEncodingError("The compressed answer is damaged: it is cut off, or something follows its end.")
    return bytes(content)


def _too_large(limit: int) -> HttpSizeError:
    return HttpSizeError(f"The answer has more than {limit:,} bytes.", hint="Check that the address is right.")


def _too_slow(seconds: float) -> HttpSlowError:
    return HttpSlowError(
        f"No whole answer within {seconds:g} s.",
        hint="Check whether the server, or the network between, is overloaded.",
    )
