"""The unavoidable parts of a key release, each measured alone on one core: TLS, verification, commit, decryption.

These parts are calls of OpenSSL, dcap-qvl and SQLite, without sealserve's code around them.
"""

import contextlib
import secrets
import select
import socket
import sqlite3
import time
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import dcap_qvl
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.x509 import load_der_x509_certificate
from OpenSSL import SSL

from sealserve.attestation.ra_tls import RaTlsKeyPair, parse_certificate
from sealserve.attestation.secret_provisioning import REQUEST
from sealserve.broker.tls import server_context
from sealserve.pki.certificate import CertifiedKey
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.trust_anchor import TrustAnchor

Part = tuple[float, float]
"""The processor time and the wall-clock time of a part, in seconds."""

_ANSWER = bytes(8 + 16)  # the header and the key
_ROW = (secrets.token_hex(450),)  # an audit row of a released key has about 900 bytes


def handshake(identity: CertifiedKey, pair: RaTlsKeyPair, *, rounds: int) -> Part:
    """Return the server's time of a TLS 1.3 handshake, and the time of both sides, with a certificate on each."""
    server_side = server_context(identity)
    client_side = SSL.Context(SSL.TLS_CLIENT_METHOD)
    client_side.use_certificate(load_der_x509_certificate(pair.certificate))
    client_side.use_privatekey(pair.private_key)
    cpu = wall = 0.0
    for _ in range(rounds):
        started = time.perf_counter()
        server, client = SSL.Connection(server_side, None), SSL.Connection(client_side, None)
        server.set_accept_state()
        client.set_connect_state()
        done = False
        while not done:
            with contextlib.suppress(SSL.WantReadError):
                client.do_handshake()
            _move(client, server)
            began = time.thread_time()
            try:
                server.do_handshake()
                done = True
            except SSL.WantReadError:
                pass
            cpu += time.thread_time() - began
            _move(server, client)
        wall += time.perf_counter() - started
        assert isinstance(pair.private_key, EllipticCurvePrivateKey)
    return cpu / rounds, wall / rounds


def session(identity: CertifiedKey, pair: RaTlsKeyPair, *, rounds: int) -> Part:
    """Return the server's time of a whole TLS session over TCP on the loopback interface, and the time of both sides.

    The server accepts the connection, performs the handshake, receives the request, sends an answer of its usual size
    and closes the connection. It calls `poll` once before each step that waits for the client. A broker has at least
    these system calls and TLS records. Both ends are in one thread, and only the server's calls are counted.
    """
    server_side = server_context(identity)
    client_side = SSL.Context(SSL.TLS_CLIENT_METHOD)
    client_side.use_certificate(load_der_x509_certificate(pair.certificate))
    client_side.use_privatekey(pair.private_key)
    cpu, started = 0.0, time.perf_counter()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(rounds):
            with socket.create_connection(listener.getsockname()) as connected:
                connected.setblocking(False)
                client = SSL.Connection(client_side, connected)
                client.set_connect_state()
                _advance(client.do_handshake)
                cpu += _serve(listener, server_side, client, connected)
    return cpu / rounds, (time.perf_counter() - started) / rounds


def _serve(listener: socket.socket, context: SSL.Context, client: SSL.Connection, connected: socket.socket) -> float:
    began = time.thread_time()
    _poll(listener)
    stream, _ = listener.accept()
    stream.setblocking(False)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = SSL.Connection(context, stream)
    server.set_accept_state()
    _poll(stream)
    _advance(server.do_handshake)
    cpu = time.thread_time() - began
    # The client completes the handshake and sends its request.
    while not _advance(client.do_handshake):
        pass
    client.sendall(REQUEST)
    began = time.thread_time()
    _poll(stream)
    while not _advance(server.do_handshake):
        _poll(stream)
    server.get_peer_certificate()
    server.recv(4096)
    server.send(_ANSWER)
    server.shutdown()
    stream.shutdown(socket.SHUT_WR)
    cpu += time.thread_time() - began
    client.recv(4096)
    connected.shutdown(socket.SHUT_RDWR)
    began = time.thread_time()
    _poll(stream)
    stream.recv(4096)
    stream.close()
    return cpu + time.thread_time() - began


def _advance(step: Callable[[], object]) -> bool:
    try:
        step()
    except SSL.WantReadError:
        return False
    return True


def _poll(stream: socket.socket) -> None:
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    if not poll.poll(10_000):
        raise SystemExit("bench: the other end of a connection did not answer")


def verification(raw: bytes, collateral: Collateral, anchor: TrustAnchor, *, rounds: int) -> Part:
    """Return the time of dcap-qvl's verification of one quote."""
    given = dcap_qvl.QuoteCollateralV3(*(getattr(collateral, field.name) for field in fields(Collateral)))
    verifier = dcap_qvl.QuoteVerifier(anchor.root_der)
    seconds = int(datetime.now(UTC).timestamp())
    policy = dcap_qvl.QuotePolicy.claims_only(seconds)
    return _timed(lambda: verifier.verify_with_policy(raw, given, seconds, policy), rounds)


def commit(folder: Path, group: int, *, rounds: int) -> Part:
    """Return the time of a release's share of an SQLite commit with `fsync` for ``group`` releases."""
    with contextlib.closing(sqlite3.connect(folder / f"group-{group}.sqlite", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE audit (seq INTEGER PRIMARY KEY, row TEXT)")

        def write() -> None:
            database.execute("BEGIN IMMEDIATE")
            for _ in range(group):
                database.execute("INSERT INTO audit (row) VALUES (?)", _ROW)
            database.execute("COMMIT")

        cpu, wall = _timed(write, rounds)
    return cpu / group, wall


def unwrap(*, rounds: int) -> Part:
    """Return the time of decrypting one release key with AES-256-GCM."""
    cipher, nonce = AESGCM(secrets.token_bytes(32)), secrets.token_bytes(12)
    wrapped = cipher.encrypt(nonce, secrets.token_bytes(16), b"context")
    return _timed(lambda: cipher.decrypt(nonce, wrapped, b"context"), rounds)


def quote_in(pair: RaTlsKeyPair) -> bytes:
    """Return the quote in an RA-TLS certificate."""
    return parse_certificate(pair.certificate).quote


def _move(source: SSL.Connection, destination: SSL.Connection) -> None:
    with contextlib.suppress(SSL.WantReadError):
        destination.bio_write(source.bio_read(1 << 16))


def _timed(call: Callable[[], object], rounds: int) -> Part:
    call()
    cpu, wall = time.thread_time(), time.perf_counter()
    for _ in range(rounds):
        call()
    return (time.thread_time() - cpu) / rounds, (time.perf_counter() - wall) / rounds
