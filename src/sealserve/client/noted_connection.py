"""A TLS connection whose certificate is noted before anything is sent, and the request for evidence on it.

gRPC does not show the certificate of a connection. Behind a load balancer, a second connection may reach another
replica. Therefore the evidence is requested on the noted connection itself: over HTTP/2 (gRPC), or over HTTP/1.1 if
the port serves REST. ALPN selects the protocol.
"""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import DecodeError

from sealserve.attested.evidence import ServiceEvidence
from sealserve.attested.evidence_conversation import PATH, EvidenceRequest, PresentedService
from sealserve.attested.evidence_service_pb2 import EvidenceRequest as RequestMessage
from sealserve.attested.evidence_service_pb2 import EvidenceResponse as ResponseMessage
from sealserve.client.codes import ClientCode
from sealserve.client.connection_fault import (
    DIAGNOSIS_SECONDS,
    HTTP1,
    HTTP2,
    client_fault,
    connection_failure,
    find_fault,
    seconds_left,
)
from sealserve.client.credentials import Credentials, Endpoint, TlsError, check_client, printable
from sealserve.client.single_call import CallRefusedError, ClosedAtOnceError, unary_call
from sealserve.client.tls_context import tls_context
from sealserve.errors import SealserveError
from sealserve.pki.certificate import parse_chain
from sealserve.pki.tls_material import ordered_chain
from sealserve.secret import SecretBytes
from sealserve.serving_interface import EVIDENCE_METHOD

