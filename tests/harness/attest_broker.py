"""A broker of ``sealserve-attest/1`` for tests of the enclave's side, with switches for hostile behaviour."""

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from scripts.attested_example import KEY, Example, p256

from sealserve.attestation.attest_conversation import BoundEvidence, BrokerSession, refusal
from sealserve.attestation.attest_messages import incoming_evidence
from sealserve.attestation.framing import IncomingMessage
from sealserve.attestation.session_binding import EXPORTER_LABEL, EXPORTER_SIZE, PROTOCOL, new_nonce
from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.secret import SecretBytes

HOST = "127.0.0.1"
PATIENT = 20.0


@dataclass(slots=True)
class Peer:
    """A connected enclave, and what the broker answers to it."""

    connection: SSL.Connection
    example: Example
    hours: float = 24.0
    stream: socket.socket | None = None

    def exporter(self, nonce: bytes) -> bytes:
        return self.connection.export_keying_material(EXPORTER_LABEL, EXPORTER_SIZE, nonce)

    def receive(self, message: IncomingMessage) -> bytes:
        while not message.receive(self.connection.recv(16384)):
            pass
        return message.content

    def evidence(self) -> BoundEvidence:
        """Challenge the enclave, and return its evidence, which is bound to this session."""
        nonce = new_nonce()
        session = BrokerSession(nonce=nonce, exporter=self.exporter(nonce))
        self.connection.sendall(session.challenge())
        presented = session.receive(self.receive(incoming_evidence()))
        report_data = presented.quote[48 + 320 : 48 + 384]
        return presented.bind(report_data=report_data, release_id=self.example.release_id)

    def messages(self, bound: BoundEvidence, *, key_info: bytes | None = None) -> bytes:
        """Return the grant and the key."""
        with bound.grant(
            attestation_result=self.example.token,
            certificate_chain=service_certificate(key_info or bound.public_key_info, hours=self.hours),
            collateral=self.example.collateral_members,
            statement=self.example.signed_statement,
            key=SecretBytes(KEY) if bound.purpose == "start" else None,
        ) as content:
            return content.reveal()


Behaviour = Callable[[Peer], None]


def grant(peer: Peer) -> None:
    """Grant a certificate, and the key."""
    peer.connection.sendall(peer.messages(peer.evidence()))


def without_tls(peer: Peer) -> None:
    """Send bytes that are not TLS records of the session, as a host in the path can."""
    peer.evidence()
    assert peer.stream is not None
    peer.stream.sendall(bytes.fromhex("1703030020") + bytes(32))


def slowly(peer: Peer) -> None:
    """Send the same in pieces of one byte."""
    for byte in peer.messages(peer.evidence()):
        peer.connection.sendall(bytes([byte]))


def refuse(*, final: bool) -> Behaviour:
    """Return a behaviour that refuses after the evidence."""

    def behave(peer: Peer) -> None:
        peer.evidence()
        peer.connection.sendall(refusal(final=final, reference="row-17"))

    return behave


def close(peer: Peer) -> None:
    """Close the session after the evidence."""
    peer.evidence()


def sent(change: Callable[[bytes], bytes]) -> Behaviour:
    """Return a behaviour that sends changed bytes."""

    def behave(peer: Peer) -> None:
        peer.connection.sendall(change(peer.messages(peer.evidence())))

    return behave


def certificate_for_another_key(peer: Peer) -> None:
    """Grant a certificate for a key that is not the enclave's."""
    other = p256("another enclave").public_key()
    info = other.public_bytes(Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    peer.connection.sendall(peer.messages(peer.evidence(), key_info=info))


def service_certificate(key_info: bytes, *, hours: float) -> str:
    """Return a service certificate for a key, PEM, whose validity begins now."""
    name = x509.Name.from_rfc4514_string("CN=issuing CA")
    now = datetime.now(UTC)
    key = serialization.load_der_public_key(key_info)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    builder = x509.CertificateBuilder(name, name, key, 1, now, now + timedelta(hours=hours))
    return builder.sign(p256("issuing CA"), hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def broker_authority() -> Authority:
    """Return a CA that may sign certificates for this machine."""
    return Authority.create(
        AuthorityKind.BROKER,
        names=["broker.test"],
        addresses=[ip_address(HOST)],
        simulated=True,
        now=datetime.now(UTC),
    )


@dataclass(slots=True)
class AttestBroker:
    """A broker on a port of this machine. The behaviours are for the connections in order; the last one repeats.

    Args:
        example: Names the release, and signs tokens and statements.
        behaviours: What the broker does after the handshake.
        authority: The CA of its certificate.
        names: The names in its certificate, besides this machine's address.
        addresses: The addresses in its certificate.
        protocols: The protocols that it supports.
        newest: The newest version of TLS that it supports.
    """

    example: Example
    behaviours: Sequence[Behaviour] = (grant,)
    authority: Authority = field(default_factory=broker_authority)
    names: tuple[str, ...] = ("broker.test",)
    addresses: tuple[str, ...] = (HOST,)
    protocols: tuple[bytes, ...] = (PROTOCOL,)
    newest: int = SSL.TLS1_3_VERSION
    hours: float = 24.0
    served: int = 0
    _listener: socket.socket = field(default_factory=lambda: socket.create_server((HOST, 0)))
    _thread: threading.Thread | None = None

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        return HOST, int(self._listener.getsockname()[1])

    @property
    def ca(self) -> bytes:
        """The certificate of the CA, PEM."""
        return self.authority.certificate_pem

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None
        self._listener.shutdown(socket.SHUT_RDWR)  # ends the waiting
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        context = self._context()
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            with accepted, contextlib.suppress(SSL.Error, OSError):
                behave = self.behaviours[min(self.served, len(self.behaviours) - 1)]
                self.served += 1
                accepted.settimeout(None)
                connection = SSL.Connection(context, accepted)
                connection.set_accept_state()
                connection.do_handshake()
                behave(Peer(connection, self.example, self.hours, accepted))
                with contextlib.suppress(SSL.Error):
                    connection.shutdown()

    def _context(self) -> SSL.Context:
        made = self.authority.issue_server(
            self.names, [ip_address(text) for text in self.addresses], now=datetime.now(UTC)
        )
        key = serialization.load_pem_private_key(made.key_pem.reveal(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_max_proto_version(self.newest)
        context.use_certificate(x509.load_pem_x509_certificates(made.chain_pem)[0])
        context.use_privatekey(key)
        context.set_alpn_select_callback(
            lambda _, offered: next((name for name in offered if name in self.protocols), SSL.NO_OVERLAPPING_PROTOCOLS)
        )
        return context
