"""Find the reason for a failed connection, with a separate TLS handshake after gRPC's handshake has failed.

gRPC reports only "Socket closed" if a server requires a client certificate, and "unavailable" for most other errors.
The separate handshake is only a diagnosis: no request is sent over it, and it never overrides gRPC's own verification.
"""

import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from OpenSSL import SSL, crypto

from sealserve.client.credentials import Credentials, Endpoint, TlsError, describe, printable
from sealserve.errors import SealserveError, UnavailableError
from sealserve.x509_errors import X509_ERRORS

HTTP2 = b"h2"
HTTP1 = b"http/1.1"
DIAGNOSIS_SECONDS = 3.0
"""Time for a diagnosis with `find_fault`."""
_READ_SIZE = 16_384
_REFUSAL_SECONDS = 1.0
_OUTSIDE_DATES = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED (openssl/x509_vfy.h)


class UnreachableError(UnavailableError):
    """The service does not answer at the address."""

    code = "client.unreachable"


class ServiceUntrustedError(TlsError):
    """The service's certificate was not issued by the given authority."""

    code = "client.tls-untrusted"


class ServiceNameError(TlsError):
    """The service's certificate is for another name."""

    code = "client.tls-name"


class ServiceCertificateExpiredError(TlsError):
    """The service's certificate, or the certificate of one of its issuers, has expired or is not valid yet."""

    code = "client.tls-expired"


class CertificateRequiredError(TlsError):
    """The service requires a client certificate, but none was given."""

    code = "client.tls-certificate-required"


class CertificateRefusedError(TlsError):
    """The service does not accept the client's certificate."""

    code = "client.tls-certificate-refused"


class _ClosedError(Exception):
    """The peer closed the connection."""


@dataclass(slots=True)
class _Handshake:
    """The result of a handshake.

    Attributes:
        verification: OpenSSL's verification errors for the service's chain, in order: error number and certificate.
        leaf: The service's certificate, or None if the handshake failed before it was received.
        protocol: The protocol that ALPN selected; empty if none.
        ended: OpenSSL's reason for a failure, "" if the peer closed the connection, or None if the handshake succeeded.
    """

    verification: list[tuple[int, x509.Certificate]] = field(default_factory=list)
    leaf: x509.Certificate | None = None
    protocol: bytes = b""
    ended: str | None = None


def find_fault(
    endpoint: Endpoint, credentials: Credentials, *, timeout: float, protocol: bytes = HTTP2
) -> SealserveError | None:
    """Connect to ``endpoint`` like gRPC or REST, and return the fault, or None if the connection works now.

    Args:
        endpoint: The address of the service.
        credentials: The service's expected name and CA, and the client's certificate.
        timeout: Total time in seconds.
        protocol: The expected protocol, by its ALPN name.
    """
    deadline = time.monotonic() + timeout
    try:
        stream = socket.create_connection((endpoint.host, endpoint.port), timeout=timeout)
    except TimeoutError:
        return UnreachableError(
            f"Connecting to {endpoint} failed: no answer within {timeout:.3g} s.",
            hint="Check the address, and firewalls between this machine and the service.",
        )
    except OSError as error:
        return connection_failure(endpoint, error)
    with stream:
        return _examine(stream, endpoint, credentials, protocol, timeout=timeout, deadline=deadline)


def connection_failure(endpoint: Endpoint, error: Exception) -> UnreachableError:
    """Return the error for a connection that failed or was lost."""
    match error:
        case socket.gaierror():
            return UnreachableError(
                f"The name {endpoint.host} cannot be resolved: {error.strerror}.",
                hint="Check the name, and the DNS settings of this machine.",
            )
        case TimeoutError():
            return UnreachableError(
                f"Connecting to {endpoint} failed: no answer within the time limit.",
                hint="Check the address, and firewalls between this machine and the service.",
            )
    reason = (error.strerror if isinstance(error, OSError) else None) or printable(str(error))
    return UnreachableError(
        f"Connecting to {endpoint} failed: {reason or type(error).__name__}.",
        hint="Check the address, and that the service is running.",
    )


