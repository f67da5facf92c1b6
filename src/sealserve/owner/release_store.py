"""Fetch a packed release from an HTTPS server, or from an S3-compatible store (also with a pre-signed URL).

The server does not need to be trusted: the release is accepted only if the owner's signature verifies. Plain HTTP is
accepted too. A listener on the network then sees the ciphertext, which the untrusted host sees anyway.
"""

import secrets
from pathlib import Path, PurePosixPath
from typing import Final

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sealserve.atomic_file import PRIVATE, replacing
from sealserve.http_answer import (
    MAX_REDIRECTS,
    STALLED,
    HttpEncodingError,
    HttpFailedError,
    HttpSizeError,
    HttpSlowError,
    request,
)
from sealserve.owner import releases
from sealserve.owner.codes import OwnerCode
from sealserve.owner.releases import VerifiedBundle
from sealserve.workspace import Workspace

_TIMEOUT: Final = httpx.Timeout(60, connect=15)
_LARGEST: Final = 256 * 2**30
"""Maximum size of a packed release in bytes. The limit is needed because a malicious store can send without end."""
_SUFFIX: Final = ".tar"


def fetch(workspace: Workspace, address: str, owner_key: Ed25519PublicKey) -> VerifiedBundle:
    """Fetch a packed release from ``address`` into the host's folder, and verify it.

    If the release is already in the folder, it is only verified.

    Args:
        workspace: The host's workspace.
        address: ``https://...`` or ``http://...``. The last part of the path is the release's name with ``.tar``.
        owner_key: The owner's public key.

    Raises:
        InputError: `release.store-address`: The address is not a valid HTTP or HTTPS address.
        UnavailableError: `release.store-unreachable`: The connection failed, or the answer is incomplete.
        UnavailableError: `release.store-refused`: The server answered with an error or with another document.
        SealserveError: The release does not verify, or the disk is full.
    """
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise OwnerCode.RELEASE_STORE_ADDRESS.error(
            f"The address of the release is invalid: {address!r}: {error}.",
            hint="Give an address such as https://store.example.com/NAME.tar.",
        ) from error
    if url.scheme not in {"https", "http"} or not url.host:
        raise OwnerCode.RELEASE_STORE_ADDRESS.error(
            f"The address of the release is invalid: expected https://HOST/NAME.tar, got {address!r}.",
            hint="Give an address such as https://store.example.com/NAME.tar.",
        )
    name = PurePosixPath(url.path).name
    there = workspace.host.releases / name.removesuffix(_SUFFIX)
    if name.endswith(_SUFFIX) and there.is_dir():
        return releases.verify(there, owner_key)
    workspace.host.releases.mkdir(parents=True, exist_ok=True)
    tar = workspace.host.releases / f".{secrets.token_hex(6)}{_SUFFIX}"
    try:
        _download(url, tar)
        return releases.unpack(workspace, tar, owner_key)
    finally:
        tar.unlink(missing_ok=True)


def _download(url: httpx.URL, tar: Path) -> None:
    shown = url.copy_with(query=None, userinfo=b"")  # a pre-signed URL contains a credential, so hide its query
    try:
        with (
            replacing(tar, mode=PRIVATE) as stream,
            httpx.Client(timeout=_TIMEOUT) as client,
            request(client, "GET", url, seconds=STALLED, redirects=MAX_REDIRECTS) as answer,
        ):
            if answer.status != httpx.codes.OK:
                raise OwnerCode.RELEASE_STORE_REFUSED.error(
                    f"The release cannot be fetched: {shown} answered with the status {answer.status} {answer.reason}.",
                    hint="Upload the file from `sealserve release pack` to this address. A pre-signed URL may have "
                    "expired: create a new one.",
                )
            for chunk in answer.chunks(_LARGEST):
                stream.write(chunk)
    except (HttpSizeError, HttpEncodingError) as error:
        raise OwnerCode.RELEASE_STORE_REFUSED.error(
            f"The answer of {shown} is not a packed release: {error.message}",
            hint="Upload the file from `sealserve release pack` to this address, without a Content-Encoding.",
        ) from error
    except (HttpFailedError, HttpSlowError) as error:
        raise OwnerCode.RELEASE_STORE_UNREACHABLE.error(
            f"Fetching {shown} failed: {error.message}",
            hint="Check that this machine can resolve the name, and that a firewall does not block the connection.",
        ) from error
