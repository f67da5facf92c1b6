"""Pinned downloads: over https, of a bounded size, and in place only once the digest is the expected one."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from sealserve.addresses import is_loopback
from sealserve.atomic_file import OutputExistsError, replacing
from sealserve.http_answer import (
    MAX_REDIRECTS,
    STALLED,
    Answer,
    HttpEncodingError,
    HttpFailedError,
    HttpSizeError,
    HttpSlowError,
    request,
)
from sealserve.model.codes import ModelCode

Progress = Callable[[int, int | None], None]
"""Called with the bytes so far, and with all bytes where the server says how many."""

LARGEST = 4 * 2**30
_TIMEOUT = httpx.Timeout(60, connect=20)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedFile:
    """A file with the expected digest.

    Args:
        path: Where it is.
        size: In bytes.
        downloaded: False where it was there already.
    """

    path: Path
    size: int
    downloaded: bool


def fetch(
    url: str,
    destination: Path,
    *,
    sha256: str,
    largest: int = LARGEST,
    progress: Progress | None = None,
) -> FetchedFile:
    """Download ``url`` to ``destination``, unless a file with the expected digest is there already.

    Args:
        url: An https address; http is accepted from this machine itself only.
        destination: Where the file appears, atomically. Its folder must exist.
        sha256: The expected SHA-256, hex.
        largest: The most bytes to accept.
        progress: Called after each chunk.

    Raises:
        InputError: `fetch.insecure-url`: No https address, or one that redirects to something else.
        InputError: `fetch.invalid-digest`: ``sha256`` is no SHA-256.
        OutputExistsError: Another file is there already.
        UnavailableError: `fetch.unreachable`: The server cannot be reached, or the connection broke.
        UnavailableError: `fetch.refused`: The server answers with an error, or redirects without end.
        VerificationError: `fetch.too-large`: More than ``largest`` bytes.
        VerificationError: `fetch.digest-mismatch`: Another digest.
        UnavailableError: `file.disk-full`: There is no room for it.
    """
    expected = sha256.lower()
    if not _DIGEST.fullmatch(expected):
        raise ModelCode.FETCH_INVALID_DIGEST.error(f"{sha256!r} is no SHA-256: 64 hexadecimal digits are expected.")
    address = _checked_url(url)
    if destination.exists():
        return _existing(destination, expected)
    with replacing(destination, overwrite=False) as stream:
        digest, size = hashlib.sha256(), 0
        try:
            with (
                httpx.Client(timeout=_TIMEOUT) as client,
                request(
                    client, "GET", address, seconds=STALLED, redirects=MAX_REDIRECTS,
                    check_redirect=lambda found: _checked_url(str(found), loopback=address.scheme == "http"),
                ) as answer,
            ):  # fmt: skip
                _check_answer(address, answer)
                for chunk in answer.chunks(largest):
                    size += len(chunk)
                    digest.update(chunk)
                    stream.write(chunk)
                    if progress:
                        progress(size, answer.length)
        except HttpSizeError as error:
            raise ModelCode.FETCH_TOO_LARGE.error(
                f"{_shown(address)} has more than the {largest:,} bytes that are allowed."
            ) from error
        except HttpEncodingError as error:
            raise ModelCode.FETCH_REFUSED.error(f"{_shown(address)}: {error.message}", hint=error.hint) from error
        except (HttpFailedError, HttpSlowError) as error:
            raise ModelCode.FETCH_UNREACHABLE.error(
                f"Fetching {_shown(address)} failed: {error.message}",
                hint="Check the network and the proxy settings, and try again.",
            ) from error
        if digest.hexdigest() != expected:
            raise ModelCode.FETCH_DIGEST_MISMATCH.error(
                f"{_shown(address)} has SHA-256 {digest.hexdigest()}, expected {expected}. Nothing was kept.",
                hint="The file was changed, or the digest belongs to another version of it.",
            )
    return FetchedFile(path=destination, size=size, downloaded=True)


def _check_answer(address: httpx.URL, answer: Answer) -> None:
    if answer.next_url is not None:
        raise ModelCode.FETCH_REFUSED.error(f"{_shown(address)} redirects more than {MAX_REDIRECTS} times.")
    if not httpx.codes.is_success(answer.status):
        raise ModelCode.FETCH_REFUSED.error(
            f"{_shown(address)} answers {answer.status} {answer.reason}.", hint="Check the address."
        )


def _checked_url(url: str, *, loopback: bool = True) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ModelCode.FETCH_INSECURE_URL.error("That is no URL.", hint="Give an https address.") from error
    if address.host and (
        address.scheme == "https" or (loopback and address.scheme == "http" and is_loopback(address.host))
    ):
        return address
    raise ModelCode.FETCH_INSECURE_URL.error(
        f"{_shown(address)} is no https address.", hint="A model is fetched over https only."
    )


def _shown(address: httpx.URL) -> str:
    """Return the address without what may be a secret in it: user, password, query."""
    return str(address.copy_with(userinfo=b"", query=None, fragment=None))


def _existing(path: Path, expected: str) -> FetchedFile:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise OutputExistsError(
            f"{path} exists already, with SHA-256 {found} instead of {expected}.", hint="Move it away."
        )
    return FetchedFile(path=path, size=path.stat().st_size, downloaded=False)
