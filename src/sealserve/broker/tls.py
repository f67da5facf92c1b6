"""The broker's TLS: it presents an ordinary certificate and requests the client's, which it verifies itself.

The client's certificate is self-signed and carries a quote (RA-TLS). TLS proves that the client holds the private key.
The certificate's dates, names and issuer are unverified claims of the client and are ignored. The broker supports
TLS 1.2 (Gramine up to 1.7) and TLS 1.3, without session resumption.
"""

import contextlib
import select
import socket
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto

from sealserve.attestation.session_binding import EXPORTER_LABEL, EXPORTER_SIZE
from sealserve.broker.application_protocols import ATTEST, select_protocols
from sealserve.errors import UnavailableError, VerificationError
from sealserve.pki.certificate import CertifiedKey, check_key, parse_chain
from sealserve.pki.codes import PkiCode

_Result = TypeVar("_Result")
_OK: Final = 0
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_SELF_SIGNED_LEAF: Final = 18
_ADMITTED: Final = frozenset({_OK, _NOT_YET_VALID, _EXPIRED, _SELF_SIGNED_LEAF})  # X509_V_ERR_*, openssl/x509_vfy.h
_TLS12_CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AESCCM:!aNULL:!PSK"
"""Only cipher suites with forward secrecy and authenticated encryption.

An attacker who obtains the broker's private key later cannot decrypt recorded sessions. Without this list, a TLS 1.2
client could choose RSA key exchange if the certificate has an RSA key. All TLS 1.3 suites have forward secrecy. All
clients of Gramine 1.4 to 1.9 (mbedTLS) support AES-GCM with ECDHE.
"""
_LINGER_BYTES: Final = 64 * 1024


class HandshakeError(VerificationError):
    """The TLS handshake between the peer and the broker failed."""

    code = "broker.handshake"


class PeerTimeoutError(UnavailableError):
    """The peer exceeded the time limit of a step."""

    code = "broker.peer-timeout"


class PeerGoneError(UnavailableError):
    """The peer closed the connection before the exchange was complete."""

    code = "broker.peer-gone"


