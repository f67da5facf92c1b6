"""TLS settings have the same effect on the REST port, the metrics port, the gRPC port, and in the client."""

import asyncio
import contextlib
import dataclasses
import http.client
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from google.protobuf import text_format
from tests.harness.certificates import NAME, Signer, key_text, make_key, text
from tests.harness.served import make_settings

from sealserve.client.channel import open_channel
from sealserve.errors import SealserveError
from sealserve.pki.ssl_config_pb2 import SSLConfig
from sealserve.secret import SecretBytes
from sealserve.serving.http.http_server import HttpLimits, HttpServer
from sealserve.serving.http.https import renew, server_context
from sealserve.serving.metrics import Metrics
from sealserve.serving.wire import transports
from sealserve.serving.wire.allowance import Allowance
from sealserve.serving.wire.credentials import FollowedSettings, read_tls_settings
from sealserve.serving.wire.health import Health
from sealserve.serving.wire.peers import PeerCheck
from sealserve.serving.wire.transport import Transport

CHECK = "/grpc.health.v1.Health/Check"
EXPIRED, FUTURE, LATER = (-30.0, -1.0), (1.0, 30.0), (-1.0, 60.0)
LIMITS = HttpLimits(threads=1, waiting=1, body=4096, timeout=30.0, patience=30.0)

ROOT, OTHER, MIDDLE = Signer.make("root"), Signer.make("another root"), Signer.make("middle")
ROOT_CA, OTHER_CA, MIDDLE_CA = ROOT.certificate(), OTHER.certificate(), MIDDLE.certificate(ROOT)
KEYS = {
    kind: make_key(kind)
    for kind in (
        *("P-256", "P-384", "P-521", "P-224", "P-192", "secp256k1", "brainpoolP256r1"),
        *("RSA-1024", "RSA-2048", "Ed25519", "Ed448", "DSA"),
    )
}
KEY = KEYS["P-256"]
SIGNERS = {kind: Signer(f"{kind} signer", key) for kind, key in KEYS.items()}


def configuration(key: bytes, chain: bytes, custom_ca: bytes = b"", *, client_verify: bool = False) -> bytes:
    message = SSLConfig(client_verify=client_verify)
    message.server_key, message.server_cert, message.custom_ca = key.decode(), chain.decode(), custom_ca.decode()
    return text_format.MessageToString(message, as_utf8=True).encode()


def replace(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.rename(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Client:
    """A user: the authority that it trusts, and its key and certificates."""

    trusts: bytes
    key: bytes | None = None
    chain: bytes | None = None
    folder: Path

    def over_http(self, port: int) -> bool:
        """Return whether an HTTP server answers. OpenSSL's own limits on the client's key are off."""
        context = ssl.create_default_context(cadata=self.trusts.decode())
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        if self.key is not None and self.chain is not None:
            path = self.folder / "client.pem"
            path.write_bytes(self.key + self.chain)
            context.load_cert_chain(path)
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname=NAME) as secure,
        ):
            secure.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return secure.recv(8) == b"HTTP/1.1"
        return False

    def over_grpc(self, port: int) -> bool:
        """Return whether a gRPC server answers gRPC's own client."""
        credentials = grpc.ssl_channel_credentials(self.trusts, self.key, self.chain)
        options = [("grpc.ssl_target_name_override", NAME)]
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
            try:
                check: Any = channel.unary_unary(CHECK)
                return bool(check(b"", timeout=60) == b"\x08\x01")
            except grpc.RpcError:
                return False

    def over_sealserve(self, port: int) -> bool:
        """Return whether a gRPC server answers sealserve's client."""
        key = None if self.key is None else SecretBytes(self.key)
        try:
            with open_channel(
                f"127.0.0.1:{port}", server_name=NAME, ca=self.trusts, certificate=self.chain, key=key, timeout=60
            ) as channel:
                check: Any = channel.grpc.unary_unary(CHECK)
                return bool(check(b"", timeout=60) == b"\x08\x01")
        except (SealserveError, grpc.RpcError):
            return False

    def answers(self, servers: "Servers") -> dict[str, bool]:
        return {
            "REST": self.over_http(servers.rest),
            "metrics": self.over_http(servers.metrics),
            "gRPC": self.over_grpc(servers.grpc),
            "sealserve predict": self.over_sealserve(servers.grpc),
        }


