"""An enclave with its own keys that talks `sealserve-attest/1` with a broker over a real TLS connection."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from OpenSSL import SSL, crypto

from sealserve.attestation.attest_conversation import Challenged, EnclaveSession, Granted, certificate_request
from sealserve.attestation.attest_messages import (
    Purpose,
    incoming_answer,
    incoming_challenge,
    incoming_key,
)
from sealserve.attestation.framing import IncomingMessage
from sealserve.attestation.keyset import Keyset
from sealserve.attestation.session_binding import EXPORTER_LABEL, EXPORTER_SIZE, PROTOCOL

PATIENT: Final = 60.0
Quote = Callable[[bytes], bytes]
"""Returns a quote with the given report data."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """A TLS session with a broker."""

    tls: SSL.Connection

    def exporter(self, nonce: bytes) -> bytes:
        """Return the exporter of the session."""
        return self.tls.export_keying_material(EXPORTER_LABEL, EXPORTER_SIZE, nonce)

    def receive(self, message: IncomingMessage, first: bytes = b"") -> IncomingMessage:
        """Receive a complete message."""
        if first and message.receive(first):
            return message
        while True:
            try:
                data = self.tls.recv(1 << 16)
            except (SSL.ZeroReturnError, SSL.SysCallError):
                message.end()
                return message
            if message.receive(data):
                return message

    def at_end(self) -> bool:
        """Return whether the broker sends nothing more."""
        try:
            return self.tls.recv(1) == b""
        except (SSL.ZeroReturnError, SSL.SysCallError):
            return True


@contextlib.contextmanager
def connected(
    address: tuple[str, int],
    broker_ca: bytes,
    *,
    protocols: tuple[bytes, ...] = (PROTOCOL,),
    version: int = SSL.TLS1_3_VERSION,
    context: SSL.Context | None = None,
) -> Iterator[Session]:
    """Yield a TLS session with the broker at ``address``. Its certificate must end at ``broker_ca``."""
    if context is None:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        store = context.get_cert_store()
        assert store is not None
        store.add_cert(crypto.X509.from_cryptography(x509.load_pem_x509_certificate(broker_ca)))
        context.set_verify(SSL.VERIFY_PEER)
    with socket.create_connection(address, timeout=PATIENT) as stream:
        stream.setblocking(True)
        tls = SSL.Connection(context, stream)
        if protocols:
            tls.set_alpn_protos(list(protocols))
        tls.set_connect_state()
        tls.do_handshake()
        yield Session(tls=tls)


@dataclass(frozen=True, kw_only=True)
class Provision:
    """What an enclave received."""

    granted: Granted
    key: bytes | None


@dataclass(frozen=True, kw_only=True)
class AttestingEnclave:
    """An enclave with its own keys.

    Args:
        release_id: The release that it belongs to.
        quote: Returns its quote with the given report data.
        tls_key: Its TLS key.
        identity: Its identity key.
    """

    release_id: str
    quote: Quote
    tls_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    identity: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def keyset(self) -> Keyset:
        """Its keyset."""
        return Keyset.of_keys(
            release_id=self.release_id, tls=self.tls_key.public_key(), identity=self.identity.public_key()
        )

    def session(self, purpose: Purpose = "start") -> EnclaveSession:
        """Return its side of a conversation."""
        return EnclaveSession(
            keyset=self.keyset, purpose=purpose, certificate_request=certificate_request(self.tls_key)
        )

    def challenged(self, session: Session, purpose: Purpose = "start") -> Challenged:
        """Receive the broker's challenge."""
        return self.session(purpose).receive(session.receive(incoming_challenge()).content)

    def provision(self, address: tuple[str, int], broker_ca: bytes, *, purpose: Purpose = "start") -> Provision:
        """Attest, and receive the grant and the key.

        Raises:
            VerificationError: `attest.refused`.
            UnavailableError: `attest.unavailable`.
        """
        with connected(address, broker_ca) as session:
            return self.attest(session, purpose=purpose)

    def attest(self, session: Session, *, purpose: Purpose = "start") -> Provision:
        """As `provision`, in a session."""
        challenged = self.challenged(session, purpose)
        presenting = challenged.bind(session.exporter(challenged.nonce))
        frame, awaiting = presenting.present(self.quote(presenting.report_data))
        session.tls.sendall(frame)
        answer = session.receive(incoming_answer())
        granted = awaiting.receive(answer.content)
        if purpose == "renewal":
            assert answer.rest == b""
            assert session.at_end()
            return Provision(granted=granted, key=None)
        message = session.receive(incoming_key(), answer.rest)
        key = granted.key(message.content).reveal()
        assert session.at_end()
        return Provision(granted=granted, key=key)