def server_context(identity: CertifiedKey, *, protocols: Sequence[bytes] = ()) -> SSL.Context:
    """Return the server's TLS context.

    Args:
        identity: The broker's certificate chain and key.
        protocols: The protocols that a client can select by ALPN, besides Gramine's protocol without ALPN.

    Raises:
        InputError: `certificate.unreadable` if the chain is not PEM.
        InputError: `certificate.key-unreadable` if the key is not an unencrypted PEM key, or has a type that Gramine's
            clients do not support.
        KeyMismatchError: The private key does not match the certificate.
    """
    check_key(identity.key_pem, identity.chain_pem, source="the broker's certificate")
    leaf, *issuers = parse_chain(identity.chain_pem, source="the broker's certificate")
    key = serialization.load_pem_private_key(identity.key_pem.reveal(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise PkiCode.CERTIFICATE_KEY_UNREADABLE.error(
            "The broker's private key has an unsupported type: expected an elliptic-curve or RSA key."
        )
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.set_cipher_list(_TLS12_CIPHERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"sealserve broker")
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _admit)
    select_protocols(context, protocols)
    context.use_certificate(leaf)
    for issuer in issuers:
        context.add_extra_chain_cert(issuer)
    context.use_privatekey(key)
    return context


def _admit(_connection: SSL.Connection, _certificate: crypto.X509, error: int, depth: int, _ok: int) -> bool:
    # Accept one self-signed certificate with any dates. The appraisal decides whether to trust it.
    return depth == 0 and error in _ADMITTED


def sends_session_tickets(context: SSL.Context) -> bool:
    """Return whether a server with this context sends TLS 1.3 session tickets, determined by an in-memory handshake."""
    server, client = SSL.Connection(context, None), SSL.Connection(_throwaway_client(), None)
    server.set_accept_state()
    client.set_connect_state()
    while not _step(server, client):
        pass
    return bool(_pending(server))


def _step(server: SSL.Connection, client: SSL.Connection) -> bool:
    with contextlib.suppress(SSL.WantReadError):
        client.do_handshake()
    server.bio_write(_pending(client))
    try:
        server.do_handshake()
    except SSL.WantReadError:
        client.bio_write(_pending(server))
        return False
    return True


def _pending(end: SSL.Connection) -> bytes:
    try:
        return end.bio_read(1 << 16)
    except SSL.WantReadError:
        return b""


class TlsSession:
    """One TLS connection with a time limit on each step. It belongs to one thread and never blocks other peers.

    Args:
        context: The context from `server_context`.
        stream: The accepted socket. The caller closes it.
    """

    def __init__(self, context: SSL.Context, stream: socket.socket) -> None:
        stream.setblocking(False)
        self._stream = stream
        self._tls = SSL.Connection(context, stream)
        self._tls.set_accept_state()
        self._established = False

    def handshake(self, *, first_byte_seconds: float, seconds: float) -> bytes | None:
        """Perform the TLS handshake. Return the peer's certificate, DER, or `None` if the protocol needs none.

        Args:
            first_byte_seconds: How long the peer may be silent first. Gramine's client connects, then generates quotes.
            seconds: The maximum duration of the handshake from its first byte.

        Raises:
            PeerTimeoutError: The handshake exceeded a time limit.
            PeerGoneError: The peer closed the connection.
            HandshakeError: The peer does not use TLS, or does not meet the broker's requirements.
        """
        self._wait(select.POLLIN, time.monotonic() + first_byte_seconds, "send its first byte")
        self._run(self._tls.do_handshake, seconds, "complete the TLS handshake")
        self._established = True
        if self.application_protocol == ATTEST:
            return None
        certificate = self._tls.get_peer_certificate()
        if certificate is None:
            raise HandshakeError("The TLS handshake failed: the peer presented no certificate.")
        return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)

    @property
    def application_protocol(self) -> bytes:
        """The protocol that ALPN selected in the handshake, or `GRAMINE`."""
        return self._tls.get_alpn_proto_negotiated()

    def exporter(self, nonce: bytes) -> bytes:
        """Return the exporter of this session for `sealserve-attest/1`, with the nonce as its context (RFC 8446, 7.5).

        ALPN selects this protocol only with TLS 1.3. Sessions are not resumed, so each session has another value.
        """
        return self._tls.export_keying_material(EXPORTER_LABEL, EXPORTER_SIZE, nonce)

    def receive(self, *, seconds: float) -> bytes:
        """Return some bytes from the peer, or no bytes if the peer has closed its side.

        Raises:
            PeerTimeoutError: The peer sent nothing within the time limit.
            PeerGoneError: The peer closed the connection.
            HandshakeError: The received data is not valid TLS.
        """
        try:
            return self._run(lambda: self._tls.recv(4096), seconds, "send its request")
        except SSL.ZeroReturnError:
            return b""

    def send(self, data: bytes, *, seconds: float) -> None:
        """Send all of ``data``.

        Raises:
            PeerTimeoutError: The peer did not receive the data within the time limit.
            PeerGoneError: The peer closed the connection.
        """
        deadline = time.monotonic() + seconds
        left = memoryview(data)
        while left:
            sent = self._run(partial(self._tls.send, left), deadline - time.monotonic(), "receive its key")
            left = left[sent:]

    def finish(self, *, seconds: float) -> None:
        """Signal the end of the data and wait for the peer to close: a TCP reset would discard sent data."""
        if self._established:
            with contextlib.suppress(SSL.Error):
                self._tls.shutdown()
        deadline = time.monotonic() + seconds
        left = _LINGER_BYTES
        with contextlib.suppress(OSError, PeerTimeoutError):
            self._stream.shutdown(socket.SHUT_WR)
            while left > 0:
                self._wait(select.POLLIN, deadline, "close")
                if not (data := self._stream.recv(4096)):
                    return
                left -= len(data)

    def _run(self, step: Callable[[], _Result], seconds: float, what: str) -> _Result:
        deadline = time.monotonic() + seconds
        while True:
            try:
                return step()
            except SSL.WantReadError:
                self._wait(select.POLLIN, deadline, what)
            except SSL.WantWriteError:
                self._wait(select.POLLOUT, deadline, what)
            except SSL.ZeroReturnError:
                raise
            except (SSL.SysCallError, OSError) as error:
                raise PeerGoneError(f"The peer closed the connection before it could {what}.") from error
            except SSL.Error as error:
                if "unexpected eof" in (reason := _reason(error)):
                    raise PeerGoneError(f"The peer closed the connection before it could {what}.") from error
                raise HandshakeError(f"The TLS session with the peer failed: {reason}.") from error

    def _wait(self, events: int, deadline: float, what: str) -> None:
        poll = select.poll()
        poll.register(self._stream, events)
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not poll.poll(remaining * 1000):
            raise PeerTimeoutError(f"The peer exceeded the time limit: it did not {what} in time.")


def _reason(error: SSL.Error) -> str:
    stack = error.args[0] if error.args else ()
    return "; ".join(entry[-1] for entry in stack if entry[-1]) or type(error).__name__


def _throwaway_client() -> SSL.Context:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "self-check")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.use_certificate(certificate)
    context.use_privatekey(key)
    return context
