"""Pinned downloads over https: the size is limited, and the file appears only if its digest is the expected one."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from sealserve.addresses import is_loopback
from sealserve.atomic_file import OutputExistsError, replacing
from sealserve.file_digest import sha256_of
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
"""Called with the number of bytes so far, and with the total, or None if the server does not report it."""

LARGEST = 4 * 2**30
_TIMEOUT = httpx.Timeout(60, connect=20)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedFile:
    """A file with the expected digest.

    Args:
        path: Its path.
        size: Its size in bytes.
        downloaded: Whether it was downloaded now. False if it already existed.
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
    """Download ``url`` to ``destination``, unless a file with the expected digest already exists there.

    Args:
        url: An https URL. A plain http URL is accepted only from this machine (loopback).
        destination: The path where the file appears, atomically. Its folder must exist.
        sha256: The expected SHA-256 in hexadecimal.
        largest: The maximum size in bytes.
        progress: Called after each chunk.

    Raises:
        InputError: `fetch.insecure-url`: The URL is not an https URL, or redirects to one that is not.
        InputError: `fetch.invalid-digest`: ``sha256`` is not a SHA-256 in hexadecimal.
        OutputExistsError: A file with a different digest already exists.
        UnavailableError: `fetch.unreachable`: The server cannot be reached, or the connection broke.
        UnavailableError: `fetch.refused`: The server answers with an error, or redirects too often.
        VerificationError: `fetch.too-large`: The file has more than ``largest`` bytes.
        VerificationError: `fetch.digest-mismatch`: The downloaded file has a different digest.
        UnavailableError: `file.disk-full`: The disk is full.
    """
    expected = sha256.lower()
    if not _DIGEST.fullmatch(expected):
        raise ModelCode.FETCH_INVALID_DIGEST.error(
            f"The digest is not a SHA-256: expected 64 hexadecimal digits, got {sha256!r}."
        )
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
                f"{_shown(address)} is too large: it has more than {largest:,} bytes.",
                hint="Check the URL: a model of this size cannot be fetched.",
            ) from error
        except HttpEncodingError as error:
            raise ModelCode.FETCH_REFUSED.error(f"{_shown(address)}: {error.message}", hint=error.hint) from error
        except (HttpFailedError, HttpSlowError) as error:
            raise ModelCode.FETCH_UNREACHABLE.error(
                f"The download of {_shown(address)} failed: {error.message}",
                hint="Check the network and the proxy settings, and try again.",
            ) from error
        if digest.hexdigest() != expected:
            raise ModelCode.FETCH_DIGEST_MISMATCH.error(
                f"The download of {_shown(address)} does not match: expected SHA-256 {expected}, got "
                f"{digest.hexdigest()}. The file was not stored.",
                hint="Check the URL and the digest: the file was changed, or the digest is of another version.",
            )
    return FetchedFile(path=destination, size=size, downloaded=True)


def _check_answer(address: httpx.URL, answer: Answer) -> None:
    if answer.next_url is not None:
        raise ModelCode.FETCH_REFUSED.error(
            f"The download of {_shown(address)} failed: more than {MAX_REDIRECTS} redirects.", hint="Check the URL."
        )
    if not httpx.codes.is_success(answer.status):
        raise ModelCode.FETCH_REFUSED.error(
            f"The download of {_shown(address)} failed: the server answered {answer.status} {answer.reason}.",
            hint="Check the URL.",
        )


def _checked_url(url: str, *, loopback: bool = True) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ModelCode.FETCH_INSECURE_URL.error(
            "The address is not a valid URL.", hint="Give an https URL."
        ) from error
    if address.host and (
        address.scheme == "https" or (loopback and address.scheme == "http" and is_loopback(address.host))
    ):
        return address
    raise ModelCode.FETCH_INSECURE_URL.error(
        f"{_shown(address)} cannot be fetched: it is not an https URL.",
        hint="Give an https URL. Plain http is accepted only from this machine.",
    )


def _shown(address: httpx.URL) -> str:
    """Return the address without parts that may be secret: user, password, query, fragment."""
    return str(address.copy_with(userinfo=b"", query=None, fragment=None))


def _existing(path: Path, expected: str) -> FetchedFile:
    found = sha256_of(path)
    if found != expected:
        raise OutputExistsError(
            f"{path} already exists with different content: expected SHA-256 {expected}, got {found}.",
            hint="Move the file away, or give a different destination.",
        )
    return FetchedFile(path=path, size=path.stat().st_size, downloaded=False)