class Servers:
    """The three services on free ports with one ssl.cfg, connected as in the model server."""

    def __init__(self, path: Path) -> None:
        self.path = path
        settings = read_tls_settings(path, None, now=datetime.now(UTC))
        self._context = server_context(settings)
        self._followed = FollowedSettings(path, settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._http = [
            HttpServer(rest=None, metrics_path="/metrics", metrics=Metrics(), limits=LIMITS, allowance=Allowance(2**20))
            for _ in range(2)
        ]
        self.rest, self.metrics = (self._run(server.start("127.0.0.1:0", self._context)) for server in self._http)
        self._check = check = PeerCheck(settings.revoked)
        self._transport = transports.choose()(
            make_settings(Health().handlers, peer_fault=check if settings.client_verify else None)
        )
        self.grpc = self._transport.listen("127.0.0.1:0", FollowedSettings(path, settings, check).credentials())
        assert self.grpc
        self._transport.start()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def follow(self) -> None:
        self._check.look()
        settings = self._followed.newer_settings()
        if settings is not None:
            renew(self._context, settings)
            if settings.client_verify:
                for server in self._http:
                    self._loop.call_soon_threadsafe(server.retire)

    def close(self) -> None:
        for server in self._http:
            self._run(server.stop(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        assert self._transport.stop(30.0)


Serve = Callable[[bytes], Servers]


@pytest.fixture
def serve(tmp_path: Path, transport: type[Transport]) -> Iterator[Serve]:  # noqa: ARG001  # it is chosen
    with contextlib.ExitStack() as stack:

        def start(content: bytes) -> Servers:
            replace(tmp_path / "ssl.cfg", content)
            servers = Servers(tmp_path / "ssl.cfg")
            stack.callback(servers.close)
            return servers

        yield start


def everywhere(answer: bool) -> dict[str, bool]:
    return dict.fromkeys(("REST", "metrics", "gRPC", "sealserve predict"), answer)


# --- What a server may have -------------------------------------------------------------------------------------------

GOOD = key_text(KEY), text(ROOT.leaf(KEY))
SECTION_1 = PrivateFormat.TraditionalOpenSSL
ENCRYPTED = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"


def indented(pem: bytes) -> bytes:
    return b"".join(b"  " + line for line in pem.splitlines(keepends=True))


SERVED: dict[str, tuple[bytes, bytes]] = {
    "P-256": GOOD,
    "P-384": (key_text(KEYS["P-384"]), text(ROOT.leaf(KEYS["P-384"]))),
    "RSA-2048": (key_text(KEYS["RSA-2048"]), text(ROOT.leaf(KEYS["RSA-2048"]))),
    "EC PRIVATE KEY": (key_text(KEY, SECTION_1), GOOD[1]),
    "RSA PRIVATE KEY": (key_text(KEYS["RSA-2048"], SECTION_1), text(ROOT.leaf(KEYS["RSA-2048"]))),
    "EC PARAMETERS before the key": (PARAMETERS + key_text(KEY, SECTION_1), GOOD[1]),
    "Windows line ends": (GOOD[0].replace(b"\n", b"\r\n"), GOOD[1].replace(b"\n", b"\r\n")),
    "text around the key": (b"A key: \xc3\xa9\n" + GOOD[0] + b"the end", GOOD[1]),
    "a certificate in server_key": (text(OTHER_CA) + GOOD[0], GOOD[1]),
    "a key in server_cert": (GOOD[0], GOOD[1] + key_text(KEYS["P-384"])),
    "an indented certificate": (GOOD[0], indented(GOOD[1])),
    "a certificate after a byte order mark": (GOOD[0], b"\xef\xbb\xbf" + GOOD[1]),
    "text between certificates": (GOOD[0], GOOD[1] + "Größe\n".encode() + text(ROOT_CA)),
    "an intermediate": (GOOD[0], text(MIDDLE.leaf(KEY), MIDDLE_CA)),
    "the root too, out of order": (GOOD[0], text(MIDDLE.leaf(KEY), ROOT_CA, MIDDLE_CA)),
    "P-521 in the chain": (GOOD[0], text(SIGNERS["P-521"].leaf(KEY), SIGNERS["P-521"].certificate(ROOT))),
    "Ed25519 in the chain": (GOOD[0], text(SIGNERS["Ed25519"].leaf(KEY), SIGNERS["Ed25519"].certificate(ROOT))),
    "an expired extra": (GOOD[0], GOOD[1] + text(OTHER.certificate(days=EXPIRED))),
    "a future extra": (GOOD[0], GOOD[1] + text(OTHER.certificate(days=FUTURE))),
    "the expired former root": (GOOD[0], GOOD[1] + text(ROOT.certificate(days=EXPIRED))),
    "an expired cross-signed root": (
        GOOD[0],
        text(MIDDLE.leaf(KEY), MIDDLE_CA, ROOT.certificate(OTHER, days=EXPIRED)),
    ),
    "the former intermediate first": (
        GOOD[0],
        text(MIDDLE.leaf(KEY), MIDDLE.certificate(ROOT, days=EXPIRED), MIDDLE_CA),
    ),
    "a future intermediate first": (
        GOOD[0],
        text(MIDDLE.leaf(KEY), MIDDLE.certificate(ROOT, days=FUTURE), MIDDLE_CA),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SERVED)
def test_what_is_accepted_serves_on_every_port(serve: Serve, tmp_path: Path, case: str) -> None:
    servers = serve(configuration(*SERVED[case]))
    assert Client(trusts=text(ROOT_CA), folder=tmp_path).answers(servers) == everywhere(True)


KIND = "certificate.key-unreadable"
REJECTED: dict[str, tuple[tuple[bytes, bytes], str, str]] = {
    **{
        kind: ((key_text(KEYS[kind]), text(ROOT.leaf(KEYS[kind]))), KIND, f"is of the kind {shown}, ")
        for kind, shown in {
            "P-192": "secp192r1",
            "P-224": "secp224r1",
            "P-521": "secp521r1",
            "secp256k1": "secp256k1",
            "brainpoolP256r1": "brainpoolP256r1",
            "RSA-1024": "RSA-1024",
            "Ed25519": "Ed25519",
            "Ed448": "Ed448",
            "DSA": "DSA",
        }.items()
    },
    "an indented key": ((indented(GOOD[0]), GOOD[1]), KIND, "got an indented one"),
    "a key after a byte order mark": ((b"\xef\xbb\xbf" + GOOD[0], GOOD[1]), KIND, "got a byte order mark before it"),
    "an encrypted key": ((ENCRYPTED, GOOD[1]), KIND, "is no PEM key without a passphrase"),
    "an encrypted key before the key": ((ENCRYPTED + GOOD[0], GOOD[1]), KIND, "passphrase|an encrypted key"),
    "another key before the key": ((key_text(KEYS["P-384"]) + GOOD[0], GOOD[1]), "certificate.key-mismatch", "belong"),
    "no key": ((b"nonsense", GOOD[1]), KIND, "is no PEM key"),
    "RSA-1024 in the chain": (
        (GOOD[0], text(SIGNERS["RSA-1024"].leaf(KEY), SIGNERS["RSA-1024"].certificate(ROOT))),
        "certificate.unsupported",
        "CN=RSA-1024 signer.* has a key of the kind RSA-1024",
    ),
    "secp256k1 in the chain": (
        (GOOD[0], text(SIGNERS["secp256k1"].leaf(KEY), SIGNERS["secp256k1"].certificate(ROOT))),
        "certificate.unsupported",
        "has a key of the kind secp256k1",
    ),
    "an expired certificate": (
        (GOOD[0], text(ROOT.leaf(KEY, days=EXPIRED))),
        "certificate.expired",
        "CN=leaf.* expired",
    ),
    "a future certificate": ((GOOD[0], text(ROOT.leaf(KEY, days=FUTURE))), "certificate.not-yet-valid", "CN=leaf"),
    "an expired intermediate": (
        (GOOD[0], text(MIDDLE.leaf(KEY), MIDDLE.certificate(ROOT, days=EXPIRED), ROOT_CA)),
        "certificate.expired",
        "CN=middle.* expired",
    ),
    "a damaged certificate": (
        (GOOD[0], GOOD[1] + GOOD[1].replace(b"MII", b"AAA", 1)),
        "certificate.unreadable",
        "no readable PEM certificate",
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_what_one_library_rejects_is_rejected_at_the_start_and_at_renewal(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    (key, chain), code, message = REJECTED[case]
    bad = configuration(key, chain)
    with pytest.raises(SealserveError, match=message) as caught:
        serve(bad)
    assert caught.value.code == code
    servers = serve(configuration(*GOOD))
    client = Client(trusts=text(ROOT_CA), folder=tmp_path)
    replace(servers.path, bad)
    servers.follow()
    assert client.answers(servers) == everywhere(True)
    assert "the previous TLS settings stay in force: " in caplog.text
    assert "are new" not in caplog.text


# --- What a client may have -------------------------------------------------------------------------------------------


def chain_of(kind: str) -> tuple[bytes, bytes]:
    return key_text(KEYS[kind]), text(ROOT.leaf(KEYS[kind]))


def below(kind: str) -> tuple[bytes, bytes]:
    return key_text(KEY), text(SIGNERS[kind].leaf(KEY), SIGNERS[kind].certificate(ROOT))


ROOTS = text(ROOT_CA)
CLIENTS: dict[str, tuple[bytes, tuple[bytes, bytes] | tuple[None, None], bool]] = {
    "no certificate": (ROOTS, (None, None), False),
    "another authority's": (ROOTS, (key_text(KEY), text(OTHER.leaf(KEY))), False),
    **{kind: (ROOTS, chain_of(kind), True) for kind in ("P-256", "P-384", "RSA-2048")},
    **{kind: (ROOTS, chain_of(kind), False) for kind in ("P-521", "Ed25519", "Ed448", "RSA-1024")},
    **{f"{kind} in the chain": (ROOTS, below(kind), True) for kind in ("P-384", "P-521", "Ed25519", "RSA-2048")},
    **{f"{kind} in the chain": (ROOTS, below(kind), False) for kind in ("secp256k1", "Ed448", "RSA-1024")},
    "an intermediate": (ROOTS, (key_text(KEY), text(MIDDLE.leaf(KEY), MIDDLE_CA)), True),
    "without its intermediate": (ROOTS, (key_text(KEY), text(MIDDLE.leaf(KEY))), False),
    "an expired certificate": (ROOTS, (key_text(KEY), text(ROOT.leaf(KEY, days=EXPIRED))), False),
    "an expired extra": (ROOTS, (key_text(KEY), text(ROOT.leaf(KEY), OTHER.certificate(days=EXPIRED))), True),
    "the expired former root": (ROOTS, (key_text(KEY), text(ROOT.leaf(KEY), ROOT.certificate(days=EXPIRED))), True),
    "an unrelated extra of an unsupported kind": (
        ROOTS,
        (key_text(KEY), text(ROOT.leaf(KEY), SIGNERS["P-224"].certificate())),
        True,
    ),
    "custom_ca is the intermediate": (text(MIDDLE_CA), (key_text(KEY), text(MIDDLE.leaf(KEY))), True),
    "custom_ca is the intermediate, which is sent too": (
        text(MIDDLE_CA),
        (key_text(KEY), text(MIDDLE.leaf(KEY), MIDDLE_CA)),
        True,
    ),
    "custom_ca has two authorities": (text(OTHER_CA, ROOT_CA), (key_text(KEY), text(ROOT.leaf(KEY))), True),
    "custom_ca has the same one twice": (text(ROOT_CA, ROOT_CA), (key_text(KEY), text(ROOT.leaf(KEY))), True),
    "custom_ca has the former one first": (
        text(ROOT.certificate(days=EXPIRED), ROOT_CA),
        (key_text(KEY), text(ROOT.leaf(KEY))),
        True,
    ),
    "custom_ca has a future one first": (
        text(ROOT.certificate(days=FUTURE), ROOT_CA),
        (key_text(KEY), text(ROOT.leaf(KEY))),
        True,
    ),
    "custom_ca is expired": (text(ROOT.certificate(days=EXPIRED)), (key_text(KEY), text(ROOT.leaf(KEY))), False),
    "custom_ca has text that is not ASCII": (
        "# Größe\n".encode() + ROOTS,
        (key_text(KEY), text(ROOT.leaf(KEY))),
        True,
    ),
    "custom_ca is P-521": (
        text(SIGNERS["P-521"].certificate()),
        (key_text(KEY), text(SIGNERS["P-521"].leaf(KEY))),
        True,
    ),
}


@pytest.mark.parametrize("case", CLIENTS)
def test_every_port_accepts_the_same_clients(serve: Serve, tmp_path: Path, case: str) -> None:
    custom_ca, (key, chain), accepted = CLIENTS[case]
    servers = serve(configuration(*GOOD, custom_ca, client_verify=True))
    client = Client(trusts=text(ROOT_CA), key=key, chain=chain, folder=tmp_path)
    assert client.answers(servers) == everywhere(accepted)


@pytest.mark.parametrize("kind", ["RSA-1024", "secp256k1", "Ed448", "brainpoolP256r1", "DSA"])
def test_an_authority_of_clients_that_one_library_rejects_is_rejected(serve: Serve, kind: str) -> None:
    with pytest.raises(SealserveError, match=f"custom_ca .* has a key of the kind {kind}") as caught:
        serve(configuration(*GOOD, text(SIGNERS[kind].certificate()), client_verify=True))
    assert caught.value.code == "certificate.unsupported"


def test_a_revoked_client_is_rejected_on_every_port(serve: Serve, tmp_path: Path) -> None:
    gone, good = ROOT.leaf(KEY), ROOT.leaf(KEY)
    through_revoked = text(MIDDLE.leaf(KEY), MIDDLE_CA)
    lists = ROOT.revocation_list(gone, MIDDLE_CA)
    servers = serve(configuration(*GOOD, text(ROOT_CA) + lists, client_verify=True))

    def answers(chain: bytes) -> dict[str, bool]:
        return Client(trusts=text(ROOT_CA), key=key_text(KEY), chain=chain, folder=tmp_path).answers(servers)

    assert answers(text(gone)) == everywhere(False)
    assert answers(through_revoked) == everywhere(False)
    assert answers(text(good)) == everywhere(True)
    # A newer list in a file that is not sealed: for new connections, and for gRPC's open connections too.
    replace(servers.path, configuration(*GOOD, text(ROOT_CA) + ROOT.revocation_list(good), client_verify=True))
    servers.follow()
    assert answers(text(good)) == everywhere(False)
    assert answers(text(gone)) == everywhere(True)


# --- Renewal ----------------------------------------------------------------------------------------------------------


def test_a_renewal_takes_effect_as_a_whole_on_every_port(serve: Serve, tmp_path: Path) -> None:
    servers = serve(configuration(*GOOD, text(ROOT_CA), client_verify=True))
    key = key_text(KEY)

    def client(trusts: x509.Certificate, signer: Signer) -> Client:
        return Client(trusts=text(trusts), key=key, chain=text(signer.leaf(KEY)), folder=tmp_path)

    assert client(ROOT_CA, ROOT).answers(servers) == everywhere(True)
    # A new authority of clients, and the same server certificate: clients of the removed authority are rejected.
    replace(servers.path, configuration(*GOOD, text(OTHER_CA), client_verify=True))
    servers.follow()
    assert client(ROOT_CA, ROOT).answers(servers) == everywhere(False)
    assert client(ROOT_CA, OTHER).answers(servers) == everywhere(True)
    # A new key and certificate as well.
    chain = text(OTHER.leaf(KEYS["P-384"]))
    replace(servers.path, configuration(key_text(KEYS["P-384"]), chain, text(OTHER_CA, ROOT_CA), client_verify=True))
    servers.follow()
    assert client(OTHER_CA, ROOT).answers(servers) == everywhere(True)
    assert client(OTHER_CA, OTHER).answers(servers) == everywhere(True)
    assert client(ROOT_CA, OTHER).answers(servers) == everywhere(False)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("port", ["rest", "metrics", "grpc"])
def test_a_session_of_a_withdrawn_authority_cannot_be_resumed(
    serve: Serve, tmp_path: Path, port: str, version: ssl.TLSVersion
) -> None:
    servers = serve(configuration(*GOOD, text(ROOT_CA), client_verify=True))
    context = ssl.create_default_context(cadata=text(ROOT_CA).decode())
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2" if port == "grpc" else "http/1.1"])
    (tmp_path / "client.pem").write_bytes(key_text(KEY) + text(ROOT.leaf(KEY)))
    context.load_cert_chain(tmp_path / "client.pem")
    sessions: list[Any] = [None]

    def ask() -> tuple[bool, bool]:
        """Return whether the server answers, and whether it resumed the session of the last connection."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", getattr(servers, port)), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname=NAME, session=sessions[-1]) as secure,
        ):
            if port != "grpc":  # a gRPC server sends first
                secure.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answered = bool(secure.recv(8))
            sessions.append(secure.session)
            assert port == "grpc" or secure.session is None or not secure.session.has_ticket
            return answered, bool(secure.session_reused)
        return False, False

    assert ask() == (True, False)
    answered, resumed = ask()
    assert answered
    if port == "grpc":
        assert resumed
    elif version is ssl.TLSVersion.TLSv1_3:
        assert not resumed
    replace(servers.path, configuration(*GOOD, text(OTHER_CA), client_verify=True))
    servers.follow()
    assert ask() == (False, False)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_without_sessions_keeps_its_connection_and_connects_again(
    serve: Serve, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    servers = serve(configuration(*GOOD, text(ROOT_CA), client_verify=True))
    context = ssl.create_default_context(cadata=text(ROOT_CA).decode())
    context.minimum_version = context.maximum_version = version
    (tmp_path / "client.pem").write_bytes(key_text(KEY) + text(ROOT.leaf(KEY)))
    context.load_cert_chain(tmp_path / "client.pem")
    contexts, session = set(), None
    for _ in range(20):
        with (
            socket.create_connection(("127.0.0.1", servers.rest), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname=NAME, session=session) as secure,
        ):
            connection = http.client.HTTPConnection("x")
            connection.sock = secure
            for _ in range(2):
                connection.request("GET", "/metrics")
                response = connection.getresponse()
                assert (response.status, bool(response.read())) == (200, True)
            session = secure.session
            with contextlib.suppress(OSError):
                secure.unwrap()
        contexts.add(servers._context.current)
    assert len(contexts) == 2  # OpenSSL stores the certificates of a session as long as its context exists


def test_a_newer_revocation_list_reaches_open_connections(serve: Serve, tmp_path: Path) -> None:
    servers = serve(configuration(*GOOD, text(ROOT_CA), client_verify=True))
    leaf, key = ROOT.leaf(KEY), key_text(KEY)
    context = ssl.create_default_context(cadata=text(ROOT_CA).decode())
    (tmp_path / "client.pem").write_bytes(key + text(leaf))
    context.load_cert_chain(tmp_path / "client.pem")
    credentials = grpc.ssl_channel_credentials(text(ROOT_CA), key, text(leaf))
    options = [("grpc.ssl_target_name_override", NAME)]
    with (
        socket.create_connection(("127.0.0.1", servers.rest), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as idle,
        grpc.secure_channel(f"127.0.0.1:{servers.grpc}", credentials, options) as channel,
    ):
        check: Any = channel.unary_unary(CHECK)
        assert check(b"", timeout=60) == b"\x08\x01"
        idle.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(8) == b"HTTP/1.1"
        replace(servers.path, configuration(*GOOD, text(ROOT_CA) + ROOT.revocation_list(leaf), client_verify=True))
        servers.follow()
        with pytest.raises(grpc.RpcError, match=r"The client certificate is revoked\."):
            check(b"", timeout=60)
        while idle.recv(65536):  # until the server closes it
            pass
    assert Client(trusts=text(ROOT_CA), key=key, chain=text(leaf), folder=tmp_path).answers(servers) == everywhere(
        False
    )


def test_a_handshake_that_began_before_a_revocation_opens_no_connection(serve: Serve, tmp_path: Path) -> None:
    servers = serve(configuration(*GOOD, text(ROOT_CA), client_verify=True))
    leaf = ROOT.leaf(KEY)
    context = ssl.create_default_context(cadata=text(ROOT_CA).decode())
    (tmp_path / "client.pem").write_bytes(key_text(KEY) + text(leaf))
    context.load_cert_chain(tmp_path / "client.pem")
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    secure = context.wrap_bio(received, sent, server_hostname=NAME)
    with socket.create_connection(("127.0.0.1", servers.rest), timeout=60) as plain:
        with pytest.raises(ssl.SSLWantReadError):
            secure.do_handshake()
        plain.sendall(sent.read())
        received.write(plain.recv(65536))  # the server has begun
        replace(servers.path, configuration(*GOOD, text(ROOT_CA) + ROOT.revocation_list(leaf), client_verify=True))
        servers.follow()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    secure.do_handshake()
                    break
                received.write(plain.recv(65536))
            secure.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            plain.sendall(sent.read())
            while content := plain.recv(65536):
                received.write(content)
                with contextlib.suppress(ssl.SSLWantReadError):
                    assert not secure.read(65536)


def test_a_look_for_revocations_leaves_the_settings_for_the_next_handshake(tmp_path: Path) -> None:
    path, leaf = tmp_path / "ssl.cfg", ROOT.leaf(KEY)
    path.write_bytes(configuration(*GOOD, text(ROOT_CA), client_verify=True))
    check = PeerCheck(frozenset())
    check.look()
    followed = FollowedSettings(path, read_tls_settings(path, None, now=datetime.now(UTC)), check)
    peer = {b"x509_pem_cert": [text(leaf)]}
    check.look()
    assert (check(peer), followed.newer_settings()) == (None, None)
    replace(path, configuration(*GOOD, text(ROOT_CA) + ROOT.revocation_list(leaf), client_verify=True))
    check.look()
    assert check(peer) == "The client certificate is revoked."
    found = followed.newer_settings()
    assert found is not None
    assert found.revoked
    assert followed.newer_settings() is None


def test_settings_that_become_valid_later_are_taken_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ssl.cfg"
    path.write_bytes(configuration(*GOOD))
    followed = FollowedSettings(path, read_tls_settings(path, None, now=datetime.now(UTC)))
    soon = configuration(GOOD[0], text(ROOT.leaf(KEY, days=FUTURE)))
    replace(path, soon)
    for _ in range(3):
        assert followed.newer_settings() is None
    assert caplog.text.count("the previous TLS settings stay in force") == 1

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.fromtimestamp(datetime.now(tz).timestamp() + 2 * 86_400, tz)

    monkeypatch.setattr("sealserve.serving.wire.credentials.datetime", Later)
    assert followed.newer_settings() is not None
    assert followed.newer_settings() is None


def test_a_file_that_changed_before_the_ports_opened_is_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ssl.cfg"
    path.write_bytes(configuration(*GOOD))
    settings = read_tls_settings(path, None, now=datetime.now(UTC))
    replace(path, configuration(GOOD[0], text(ROOT.leaf(KEY))))  # while the model was loaded
    with caplog.at_level(logging.INFO):
        assert FollowedSettings(path, settings).newer_settings() is not None
    assert "loaded new TLS settings from" in caplog.text


def test_a_key_is_nowhere_in_an_error(tmp_path: Path) -> None:
    for (key, chain), *_ in REJECTED.values():
        (tmp_path / "ssl.cfg").write_bytes(configuration(key, chain))
        with pytest.raises(SealserveError) as caught:
            read_tls_settings(tmp_path / "ssl.cfg", None, now=datetime.now(UTC))
        secrets = {line.strip().decode("latin-1") for line in key.splitlines() if len(line.strip()) > 40}
        told = f"{caught.value} {caught.value.hint} {caught.value.__cause__!r}"
        assert not any(secret in told for secret in secrets)
    assert {path.name for path in tmp_path.iterdir()} == {"ssl.cfg"}
