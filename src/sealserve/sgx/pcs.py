"""Client of a provisioning certification service: Intel's PCS, or a caching service (PCCS).

The downloaded data is not trusted here. The verification of a quote also verifies the collateral.

Source: Intel PCS API version 4, https://api.portal.trustedservices.intel.com/content/documentation.html.
"""

import re
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self, cast

import httpx

from sealserve.addresses import is_loopback
from sealserve.ca_file import trust_only
from sealserve.http_answer import (
    HttpEncodingError,
    HttpFailedError,
    HttpSizeError,
    HttpSlowError,
    no_cookies,
    request,
)
from sealserve.regular_file import InputFileError
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.collateral_documents import MAX_DOCUMENT_SIZE
from sealserve.sgx.collateral_folder import CollateralFolder, Reply
from sealserve.sgx.collateral_requests import Document, documents_for
from sealserve.sgx.document_cache import Cached, DocumentCache
from sealserve.sgx.pck import PckChain
from sealserve.sgx.pcs_responses import Listed, Signed
from sealserve.sgx.trust_anchor import TrustAnchor
from sealserve.terms import INTEL_PCS, CollateralUpdate

INTEL_ROOT_CRL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
API: Final = "/sgx/certification/v4"
"""The path of the API, for Intel's service and for a PCCS."""
MAX_AGE: Final = timedelta(days=1)
"""The longest time until a document is refreshed. A PCCS refreshes its own cache once a day by default."""
_OTHER_VERSION: Final = re.compile(r"/sgx/certification/(v(?!4\b)\w*)", re.IGNORECASE)


