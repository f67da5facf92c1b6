"""TLS as the broker speaks it: it shows an ordinary certificate and asks for the client's, which it verifies itself.

The client's certificate is self-signed and carries a quote (RA-TLS). TLS shows that the client holds its key; dates,
names and issuer are the client's own words and are not looked at. TLS 1.2 (Gramine up to 1.7) and 1.3, no resumption.
"""

import contextlib
import select
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto

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
"""Forward secrecy and authenticated encryption only: whoever gets the broker's key later opens no recorded session.

Without this list, a client of TLS 1.2 could choose RSA key exchange where the certificate has an RSA key. TLS 1.3 has
forward secrecy in each of its suites. All clients of Gramine 1.4 to 1.9 (mbedTLS) know AES-GCM with ECDHE.
"""
_LINGER_BYTES: Final = 64 * 1024


class HandshakeError(VerificationError):
    """The peer and the broker did not agree on a TLS session."""

    code = "broker.handshake"


class PeerTimeoutError(UnavailableError):
    """The peer was too slow."""

    code = "broker.peer-timeout"


class PeerGoneError(UnavailableError):
    """The peer broke off."""

    code = "broker.peer-gone"


def server_context(identity: CertifiedKey) -> SSL.Context:
    """Return the server's TLS settings.

    Args:
        identity: The broker's certificate chain and key.

    Raises:
        InputError: `certificate.unreadable`: The chain is not PEM.
        InputError: `certificate.key-unreadable`: The key is no PEM key without a passphrase, or of a kind that
            Gramine's clients do not know.
        KeyMismatchError: They do not belong together.
    """
    check_key(identity.key_pem, identity.chain_pem, source="the broker's certificate")
    leaf, *issuers = parse_chain(identity.chain_pem, source="the broker's certificate")
    key = serialization.load_pem_private_key(identity.key_pem.reveal(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise PkiCode.CERTIFICATE_KEY_UNREADABLE.error("The broker's key is neither an elliptic-curve nor an RSA key.")
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.set_cipher_list(_TLS12_CIPHERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"sealserve broker")
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _admit)
    context.use_certificate(leaf)
    for issuer in issuers:
        context.add_extra_chain_cert(issuer)
    context.use_privatekey(key)
    return context


def _admit(_connection: SSL.Connection, _certificate: crypto.X509, error: int, depth: int, _ok: int) -> bool:
    # One self-signed certificate, whatever its dates. What it is worth is for the appraisal to say.
    return depth == 0 and error in _ADMITTED


def sends_session_tickets(context: SSL.Context) -> bool:
    """Say whether a server with this context sends TLS 1.3 session tickets, by a handshake in memory."""
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
    """One connection, with a time limit on each step. It belongs to one thread; the peer never blocks another.

    Args:
        context: From `server_context`.
        stream: The accepted socket. It is closed by whoever opened it.
    """

    def __init__(self, context: SSL.Context, stream: socket.socket) -> None:
        stream.setblocking(False)
        self._stream = stream
        self._tls = SSL.Connection(context, stream)
        self._tls.set_accept_state()
        self._established = False

    def handshake(self, *, first_byte_seconds: float, seconds: float) -> bytes:
        """Agree on a session; return the peer's certificate, DER.

        Args:
            first_byte_seconds: How long the peer may be silent first: Gramine's client connects, then makes its quotes.
            seconds: How long the handshake may take from then on.

        Raises:
            PeerTimeoutError: It took longer.
            PeerGoneError: The peer broke off.
            HandshakeError: It is no TLS, or not what the broker asks for.
        """
        self._wait(select.POLLIN, time.monotonic() + first_byte_seconds, "say anything")
        self._run(self._tls.do_handshake, seconds, "finish the TLS handshake")
        self._established = True
        certificate = self._tls.get_peer_certificate()
        if certificate is None:
            raise HandshakeError("The peer showed no certificate.")
        return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)

    def receive(self, *, seconds: float) -> bytes:
        """Return some bytes from the peer, or none when it has closed its side.

        Raises:
            PeerTimeoutError: Nothing came.
            PeerGoneError: The peer broke off.
            HandshakeError: What came is no TLS.
        """
        try:
            return self._run(lambda: self._tls.recv(4096), seconds, "send its request")
        except SSL.ZeroReturnError:
            return b""

    def send(self, data: bytes, *, seconds: float) -> None:
        """Send all of ``data``.

        Raises:
            PeerTimeoutError: The peer does not take it.
            PeerGoneError: The peer broke off.
        """
        deadline = time.monotonic() + seconds
        left = memoryview(data)
        while left:
            sent = self._run(partial(self._tls.send, left), deadline - time.monotonic(), "take its key")
            left = left[sent:]

    def finish(self, *, seconds: float) -> None:
        """Tell the peer that nothing more comes, and wait for it to close, so that nothing is lost to a reset."""
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
                raise PeerGoneError(f"The peer broke off before it could {what}.") from error
            except SSL.Error as error:
                if "unexpected eof" in (reason := _reason(error)):
                    raise PeerGoneError(f"The peer broke off before it could {what}.") from error
                raise HandshakeError(f"The TLS session with the peer failed: {reason}.") from error

    def _wait(self, events: int, deadline: float, what: str) -> None:
        poll = select.poll()
        poll.register(self._stream, events)
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not poll.poll(remaining * 1000):
            raise PeerTimeoutError(f"The peer took too long to {what}.")


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
