"""Fetch a packed release from a web address: an HTTPS server, or an S3-compatible store's (pre-signed) address.

The address need not be trusted: the release appears only if the owner's signature verifies. So plain HTTP is accepted
as well; it shows the ciphertext to whoever listens, who is no worse a peer than the host.
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
"""How many bytes a packed release may have; a store's answer need not end by itself."""
_SUFFIX: Final = ".tar"


def fetch(workspace: Workspace, address: str, owner_key: Ed25519PublicKey) -> VerifiedBundle:
    """Bring a packed release from ``address`` among those of the host, unless it is there and verifies.

    Args:
        workspace: The host's.
        address: ``https://...`` or ``http://...``; the last part of its path is the release's name and ``.tar``.
        owner_key: The owner's public key.

    Raises:
        InputError: `release.store-address`: It is no such address.
        UnavailableError: `release.store-unreachable`: Nobody answers, or not to the end.
        UnavailableError: `release.store-refused`: The answer is an error.
        SealserveError: What comes does not verify, or there is no room for it.
    """
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise OwnerCode.RELEASE_STORE_ADDRESS.error(f"{address!r} is no address: {error}.") from error
    if url.scheme not in {"https", "http"} or not url.host:
        raise OwnerCode.RELEASE_STORE_ADDRESS.error(
            f"{address!r} is no https address.", hint="Example: https://store.example.com/NAME.tar"
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
    shown = url.copy_with(query=None, userinfo=b"")  # a pre-signed address is a key to the store
    try:
        with (
            replacing(tar, mode=PRIVATE) as stream,
            httpx.Client(timeout=_TIMEOUT) as client,
            request(client, "GET", url, seconds=STALLED, redirects=MAX_REDIRECTS) as answer,
        ):
            if answer.status != httpx.codes.OK:
                raise OwnerCode.RELEASE_STORE_REFUSED.error(
                    f"{shown} answers {answer.status} {answer.reason}.",
                    hint="Put there what `sealserve release pack` writes; a pre-signed address may have expired.",
                )
            for chunk in answer.chunks(_LARGEST):
                stream.write(chunk)
    except (HttpSizeError, HttpEncodingError) as error:
        raise OwnerCode.RELEASE_STORE_REFUSED.error(
            f"{shown} answers with something else than a packed release: {error.message}",
            hint="Put there what `sealserve release pack` writes, without a Content-Encoding.",
        ) from error
    except (HttpFailedError, HttpSlowError) as error:
        raise OwnerCode.RELEASE_STORE_UNREACHABLE.error(
            f"Fetching {shown} failed: {error.message}", hint="Does the name resolve here, and may this place reach it?"
        ) from error