class PcsClient:
    """Downloads collateral over HTTP and caches it (see `sealserve.sgx.document_cache`). Several threads may use it.

    Args:
        base_url: ``https://host[:port]``, with or without the path ``/sgx/certification/v4``.
        root_crl_url: The URL of the root's revocation list. `None` means Intel's URL for Intel's PCS, else
            ``/rootcacrl``.
        http: The HTTP client to use. `None` creates one.
        ca_file: The CA certificates (PEM) for the server's certificate, for a PCCS with a private certificate. `None`
            means the system's CA certificates.
        anchor: The trusted root. Documents that the vendor did not sign are rejected before they are cached. `None`
            omits this check, and only the verification of the quote checks the documents.
        folder: The folder in which documents are stored for the next start. `None` stores nothing.
        update: The update channel. The documents of the two channels are cached separately.
        timeout: The timeout of each step of a request, in seconds.
        total: The timeout of a whole request, in seconds.
        max_age: The longest time until a document is refreshed. The default is one day.
        clock: Returns the current time.

    Raises:
        InputError: `pcs.url` if ``base_url`` is not an HTTP URL, or names another version of the API.
        InputError: `pcs.ca-file` if ``ca_file`` does not contain a PEM certificate.
    """

    def __init__(
        self,
        base_url: str = INTEL_PCS,
        *,
        root_crl_url: str | None = None,
        http: httpx.Client | None = None,
        ca_file: Path | None = None,
        anchor: TrustAnchor | None = None,
        folder: Path | None = None,
        update: CollateralUpdate = CollateralUpdate.STANDARD,
        timeout: float = 10.0,
        total: float = 30.0,
        max_age: timedelta = MAX_AGE,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        base = base_url.rstrip("/").removesuffix(API)
        host = _host(base)
        self._api = base + API
        self._root_crl_url = root_crl_url or (INTEL_ROOT_CRL if base == INTEL_PCS else f"{self._api}/rootcacrl")
        self._owns_http = http is None
        self._proxies = not is_loopback(host)
        # trust_env: use proxies, and SSL_CERT_FILE
        self._http = http or httpx.Client(
            timeout=timeout, trust_env=self._proxies, verify=_trust(ca_file), cookies=no_cookies()
        )
        self._total = total
        self._update = update
        self._clock = clock
        self._cache = DocumentCache(
            self._download,
            anchor=anchor,
            folder=None if folder is None else CollateralFolder(folder),
            max_age=max_age,
            patience=2 * total,  # a download may have to wait for another download
            clock=clock,
        )

    def cached_for(self, pck: PckChain) -> Collateral | None:
        """Return the collateral without waiting, or `None` if a document must be downloaded first."""
        values = [self._cache.cached(document) for document in documents_for(pck, self._update)]
        return None if None in values else _collateral(*cast(list[Signed | Listed], values))

    def collateral_for(self, pck: PckChain) -> Collateral:
        """Return the collateral for the platform of a PCK certificate.

        Check the chain first (`PckChain.check`). Otherwise any client could trigger arbitrary downloads.

        Raises:
            UnavailableError: `pcs.unreachable` if the service does not reply.
            UnavailableError: `pcs.too-slow` if the reply is not complete in time.
            UnavailableError: `pcs.not-found` if the service lacks collateral for this kind of platform.
            UnavailableError: `pcs.status` if the service replies with an error.
            VerificationError: The reply violates the specification.
        """
        # Ask for the TCB info first. A service that does not support this kind of platform is then asked only once.
        first, *others = documents_for(pck, self._update)
        tcb_info = self._cache.get(first)
        # Download the other documents at the same time, and wait for each of them.
        self._cache.start(others)
        return _collateral(tcb_info, *map(self._cache.get, others))

    def forget(self, pck: PckChain) -> None:
        """Download the collateral of this platform again for the next request. Call this after it failed to verify.

        The documents stay in the cache for the case that the service is down. Each document is downloaded again at most
        once a minute, so that a service with invalid documents is not asked for each quote.
        """
        self._cache.distrust(documents_for(pck, self._update))

    def refresh(self, document: Document) -> Signed | Listed:
        """Download a document now, and return it. The document names its update channel.

        Raises:
            SealserveError: The errors of `collateral_for`.
        """
        return self._cache.refresh(document)

    def kept(self) -> Mapping[str, tuple[datetime, datetime]]:
        """Return the download time and the next-update time of each cached document, by its URL."""
        return {self._url(document): _times(cached) for document, cached in self._cache.all().items()}

    def wait(self, seconds: float) -> None:
        """Wait until no download is in progress, for at most ``seconds``."""
        self._cache.wait(seconds)

    def close(self) -> None:
        """Close the connections, unless the caller supplied the HTTP client."""
        self._cache.close()
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _url(self, document: Document) -> str:
        return document.url(self._api, self._root_crl_url)

    def _download(self, document: Document) -> Reply:
        url = self._url(document)
        try:
            with request(self._http, "GET", url, seconds=self._total) as answer:
                _check_status(url, answer.status)
                body = answer.body(MAX_DOCUMENT_SIZE, gunzip=True)
                return Reply(url=url, fetched=self._clock(), body=body, headers=answer.headers)
        except HttpFailedError as error:
            raise SgxCode.PCS_UNREACHABLE.error(
                f"The collateral cannot be downloaded from {url}: {_small(error.message)}",
                hint=self._hint(error),
            ) from error
        except HttpSlowError as error:
            raise SgxCode.PCS_TOO_SLOW.error(
                f"The download of collateral from {url} is too slow: {_small(error.message)}",
                hint="Check the load of the PCS or PCCS and the network connection, then try again.",
            ) from error
        except HttpSizeError as error:
            raise SgxCode.COLLATERAL_MALFORMED.error(
                f"The reply of {url} is too large: expected at most {MAX_DOCUMENT_SIZE} bytes."
            ) from error
        except HttpEncodingError as error:
            raise SgxCode.PCS_STATUS.error(
                f"The reply of {url} is invalid: {_small(error.message)}", hint=error.hint
            ) from error

    def _hint(self, error: HttpFailedError) -> str:
        if "CERTIFICATE_VERIFY_FAILED" in error.message:
            return (
                "Set broker.collateral_ca_file to the PEM file of the CA that issued the certificate of the PCCS. "
                "A self-signed certificate is its own CA."
            )
        if self._owns_http and self._proxies and (proxies := urllib.request.getproxies()):
            names = ", ".join(f"{scheme}_proxy" for scheme in sorted(proxies))
            return f"Check the address and the proxy: the environment sets {names}."
        return "Check the address, and that the PCS or PCCS is running and reachable from this machine."


def _collateral(
    tcb_info: Signed | Listed, qe_identity: Signed | Listed, pck_crl: Signed | Listed, root_crl: Signed | Listed
) -> Collateral:
    assert isinstance(tcb_info, Signed) and isinstance(qe_identity, Signed)  # noqa: S101, PT018  # by their kind
    assert isinstance(pck_crl, Listed) and isinstance(root_crl, Listed)  # noqa: S101, PT018
    return Collateral(
        pck_crl_issuer_chain=pck_crl.chain,
        root_ca_crl=root_crl.crl,
        pck_crl=pck_crl.crl,
        tcb_info_issuer_chain=tcb_info.chain,
        tcb_info=tcb_info.text,
        tcb_info_signature=tcb_info.signature,
        qe_identity_issuer_chain=qe_identity.chain,
        qe_identity=qe_identity.text,
        qe_identity_signature=qe_identity.signature,
    )


def _times(cached: Cached) -> tuple[datetime, datetime]:
    return cached.fetched, cached.value.next_update


def _trust(ca_file: Path | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return trust_only(ca_file)
    except (InputFileError, ssl.SSLError) as error:
        reason = error.reason if isinstance(error, InputFileError) else "it does not contain a PEM certificate"
        raise SgxCode.PCS_CA_FILE.error(
            f"The CA certificate {ca_file} of the PCCS cannot be used: {reason}.",
            hint="Set broker.collateral_ca_file to a PEM file with the CA certificate of the PCCS.",
        ) from error


def _small(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _host(base: str) -> str:
    try:
        url = httpx.URL(base)
    except httpx.InvalidURL as error:
        raise SgxCode.PCS_URL.error(
            f"The address of the PCS is not a valid URL: {base!r}.", hint="Correct broker.collateral_url."
        ) from error
    if (other := _OTHER_VERSION.search(url.path)) is not None:
        raise SgxCode.PCS_URL.error(
            f"The address of the PCS names the wrong version of the API: expected {API}, got {other[1]} in {base!r}.",
            hint="Replace the version in broker.collateral_url with v4. Intel has switched version 3 off.",
        )
    if url.scheme not in ("http", "https") or not url.host:
        raise SgxCode.PCS_URL.error(
            f"The address of the PCS is invalid: expected http:// or https:// and a host, got {base!r}.",
            hint="Correct broker.collateral_url.",
        )
    return url.host


def _check_status(url: str, status: int) -> None:
    if status == httpx.codes.NOT_FOUND:
        raise SgxCode.PCS_NOT_FOUND.error(
            f"The PCS or PCCS does not have the document {url}.",
            hint="Check that the service supports this kind of platform. A PCCS must be able to reach Intel's PCS.",
        )
    if status != httpx.codes.OK:
        raise SgxCode.PCS_STATUS.error(
            f"The PCS or PCCS failed: expected HTTP status 200 for {url}, got {status}.",
            hint="Check the log of the service.",
        )
