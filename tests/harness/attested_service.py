"""A service with evidence from a simulated platform, over gRPC and HTTPS. It can also behave like an attacker.

Example::

    with AttestedService(folder, hostile=Hostile.RELAY) as service:
        verify_endpoint(service.address, service.policy, tls=service.tls)  # StepFailedError: evidence.tls-key
"""

import hashlib
import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from scripts.attested_example import Example, ed25519, p256

from sealserve.attested.evidence_conversation import PATH, parse_nonce
from sealserve.attested.evidence_service_pb2 import EvidenceRequest, EvidenceResponse
from sealserve.attested.receipt import sign_receipt
from sealserve.attested.user_policy import UserPolicy
from sealserve.client.attested import EndpointTls
from sealserve.errors import SealserveError
from sealserve.serving_interface import EVIDENCE_METHOD, RECEIPT_HEADER
from sealserve.sgx.report import Attributes

NAME = "grpc.tf-serving.service.com"


class Hostile(Enum):
    """What a hostile host or owner tries."""

    NOTHING = "an honest service"
    RELAY = "a TLS key of the host, and the genuine evidence of the enclave"
    REPLAY = "evidence for an earlier nonce"
    OTHER_RELEASE = "an enclave of another release, with the statement of the expected release"
    DEBUG = "an enclave in debug mode"
    NO_RESULT = "no attestation result, because the release is revoked"
    NO_STATEMENT = "no release statement"
    OTHER_OWNER = "a statement that another owner signed"
    OTHER_KEYSET = "the quote of the enclave, and a keyset of the attacker"
    OTHER_IDENTITY = "a nonce that another identity key signed"
    GARBAGE = "bytes that are not evidence"
    OVERSIZED = "a document that is too large"
    NO_EVIDENCE = "a service without the method, such as TensorFlow Serving"
    BUSY = "a service that rejects too many requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One replica: its enclave and the answers to nonces.

    Args:
        example: The enclave.
        key: The TLS key of the connection.
        answer: Returns the evidence for a nonce.
    """

    example: Example
    key: ec.EllipticCurvePrivateKey
    answer: Callable[[bytes], bytes]


def replica(example: Example, folder: Path, hostile: Hostile = Hostile.NOTHING) -> Replica:
    """Return a replica with this behavior."""
    other = Example(folder / "unused", name="attacker", shared=example, now=example.now)
    other.owner = ed25519("another owner")
    release = Example(folder / "unused", enclave="other release", shared=example, now=example.now)
    debug = example.quote(attributes=Attributes(flags=0x7, xfrm=0xE7))
    earlier = example.service().answer(bytes(32))
    key = example.tls_key
    answers: dict[Hostile, tuple[ec.EllipticCurvePrivateKey, Callable[[bytes], bytes]]] = {
        Hostile.RELAY: (p256("the host's own key"), example.service().answer),
        Hostile.REPLAY: (key, lambda _: earlier),
        Hostile.OTHER_RELEASE: (release.tls_key, release.service(statement=example.signed_statement).answer),
        Hostile.DEBUG: (key, example.service(quote=debug).answer),
        Hostile.NO_RESULT: (key, example.service(attestation_result=None).answer),
        Hostile.NO_STATEMENT: (key, example.service(statement=None).answer),
        Hostile.OTHER_OWNER: (key, example.service(statement=other.signed_statement).answer),
        Hostile.OTHER_KEYSET: (
            other.tls_key,
            other.service(quote=example.quote(), statement=example.signed_statement).answer,
        ),
        Hostile.OTHER_IDENTITY: (key, example.service(identity=ed25519("another identity")).answer),
        Hostile.GARBAGE: (key, lambda _: b"\x00not evidence"),
        Hostile.OVERSIZED: (key, lambda _: b"{" + b" " * 200_000),
    }
    key, answer = answers.get(hostile, (key, example.service().answer))
    return Replica(example=example, key=key, answer=answer)


@dataclass(slots=True)
class Observed:
    """What the service received.

    Attributes:
        evidence: Number of requests for evidence.
        inputs: The other requests, in order: path and bytes.
    """

    evidence: int = 0
    inputs: list[tuple[str, bytes]] = field(default_factory=list)


class AttestedService:
    """A service on a free port of the loopback interface. Other gRPC methods are answered by ``handlers``, or echo.

    Args:
        folder: An empty folder for the state of the simulated vendor.
        hostile: The behavior.
        example: The enclave; `None` creates one whose evidence is valid now.
        name: The name of the replica, for services of several replicas of a release.
        handlers: gRPC handlers of further methods.
        rest: Whether to serve HTTPS too.
        users_ca: With two-way TLS, the certificates of the users' authority, PEM.
        port: The gRPC port; 0 chooses one.
        certificate_days: The validity of the TLS certificate.
    """

    def __init__(
        self,
        folder: Path,
        *,
        hostile: Hostile = Hostile.NOTHING,
        example: Example | None = None,
        name: str = "replica",
        handlers: Sequence[grpc.GenericRpcHandler] = (),
        rest: bool = False,
        users_ca: bytes | None = None,
        port: int = 0,
        certificate_days: float = 3,
    ) -> None:
        self.example = example or Example(folder / "vendor", name=name, now=datetime.now(UTC).replace(microsecond=0))
        self.hostile = hostile
        self.observed = Observed()
        self.replica = replica(self.example, folder, hostile)
        self.chain = certificate_for(self.replica.key, self.example.now, days=certificate_days)
        self._key = self.replica.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._pool = ThreadPoolExecutor(8)
        self._server = grpc.server(self._pool, handlers=[*handlers, _Handler(self)], options=[("grpc.so_reuseport", 0)])
        credentials = grpc.ssl_server_credentials(
            [(self._key, self.chain)], root_certificates=users_ca, require_client_auth=users_ca is not None
        )
        self.port = self._server.add_secure_port(f"127.0.0.1:{port}", credentials)
        self._rest = _RestServer(self) if rest else None

    @property
    def address(self) -> str:
        """The address of gRPC."""
        return f"127.0.0.1:{self.port}"

    @property
    def rest_address(self) -> str:
        """The address of HTTPS."""
        assert self._rest is not None
        return f"127.0.0.1:{self._rest.server_port}"

    @property
    def policy(self) -> UserPolicy:
        """The policy of a user who pinned the owner's key and the simulated root."""
        return self.example.policy

    @property
    def policy_file(self) -> str:
        """The same policy as TOML."""
        return self.example.policy_file

    @property
    def tls(self) -> EndpointTls:
        """The TLS settings of a user without the service's CA."""
        return EndpointTls(server_name=NAME)

    @property
    def ca(self) -> bytes:
        """The certificate of the service's CA, PEM. A hostile owner also has its key."""
        return authority(self.example.now)[0].public_bytes(Encoding.PEM)

    def __enter__(self) -> Self:
        self._server.start()
        if self._rest is not None:
            threading.Thread(target=self._rest.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._server.stop(None).wait()
        self._pool.shutdown()
        if self._rest is not None:
            self._rest.shutdown()
            self._rest.server_close()

    def receipt(self, request: bytes, response: bytes) -> str:
        """Return a receipt for an answer."""
        claims = self.example.receipt_claims(
            request_sha256=hashlib.sha256(request).hexdigest(), response_sha256=hashlib.sha256(response).hexdigest()
        )
        return sign_receipt(claims, self.example.identity)

    def tls_context(self, protocols: Sequence[str]) -> ssl.SSLContext:
        """Return the server's TLS settings for Python's ``ssl``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(list(protocols))
        folder = self.example.folder.parent
        folder.mkdir(parents=True, exist_ok=True)
        pem = folder / f"{self.example.name}-test.pem"
        pem.touch(0o600)
        pem.write_bytes(self._key + self.chain)
        context.load_cert_chain(pem)
        return context


def authority(now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return the service's CA, whose key the owner has."""
    key = p256("service CA")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Example service CA")])
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )  # fmt: skip
    return builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True), key