LARGEST_ANSWER: Final = ServiceEvidence.limit
_PROTOBUF_OVERHEAD: Final = 16
_OK: Final = 200
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointTls:
    """The TLS settings of a connection whose end is verified by evidence.

    Args:
        server_name: The name that is sent as SNI.
        ca: The certificate of the authority that must have signed the service's certificate, PEM, or `None`. `None`
            accepts every certificate: then only the evidence protects the connection, which is sufficient.
        certificate: With two-way TLS, the user's certificate and its chain, PEM.
        key: With two-way TLS, the user's private key, PEM.

    Raises:
        SealserveError: As `sealserve.client.credentials.Credentials`.
    """

    server_name: str
    ca: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: SecretBytes | None = None

    def __post_init__(self) -> None:
        check_client(self.server_name, self.certificate, self.key)
        self.authority()

    @classmethod
    def of_credentials(cls, credentials: Credentials) -> Self:
        """Return the settings of a client that also has the service's CA."""
        return cls(
            server_name=credentials.server_name,
            ca=credentials.ca,
            certificate=credentials.certificate,
            key=credentials.key,
        )

    def authority(self) -> Credentials | None:
        """Return the credentials with the CA, or `None` without a CA."""
        if self.ca is None:
            return None
        return Credentials(server_name=self.server_name, ca=self.ca, certificate=self.certificate, key=self.key)

    def chain(self) -> tuple[x509.Certificate, ...]:
        """Return the user's certificate and its issuers; empty with one-way TLS."""
        return () if self.certificate is None else parse_chain(self.certificate)

    def context(self, now: datetime) -> ssl.SSLContext:
        """Return the settings for Python's ``ssl``, without ALPN."""
        # Without a CA, the certificate's issuer proves nothing. The caller compares the key with the verified keyset.
        return tls_context(self.ca, self.certificate, self.key, now)

    def pinned_to(self, certificates: list[bytes], now: datetime) -> grpc.ChannelCredentials:
        """Return gRPC's credentials that accept exactly these service certificates (DER) and no others."""
        if not certificates:
            raise ValueError("gRPC would use the system's authorities without a certificate")
        roots = b"".join(
            x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM) for certificate in certificates
        )
        return grpc.ssl_channel_credentials(
            roots,
            None if self.key is None else self.key.reveal(),
            None if self.certificate is None else ordered_chain(self.certificate, now),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedConnection:
    """An open TLS connection, and the certificate that the peer proved to own. Nothing was sent on it.

    Args:
        stream: The connection.
        endpoint: Its address.
        tls: Its TLS settings.
        certificate: The peer's certificate, DER.
        deadline: The end of the time limit, as `time.monotonic`.
    """

    stream: ssl.SSLSocket
    endpoint: Endpoint
    tls: EndpointTls
    certificate: bytes = field(repr=False)
    deadline: float

    def request_evidence(self) -> PresentedService:
        """Request the evidence for a new nonce on this connection. Nothing in the result is verified.

        After HTTP/1.1, the connection can be used for further requests. After HTTP/2, it must be closed.

        Raises:
            VerificationError: `client.evidence-missing` if the service does not offer evidence; `document.*` if the
                document is malformed.
            UnavailableError: `client.evidence-unavailable` if the service cannot answer now.
            UnreachableError: The connection was lost.
            TlsError: The service rejected the user's certificate.
        """
        request = EvidenceRequest()
        with _explained(self.endpoint, self.tls):
            self.stream.settimeout(seconds_left(self.deadline))
            over_grpc = self.stream.selected_alpn_protocol() == HTTP2.decode()
            content = self._over_http2(request) if over_grpc else self._over_http1(request)
        return request.receive(content, certificate=self.certificate)

    def _over_http2(self, request: EvidenceRequest) -> bytes:
        message = RequestMessage(nonce=request.nonce).SerializeToString()
        limit = LARGEST_ANSWER + _PROTOBUF_OVERHEAD
        try:
            answer = unary_call(self.stream, EVIDENCE_METHOD, message, authority=self.tls.server_name, limit=limit,
                                timeout=lambda: seconds_left(self.deadline))  # fmt: skip
            return ResponseMessage.FromString(answer).evidence
        except DecodeError as error:
            raise _missing(self.endpoint, "its answer is not a message of the protocol") from error
        except ClosedAtOnceError as error:
            raise client_fault("", server_name=self.tls.server_name, chain=self.tls.chain()) from error
        except CallRefusedError as error:
            if error.status in _TEMPORARY:
                raise _unavailable(self.endpoint, f"{error.reason} (gRPC status {error.status})") from error
            raise _missing(self.endpoint, error.reason) from error

    def _over_http1(self, request: EvidenceRequest) -> bytes:
        connection = http.client.HTTPConnection(self.tls.server_name)
        connection.sock = self.stream
        # A limit for the whole answer: `settimeout` limits each part, and a slow peer sends many parts.
        end = threading.Timer(seconds_left(self.deadline), _end, [self.stream])
        end.start()
        try:
            connection.request("GET", f"{PATH}?{request.query}", headers={"Accept": "application/json"})
            answer = connection.getresponse()
            content = answer.read(LARGEST_ANSWER + 1)
        finally:
            end.cancel()
        seconds_left(self.deadline)  # a connection that was ended looks like a short answer
        if answer.status in _BUSY:
            raise _unavailable(self.endpoint, f"HTTP status {answer.status}")
        if answer.status != _OK:
            raise _missing(self.endpoint, f"HTTP status {answer.status}")
        return content


_TEMPORARY: Final = frozenset({None, 1, 4, 8, 10, 13, 14})
"""gRPC's statuses after which a repetition can succeed. Unknown statuses are not final either."""


@contextmanager
def noted_connection(
    endpoint: Endpoint, tls: EndpointTls, *, timeout: float, protocols: tuple[bytes, ...] = (HTTP2, HTTP1)
) -> Iterator[NotedConnection]:
    """Connect with TLS, note the certificate, and close the connection at the end of the block.

    Args:
        endpoint: The address of the service's gRPC or REST port.
        tls: The TLS settings.
        timeout: Seconds for the connection and all requests on it.
        protocols: The offered protocols, by their ALPN names.

    Raises:
        UnreachableError: No connection within ``timeout``.
        TlsError: The handshake failed. The subclass names the reason.
    """
    deadline = time.monotonic() + timeout
    context = tls.context(datetime.now(UTC))
    context.set_alpn_protocols([protocol.decode() for protocol in protocols])
    with ExitStack() as opened:
        with _explained(endpoint, tls):
            plain = opened.enter_context(
                socket.create_connection((endpoint.host, endpoint.port), timeout=seconds_left(deadline))
            )
            plain.settimeout(seconds_left(deadline))
            stream = opened.enter_context(context.wrap_socket(plain, server_hostname=tls.server_name))
        yield noted(stream, endpoint, tls, deadline=deadline)


def noted(stream: ssl.SSLSocket, endpoint: Endpoint, tls: EndpointTls, *, deadline: float) -> NotedConnection:
    """Return an open connection with its certificate.

    Raises:
        TlsError: The peer presented no certificate.
    """
    certificate = stream.getpeercert(binary_form=True)
    if not certificate:
        raise TlsError(f"{endpoint} presented no certificate.", hint="Check the address and the port.")
    return NotedConnection(stream=stream, endpoint=endpoint, tls=tls, certificate=certificate, deadline=deadline)


@contextmanager
def _explained(endpoint: Endpoint, tls: EndpointTls) -> Iterator[None]:
    """Convert failures of sockets, TLS and HTTP to errors with codes."""
    try:
        yield
    except SealserveError:
        raise
    except ssl.SSLCertVerificationError as error:  # only with a CA
        authority = tls.authority()
        fault = find_fault(endpoint, authority, timeout=DIAGNOSIS_SECONDS) if authority else None
        raise fault or _tls_failure(endpoint, error) from error
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        raise connection_failure(endpoint, error) from error
    except ssl.SSLError as error:
        if "ALERT" in (error.reason or "") and ("CERT" in (error.reason or "") or "HANDSHAKE" in (error.reason or "")):
            reason = (error.reason or "").lower().replace("_", " ")
            raise client_fault(reason, server_name=tls.server_name, chain=tls.chain()) from error
        raise _tls_failure(endpoint, error) from error
    except (OSError, http.client.HTTPException) as error:
        raise connection_failure(endpoint, error) from error


def _tls_failure(endpoint: Endpoint, error: ssl.SSLError) -> TlsError:
    return TlsError(
        f"The TLS handshake with {endpoint} failed: {(error.reason or 'unknown reason').lower().replace('_', ' ')}.",
        hint="Check the address and the port.",
    )


def _missing(endpoint: Endpoint, reason: str) -> SealserveError:
    return ClientCode.EVIDENCE_MISSING.error(
        f"The service at {endpoint} does not offer evidence: {printable(reason)}.",
        hint="Do not send an input. Ask the owner whether the service uses attested serving, and check the address.",
    )


def _unavailable(endpoint: Endpoint, reason: str) -> SealserveError:
    return ClientCode.EVIDENCE_UNAVAILABLE.error(
        f"The service at {endpoint} did not answer the request for evidence: {printable(reason)}.",
        hint="Try again later.",
    )


def _end(stream: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(stream, socket.SHUT_RDWR)
