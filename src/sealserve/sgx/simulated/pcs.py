"""The simulated vendor's HTTP service, with the paths and formats of Intel's PCS version 4 and of a PCCS.

Source: Intel PCS API version 4; "Design Guide for Intel SGX Provisioning Certificate Caching Service" (rootcacrl).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

from sealserve.sgx.codes import SgxCode
from sealserve.sgx.pck import Fmspc, PckCa
from sealserve.sgx.pcs import API
from sealserve.sgx.simulated.attacks import forge_tcb_info, forged_chain
from sealserve.sgx.simulated.authority import SimulatedStateError
from sealserve.sgx.simulated.background import BackgroundServer
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.vendor import SignedDocument, Vendor
from sealserve.terms import CollateralUpdate

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    body: bytes = b""
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


class PcsServer(BackgroundServer):
    """The simulated PCS. It is bound after construction, and handles requests after `start`.

    Args:
        vendor: The vendor whose documents are served, in their state at each request.
        host: The address to listen on.
        port: The port. 0 selects a free port.
        clock: Returns the current time, which becomes the issue date of documents.
        stolen: Simulates a malicious service that forges TCB info with this platform's PCK key, so that every platform
            appears up to date. `None` serves genuine documents.

    Raises:
        UnavailableError: `pcs.port-taken` if the address is in use or unavailable.
    """

    def __init__(
        self,
        vendor: Vendor,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        stolen: SimulatedPlatform | None = None,
    ) -> None:
        try:
            server = _Server((host, port), _Peer)
        except OSError as error:
            raise SgxCode.PCS_PORT_TAKEN.error(
                f"The simulated PCS cannot listen on {host}:{port}: {error}.",
                hint="Choose another port, or 0 for a free one.",
            ) from error
        server.service = _Service(vendor=vendor, clock=clock, stolen=stolen)
        super().__init__(server)
        self.host = host
        self.port: int = server.server_address[1]

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Service:
    vendor: Vendor
    clock: Callable[[], datetime]
    stolen: SimulatedPlatform | None

    def answer(self, target: str) -> _Answer:
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        now, early = self.clock(), query.get("update") == CollateralUpdate.EARLY
        match url.path.removeprefix(API):
            case "/tcb":
                return self._tcb_info(query.get("fmspc", ""), now, early=early)
            case "/qe/identity":
                return _signed(
                    "enclaveIdentity",
                    self.vendor.qe_identity(now=now, early=early),
                    {"SGX-Enclave-Identity-Issuer-Chain": self.vendor.signing_chain()},
                )
            case "/pckcrl":
                return self._pck_crl(query, now)
            case "/rootcacrl":  # a path of a PCCS, in hexadecimal
                return _Answer(body=self.vendor.root_crl(now=now).hex().encode(), content_type="text/plain")
            case "/IntelSGXRootCA.der":
                return _Answer(body=self.vendor.root_crl(now=now), content_type="application/pkix-crl")
            case _:
                return _Answer(status=HTTPStatus.NOT_FOUND)

    def _tcb_info(self, fmspc: str, now: datetime, *, early: bool) -> _Answer:
        if fmspc.upper() not in self.vendor.fmspcs():
            return _Answer(status=HTTPStatus.NOT_FOUND)
        document, chain = self.vendor.tcb_info(Fmspc(fmspc.upper()), now=now, early=early), self.vendor.signing_chain()
        if self.stolen is not None:
            document, chain = forge_tcb_info(document.text, self.stolen), forged_chain(self.stolen)
        return _signed("tcbInfo", document, {"TCB-Info-Issuer-Chain": chain})

    def _pck_crl(self, query: dict[str, str], now: datetime) -> _Answer:
        try:
            ca = PckCa(query.get("ca", ""))
        except ValueError:
            return _Answer(status=HTTPStatus.BAD_REQUEST)
        return _Answer(
            body=self.vendor.pck_crl(ca, now=now),
            content_type="application/pkix-crl",
            headers=_encoded({"SGX-PCK-CRL-Issuer-Chain": self.vendor.pck_ca_chain(ca)}),
        )


def _signed(name: str, document: SignedDocument, chains: dict[str, str]) -> _Answer:
    # The reply is built as text, because the signature covers exactly the served bytes.
    body = f'{{"{name}":{document.text},"signature":"{document.signature.hex()}"}}'
    return _Answer(body=body.encode(), headers=_encoded(chains))


def _encoded(chains: dict[str, str]) -> dict[str, str]:
    return {name: quote(chain, safe="") for name, chain in chains.items()}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    service: _Service

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002  # socketserver's signature
        _log.warning("simulated PCS: a request failed", exc_info=True)


class _Peer(BaseHTTPRequestHandler):
    server: _Server
    server_version = "sealserve-simulated-pcs"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 10.0

    def do_GET(self) -> None:
        """Handle a GET request."""
        try:
            answer = self.server.service.answer(self.path)
        except ValueError:  # not a URL
            answer = _Answer(status=HTTPStatus.BAD_REQUEST)
        except SimulatedStateError:
            _log.exception("simulated PCS: the vendor's folder is incomplete or invalid")
            answer = _Answer(status=HTTPStatus.INTERNAL_SERVER_ERROR)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's signature
        """Log a request with the logging module instead of writing it to standard error."""
        _log.debug(format, *args)
