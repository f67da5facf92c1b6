"""The enclave's TLS session with a broker: TLS 1.3 with the measured CA and name, and the exporter of the session.

The module ``ssl`` does not export keying material, so this module uses pyOpenSSL. TLS runs in memory, and this module
moves the bytes. So one time limit covers all waiting, and a slow peer cannot extend it byte by byte.
"""

import ipaddress
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeVar

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509

from sealserve.attestation.framing import IncomingMessage
from sealserve.attestation.session_binding import EXPORTER_LABEL, EXPORTER_SIZE, PROTOCOL
from sealserve.enclave.codes import EnclaveCode
from sealserve.errors import SealserveError

CONNECT_TIMEOUT: Final = 10.0
SESSION_TIMEOUT: Final = 90.0
"""Seconds for a complete session. The broker may download collateral during this time."""
_RECORD: Final = 16 * 1024
_AT_ONCE: Final = 0.001  # a socket's time limit of 0 would mean that it does not block
_T = TypeVar("_T")


class BrokerLink:
    """A TLS session with a broker whose certificate verified. Use it as a context manager.

    Args:
        host: The broker's measured host: a DNS name or an IP address.
        port: The broker's measured port.
        broker_ca: The certificates of the measured CA, PEM. No others are trusted.
        connect_timeout: Maximum seconds for the connection.
        session_timeout: Maximum seconds for everything after the connection.

    Raises:
        UnavailableError: `provisioning.unreachable`: The broker does not accept a connection.
        UnavailableError: `provisioning.connection`: The handshake failed, or the peer does not support the protocol.
        VerificationError: `provisioning.broker-certificate`: The measured CA did not issue the peer's certificate, or
            not for this host.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        broker_ca: bytes,
        connect_timeout: float = CONNECT_TIMEOUT,
        session_timeout: float = SESSION_TIMEOUT,
    ) -> None:
        self._place = f"{host}:{port}"
        self._limit = session_timeout
        self._session = SSL.Connection(_context(broker_ca))
        self._session.set_connect_state()
        if _address(host) is None:
            self._session.set_tlsext_host_name(host.encode())
        try:
            self._socket = socket.create_connection((host, port), timeout=connect_timeout)
        except OSError as error:
            raise EnclaveCode.PROVISIONING_UNREACHABLE.error(
                f"The broker at {self._place} does not accept a connection: {error.strerror or error}.",
                hint="Start the broker with `sealserve broker run`, or check its address, which is measured into the "
                "enclave.",
            ) from error
        self._deadline = time.monotonic() + session_timeout
        try:
            self._handshake(host)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def exporter(self, nonce: bytes) -> bytes:
        """Return the exporter of this session with the nonce as its context."""
        return self._session.export_keying_material(EXPORTER_LABEL, EXPORTER_SIZE, nonce)

    def send(self, content: bytes) -> None:
        """Send bytes.

        Raises:
            UnavailableError: `provisioning.connection`: The connection broke, or the time is over.
        """
        try:
            self._session.sendall(content)  # into memory; a repetition would send the same bytes again
        except SSL.Error as error:
            raise self._fault(f"TLS failed: {_reasons(error) or 'the session has ended'}") from error
        self._flush()

    def receive(self, message: IncomingMessage, first: bytes = b"") -> IncomingMessage:
        """Fill a message, and return it.

        Args:
            message: An empty message.
            first: Its first bytes, if they arrived with the previous message.

        Raises:
            UnavailableError: `provisioning.connection`: The connection broke, or the time is over.
            VerificationError: `attest.length` or `attest.truncated`: The message is invalid.
        """
        complete = message.receive(first)
        while not complete:
            try:
                data = self._pump(lambda: self._session.recv(_RECORD))
            except (SSL.ZeroReturnError, SSL.SysCallError):
                message.end()  # raises: the message is not complete
                raise
            except SSL.Error as error:
                raise self._fault(f"TLS failed: {_reasons(error)}") from error
            complete = message.receive(data)
        return message

    def _handshake(self, host: str) -> None:
        try:
            self._pump(self._session.do_handshake)
            self._flush()
        except SSL.Error as error:
            raise self._handshake_fault(error) from error
        leaf = self._session.get_peer_certificate(as_cryptography=True)
        if leaf is None or not _is_for(leaf, host):
            raise EnclaveCode.PROVISIONING_BROKER_CERTIFICATE.error(
                f"The certificate of the broker at {self._place} is for another host: expected {host}.",
                hint="Check the broker's address and certificate: the certificate must contain exactly this host.",
            )
        if self._session.get_alpn_proto_negotiated() != PROTOCOL:
            raise self._unsupported()

    def _handshake_fault(self, error: SSL.Error) -> SealserveError:
        reasons = _reasons(error)
        if "certificate verify failed" in reasons:
            return EnclaveCode.PROVISIONING_BROKER_CERTIFICATE.error(
                f"The certificate of the broker at {self._place} does not verify: the measured broker CA did not issue "
                "it, or it is not valid now.",
                hint="Check the broker's address and certificate, and the machine's clock.",
            )
        if "no application protocol" in reasons:
            return self._unsupported()
        return self._fault(f"the TLS handshake failed: {reasons or 'the peer closed the connection'}")

    def _unsupported(self) -> SealserveError:
        return EnclaveCode.PROVISIONING_CONNECTION.error(
            f"The broker at {self._place} does not support the protocol {PROTOCOL.decode()}.",
            hint="Install the current version of sealserve on the owner's machine.",
        )

    def _fault(self, reason: str) -> SealserveError:
        return EnclaveCode.PROVISIONING_CONNECTION.error(
            f"The connection to the broker at {self._place} broke: {reason}.",
            hint="Check that the broker runs, and read its log.",
        )

    def _pump(self, action: Callable[[], _T]) -> _T:
        """Repeat an action of TLS, and move bytes until it succeeds."""
        while True:
            try:
                return action()
            except SSL.WantReadError:
                self._flush()
                self._fill()

    def _flush(self) -> None:
        while True:
            try:
                data = self._session.bio_read(_RECORD)
            except SSL.WantReadError:
                return
            self._timed(lambda data=data: self._socket.sendall(data))  # type: ignore[misc]  # bound per iteration

    def _fill(self) -> None:
        data = self._timed(lambda: self._socket.recv(_RECORD))
        if data:
            self._session.bio_write(data)
        else:
            self._session.bio_shutdown()

    def _timed(self, action: Callable[[], _T]) -> _T:
        try:
            self._socket.settimeout(max(self._deadline - time.monotonic(), _AT_ONCE))
            return action()
        except TimeoutError as error:
            raise self._fault(f"the session was not complete within {self._limit:g} s") from error
        except OSError as error:
            raise self._fault(error.strerror or str(error)) from error


def _context(broker_ca: bytes) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    # A resumed session would weaken the exporter.
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_alpn_protos([PROTOCOL])
    context.set_verify(SSL.VERIFY_PEER)
    store = context.get_cert_store()
    try:
        authorities = x509.load_pem_x509_certificates(broker_ca)
    except ValueError as error:
        raise EnclaveCode.PROVISIONING_BROKER_CERTIFICATE.error(
            "The measured broker CA cannot be read: expected certificates in PEM form.",
            hint="Build the enclave again with the broker's CA certificate.",
        ) from error
    for authority in authorities:
        if store is not None:
            store.add_cert(X509.from_cryptography(authority))
    return context


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_for(leaf: x509.Certificate, host: str) -> bool:
    """Return whether a certificate names exactly this host. Wildcards are not accepted: the owner knows the name."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    if (address := _address(host)) is not None:
        return address in names.get_values_for_type(x509.IPAddress)
    return host.lower() in {name.lower() for name in names.get_values_for_type(x509.DNSName)}


def _reasons(error: SSL.Error) -> str:
    """Return OpenSSL's reasons. They name only the cause, and never quote data."""
    details = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return ", ".join(str(detail[-1]) for detail in details)