def _examine(
    stream: socket.socket,
    endpoint: Endpoint,
    credentials: Credentials,
    protocol: bytes,
    *,
    timeout: float,
    deadline: float,
) -> SealserveError | None:
    try:
        outcome = _shake_hands(stream, credentials, protocol, deadline)
    except TimeoutError:
        return UnreachableError(
            f"{endpoint} accepts connections, but its TLS did not answer within {timeout:.3g} s.",
            hint="Check that it is a TLS port, and that the service is running.",
        )
    except OSError as error:
        return UnreachableError(
            f"The connection to {endpoint} failed: {error.strerror}.",
            hint="Check the network between this machine and the service.",
        )
    except X509_ERRORS:  # OpenSSL accepts some malformed certificates
        return ServiceUntrustedError(
            f"The certificate presented for {credentials.server_name} is malformed.",
            hint="Check the address: another server than the service answered.",
        )
    return _judge(outcome, endpoint, credentials, protocol)


def _shake_hands(stream: socket.socket, credentials: Credentials, protocol: bytes, deadline: float) -> _Handshake:
    outcome = _Handshake()
    connection = SSL.Connection(_context(credentials, outcome), None)
    connection.set_tlsext_host_name(credentials.server_name.encode())
    connection.set_alpn_protos([protocol])
    connection.set_connect_state()
    try:
        _drive(connection, stream, deadline, connection.do_handshake)
        outcome.protocol = connection.get_alpn_proto_negotiated()
        # With TLS 1.3, the service checks the client certificate after the client's handshake is done. Wait for data:
        # an HTTP/2 server always sends first.
        if outcome.protocol == HTTP2:
            _drive(connection, stream, deadline, lambda: connection.read(1))
        elif protocol == HTTP1:  # an HTTP/1.1 server sends first only to reject the client
            with contextlib.suppress(TimeoutError):
                refusal = min(deadline, time.monotonic() + _REFUSAL_SECONDS)
                _drive(connection, stream, refusal, lambda: connection.read(1))
    except SSL.ZeroReturnError:
        outcome.ended = ""
    except SSL.Error as error:
        outcome.ended = "; ".join(reason for *_, reason in error.args[0]) if error.args else "an error without a name"
    except (_ClosedError, ConnectionError):
        outcome.ended = ""
    outcome.leaf = connection.get_peer_certificate(as_cryptography=True)
    return outcome


def _context(credentials: Credentials, outcome: _Handshake) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    for authority in x509.load_pem_x509_certificates(credentials.ca):
        if (store := context.get_cert_store()) is not None:
            store.add_cert(crypto.X509.from_cryptography(authority))
            store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # like gRPC, trust an intermediate authority

    def note(_: SSL.Connection, certificate: crypto.X509, number: int, __: int, accepted: int) -> bool:
        if not accepted:
            outcome.verification.append((number, certificate.to_cryptography()))
        return True

    context.set_verify(SSL.VERIFY_PEER, note)
    if chain := credentials.chain():
        context.use_certificate(chain[0])
        for issuer in chain[1:]:
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(credentials.private_key())
    return context


def _drive(connection: SSL.Connection, stream: socket.socket, deadline: float, step: Callable[[], object]) -> None:
    """Repeat ``step`` until it completes, and copy bytes between OpenSSL's buffers and the socket."""
    while True:
        try:
            step()
        except SSL.WantReadError:
            _flush(connection, stream, deadline)
        else:
            _flush(connection, stream, deadline)
            return
        stream.settimeout(seconds_left(deadline))
        if not (received := stream.recv(_READ_SIZE)):
            raise _ClosedError
        connection.bio_write(received)


def _flush(connection: SSL.Connection, stream: socket.socket, deadline: float) -> None:
    with contextlib.suppress(SSL.WantReadError):
        while to_send := connection.bio_read(_READ_SIZE):
            stream.settimeout(seconds_left(deadline))
            stream.sendall(to_send)