def certificate_for(key: ec.EllipticCurvePrivateKey, now: datetime, *, days: float = 3) -> bytes:
    """Return a certificate of the service's CA for a TLS key, PEM."""
    ca, ca_key = authority(now)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])).issuer_name(ca.subject)
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )  # fmt: skip
    return builder.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM)


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, owner: AttestedService) -> None:
        self._owner = owner

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        owner, method = self._owner, str(handler_call_details.method)
        if method != EVIDENCE_METHOD:

            def echo(content: bytes, context: grpc.ServicerContext) -> bytes:
                owner.observed.inputs.append((method, content))
                if any(key == RECEIPT_HEADER for key, _ in context.invocation_metadata()):
                    context.set_trailing_metadata(((RECEIPT_HEADER, owner.receipt(content, content)),))
                return content

            return grpc.unary_unary_rpc_method_handler(echo)  # bytes in, bytes out
        if owner.hostile is Hostile.NO_EVIDENCE:
            return None

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            owner.observed.evidence += 1
            if owner.hostile is Hostile.BUSY:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests for evidence")
            try:
                return EvidenceResponse(evidence=owner.replica.answer(request.nonce))
            except SealserveError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=EvidenceRequest.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )


class _RestServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: AttestedService) -> None:
        super().__init__(("127.0.0.1", 0), _RestHandler)
        self.owner = owner
        self._context = owner.tls_context(["http/1.1"])

    def get_request(self) -> tuple[socket.socket, Any]:
        plain, address = self.socket.accept()
        return self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that end a connection."""


class _RestHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing."""

    def do_GET(self) -> None:
        owner = self.server.owner  # type: ignore[attr-defined]
        address = urlsplit(self.path)
        if address.path != PATH or owner.hostile is Hostile.NO_EVIDENCE:
            owner.observed.inputs.append((self.path, b""))
            self._answer(404 if address.path == PATH else 200, b"{}")
            return
        owner.observed.evidence += 1
        if owner.hostile is Hostile.BUSY:
            self._answer(429, b"{}")
            return
        nonce = parse_nonce(parse_qs(address.query)["nonce"][0])
        self._answer(200, owner.replica.answer(nonce))

    def do_POST(self) -> None:
        owner = self.server.owner  # type: ignore[attr-defined]
        content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        owner.observed.inputs.append((self.path, content))
        self._answer(200, content)

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
