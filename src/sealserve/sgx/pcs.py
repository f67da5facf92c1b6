"""Client of a provisioning certification service: Intel's PCS, or a caching one (PCCS).

Nothing that it fetches is believed here: whoever verifies a quote with it verifies it too.

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
"""Where the service has its API: Intel's, and a PCCS."""
_MAX_CACHED: Final = 256

_T = TypeVar("_T", Signed, Listed)


@dataclass(frozen=True, slots=True)
class _Cached:
    value: Signed | Listed
    fetched: datetime
    until: datetime


class PcsClient:
    """Fetches collateral over HTTP and keeps it for a while. It may be used by several threads.

    Args:
        base_url: ``https://host[:port]``, with ``/sgx/certification/v4`` after it or not.
        root_crl_url: Where the root's revocation list is; by default Intel's for Intel's PCS, else ``/rootcacrl``.
        http: The HTTP client to use instead of an own one: for a PCCS with a private certificate, for instance.
        timeout: Seconds to wait for each step of a request.
        total: Seconds for a whole request.
        max_age: How long an answer is used again, if its next update is not due before.
        clock: Says what time it is.

    Raises:
        InputError: `pcs.url`: ``base_url`` is not an HTTP address.
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
        self._http = http or httpx.Client(timeout=timeout, trust_env=not is_loopback(host))  # trust_env: proxies
        self._total = total
        self._max_age = max_age
        self._clock = clock
        self._cache: dict[str, _Cached] = {}
        self._lock = threading.Lock()

    def collateral_for(self, pck: PckChain) -> Collateral:
        """Return the collateral for the platform of a PCK certificate.

        Check the chain first (`PckChain.check`), or anybody can make us fetch anything.

        Raises:
            UnavailableError: `pcs.unreachable`: No answer.
            UnavailableError: `pcs.too-slow`: No whole answer in time.
            UnavailableError: `pcs.not-found`: This kind of platform is not known there.
            UnavailableError: `pcs.status`: An error for an answer.
            VerificationError: The answer is not as specified.
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
        """Drop everything that is kept, so that the next request goes out: after collateral that did not verify."""
        with self._lock:
            self._cache.clear()

    def kept(self) -> Mapping[str, tuple[datetime, datetime]]:
        """Return when each document that is kept was fetched, and when its next update is due, by its address."""
        with self._lock:
            return {url: (cached.fetched, cached.value.next_update) for url, cached in self._cache.items()}

    def close(self) -> None:
        """Close the connections, unless the HTTP client was given."""
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
            return cached.value  # type: ignore[return-value]  # one URL is always read by the same function
        value = read(*self._fetch(url))
        with self._lock:
            self._cache.pop(url, None)
            self._cache[url] = _Cached(value, now, min(value.next_update, now + self._max_age))
            while len(self._cache) > _MAX_CACHED:
                del self._cache[next(iter(self._cache))]  # the oldest
        return value

    def _fetch(self, url: str) -> tuple[bytes, Mapping[str, str]]:
        try:
            with request(self._http, "GET", url, seconds=self._total) as answer:
                _check_status(url, answer.status)
                return answer.body(MAX_DOCUMENT_SIZE, gunzip=True), answer.headers
        except HttpFailedError as error:
            raise SgxCode.PCS_UNREACHABLE.error(
                f"{url}: {_small(error.message)}",
                hint="Is the address right, and is the PCS or PCCS running and reachable from here?",
            ) from error
        except HttpSlowError as error:
            raise SgxCode.PCS_TOO_SLOW.error(
                f"{url}: {_small(error.message)}", hint="Is the PCS or PCCS overloaded, or the network between?"
            ) from error
        except HttpSizeError as error:
            raise SgxCode.COLLATERAL_MALFORMED.error(
                f"{url}: the answer has more than {MAX_DOCUMENT_SIZE} bytes."
            ) from error
        except HttpEncodingError as error:
            raise SgxCode.PCS_STATUS.error(f"{url}: {_small(error.message)}", hint=error.hint) from error


def _small(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _host(base: str) -> str:
    try:
        url = httpx.URL(base)
    except httpx.InvalidURL as error:
        raise SgxCode.PCS_URL.error(f"PCS: {base!r} is not an address.") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise SgxCode.PCS_URL.error(f"PCS: expected http:// or https:// and a host, got {base!r}.")
    return url.host


def _check_status(url: str, status: int) -> None:
    if status == httpx.codes.NOT_FOUND:
        raise SgxCode.PCS_NOT_FOUND.error(
            f"{url}: not found.", hint="Does this service know platforms of this kind? A PCCS asks Intel for new ones."
        )
    if status != httpx.codes.OK:
        raise SgxCode.PCS_STATUS.error(f"{url}: expected HTTP status 200, got {status}.")