def seconds_left(deadline: float) -> float:
    """Return the seconds until a deadline on the monotonic clock.

    Raises:
        TimeoutError: It is over.
    """
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    return left


def _judge(outcome: _Handshake, endpoint: Endpoint, credentials: Credentials, protocol: bytes) -> SealserveError | None:
    # 1. Did the service present a certificate?
    if outcome.leaf is None:
        if not outcome.ended:
            return UnreachableError(
                f"{endpoint} closed the connection without a TLS answer for {credentials.server_name}.",
                hint="Check the service's name, because NGINX rejects unknown names, and that a replica is running.",
            )
        return TlsError(
            f"The TLS handshake with {endpoint} failed: {outcome.ended}.", hint="Check the address and the port."
        )
    # 2. Did the authority sign the certificate, and is it valid now? 3. Is the certificate for the service's name?
    if fault := _chain_fault(outcome, credentials) or name_fault(outcome.leaf, credentials.server_name):
        return fault
    # 4. Does the service accept the client? A gRPC service closes the connection of an HTTP/1.1 client.
    silent = protocol == HTTP1 and not outcome.protocol and not outcome.ended
    if outcome.ended is not None and not silent:
        return client_fault(outcome.ended, server_name=credentials.server_name, chain=credentials.chain())
    # 5. Does the service use the expected protocol, gRPC or REST?
    if outcome.protocol != protocol:
        return other_protocol(endpoint, protocol)
    return None


def other_protocol(endpoint: Endpoint, protocol: bytes) -> TlsError:
    """Return the error for a service that does not use the expected protocol."""
    name, api = ("HTTP/2", "gRPC") if protocol == HTTP2 else ("HTTP/1.1", "REST")
    return TlsError(f"{endpoint} supports TLS, but not {name}.", hint=f"Check that it is the service's {api} port.")


def _chain_fault(outcome: _Handshake, credentials: Credentials) -> SealserveError | None:
    name = credentials.server_name
    for number, certificate in outcome.verification:
        if number not in _OUTSIDE_DATES:
            authority = x509.load_pem_x509_certificate(credentials.ca).subject.rfc4514_string()
            return ServiceUntrustedError(
                f"The certificate presented for {name} ({describe(certificate)}) was not issued by the authority "
                f"{printable(authority)} (X.509 verification error {number}).",
                hint="Use the CA certificate from the owner of this service. If you already do, check the address: "
                "another server answered.",
            )
    for _, certificate in outcome.verification:
        first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return ServiceCertificateExpiredError(
            f"The service's certificate ({describe(certificate)}) is not valid now: it is valid from "
            f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC, and it is {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
            hint="Check the clock of this machine. The owner of the service renews the certificate with a new release.",
        )
    return None


def name_fault(leaf: x509.Certificate, server_name: str) -> ServiceNameError | None:
    """Return the error for a certificate without the service's name, or None if it has this name."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        found = []
    else:
        found = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    wanted = server_name.lower()
    if wanted in found or f"*.{wanted.partition('.')[2]}" in found:
        return None
    return ServiceNameError(
        f"The service's certificate is for another name: expected {wanted}, got "
        f"{printable(', '.join(found)) or 'no name'}.",
        hint="Give the service's name from its owner's sealserve.toml (service.name).",
    )


def client_fault(ended: str, *, server_name: str, chain: Sequence[x509.Certificate]) -> TlsError:
    """Return the error for a handshake that the service ended because of the client's certificate.

    Args:
        ended: The TLS library's reason; empty if the service closed the connection.
        server_name: The service's name.
        chain: The client's certificate and its issuers; empty with one-way TLS.
    """
    if not chain:
        return CertificateRequiredError(
            f"{server_name} requires a client certificate (two-way TLS), but none was given.",
            hint="Give the client certificate and its key.",
        )
    how = ended or "it closed the connection without a TLS alert"  # gRPC servers do this
    return CertificateRefusedError(
        f"{server_name} refused the client certificate ({describe(chain[0])}): {how}.",
        hint="Use a certificate that the owner of the service issued for you.",
    )
