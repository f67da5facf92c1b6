"""Client of a provisioning certification service: Intel's PCS, or a caching service (PCCS).

The downloaded data is not trusted here. The verification of a quote also verifies the collateral.

Source: Intel PCS API version 4, https://api.portal.trustedservices.intel.com/content/documentation.html.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self, TypeVar

import httpx

from sealserve.addresses import is_loopback
from sealserve.http_answer import HttpEncodingError, HttpFailedError, HttpSizeError, HttpSlowError, request
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.collateral_documents import MAX_DOCUMENT_SIZE
from sealserve.sgx.pck import PckChain
from sealserve.sgx.pcs_responses import Listed, Signed, read_pck_crl, read_qe_identity, read_root_crl, read_tcb_info
from sealserve.terms import INTEL_PCS

INTEL_ROOT_CRL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
API: Final = "/sgx/certification/v4"
"""The path of the API, for Intel's service and for a PCCS."""
_MAX_CACHED: Final = 256

_T = TypeVar("_T", Signed, Listed)


@dataclass(frozen=True, slots=True)
class _Cached:
    value: Signed | Listed
    fetched: datetime
    until: datetime


class PcsClient:
    """Downloads collateral over HTTP and caches it. Several threads may use it.

    Args:
        base_url: ``https://host[:port]``, with or without the path ``/sgx/certification/v4``.
        root_crl_url: The URL of the root's revocation list. `None` means Intel's URL for Intel's PCS, else
            ``/rootcacrl``.
        http: The HTTP client to use, for example for a PCCS with a private certificate. `None` creates one.
        timeout: The timeout of each step of a request, in seconds.
        total: The timeout of a whole request, in seconds.
        max_age: The maximum age of a cached document. A document is also replaced after its next-update time.
        clock: Returns the current time.

    Raises:
        InputError: `pcs.url` if ``base_url`` is not an HTTP URL.
    """

    def __init__(
        self,
        base_url: str = INTEL_PCS,
        *,
        root_crl_url: str | None = None,
        http: httpx.Client | None = None,
        timeout: float = 10.0,
        total: float = 30.0,
        max_age: timedelta = timedelta(hours=1),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        base = base_url.rstrip("/").removesuffix(API)
        host = _host(base)
        self._api = base + API
        self._root_crl_url = root_crl_url or (INTEL_ROOT_CRL if base == INTEL_PCS else f"{self._api}/rootcacrl")
        self._owns_http = http is None
        self._http = http or httpx.Client(timeout=timeout, trust_env=not is_loopback(host))  # trust_env: use proxies
        self._total = total
        self._max_age = max_age
        self._clock = clock
        self._cache: dict[str, _Cached] = {}
        self._lock = threading.Lock()

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
        tcb_info = self._get(f"{self._api}/tcb?fmspc={pck.extension.fmspc}", read_tcb_info)
        qe_identity = self._get(f"{self._api}/qe/identity", read_qe_identity)
        pck_crl = self._get(f"{self._api}/pckcrl?ca={pck.ca}&encoding=der", read_pck_crl)
        root_crl = self._get(self._root_crl_url, read_root_crl)
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

    def forget(self) -> None:
        """Empty the cache, so that the next request downloads again. Call this after collateral failed to verify."""
        with self._lock:
            self._cache.clear()

    def kept(self) -> Mapping[str, tuple[datetime, datetime]]:
        """Return the download time and the next-update time of each cached document, by its URL."""
        with self._lock:
            return {url: (cached.fetched, cached.value.next_update) for url, cached in self._cache.items()}

    def close(self) -> None:
        """Close the connections, unless the caller supplied the HTTP client."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get(self, url: str, read: Callable[[bytes, Mapping[str, str]], _T]) -> _T:
        now = self._clock()
        with self._lock:
            cached = self._cache.get(url)
        if cached is not None and now <= cached.until:
            return cached.value  # type: ignore[return-value]  # each URL is always parsed by the same function
        value = read(*self._fetch(url))
        with self._lock:
            self._cache.pop(url, None)
            self._cache[url] = _Cached(value, now, min(value.next_update, now + self._max_age))
            while len(self._cache) > _MAX_CACHED:
                del self._cache[next(iter(self._cache))]  # the oldest entry
        return value

    def _fetch(self, url: str) -> tuple[bytes, Mapping[str, str]]:
        try:
            with request(self._http, "GET", url, seconds=self._total) as answer:
                _check_status(url, answer.status)
                return answer.body(MAX_DOCUMENT_SIZE, gunzip=True), answer.headers
        except HttpFailedError as error:
            raise SgxCode.PCS_UNREACHABLE.error(
                f"The collateral cannot be downloaded from {url}: {_small(error.message)}",
                hint="Check the address, and that the PCS or PCCS is running and reachable from this machine.",
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


def _small(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _host(base: str) -> str:
    try:
        url = httpx.URL(base)
    except httpx.InvalidURL as error:
        raise SgxCode.PCS_URL.error(
            f"The address of the PCS is not a valid URL: {base!r}.", hint="Correct broker.collateral_url."
        ) from error
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
