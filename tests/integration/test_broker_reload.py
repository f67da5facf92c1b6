"""A running broker takes a new certificate and a new master key without a restart."""

import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from OpenSSL import SSL, crypto
from tests.harness.model_server import free_port
from tests.harness.running import command, run
from tests.harness.running_broker import PATIENT, Owned, RunningBroker, owned

from sealserve.attestation.ra_tls import make_certificate
from sealserve.attestation.result_request import ResultRequest
from sealserve.attestation.result_token import verify_result
from sealserve.attestation.secret_provisioning import REQUEST, ProvisioningClient
from sealserve.attestation.strict_encoding import decode_base64url
from sealserve.broker.administration.administrator_file import AdministratorFile
from sealserve.broker.administration.client import RemoteAdministration
from sealserve.enclave.simulated.provisioning import connect, fetch_result
from sealserve.owner import administrators
from sealserve.owner.certificates import broker_certificate, broker_certificate_files
from sealserve.owner.token_keys import published_keys
from sealserve.pki.authority import CERTIFICATE_FILE, Authority, AuthorityKind
from sealserve.pki.certificate import CertifiedKey
from sealserve.terms import AdministratorRole

NAME = "attestation.service.com"
LOOPBACK = ipaddress.ip_address("127.0.0.1")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Passing pyOpenSSL X509 objects:DeprecationWarning"),
]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owned]:
    with owned(tmp_path / "site") as owner:
        yield owner


def presented(broker: RunningBroker) -> bytes:
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", broker.port), timeout=PATIENT))


def leaf(chain_pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(chain_pem.decode().partition("-----END CERTIFICATE-----")[0] + ssl.PEM_FOOTER)


def authority(owner: Owned) -> Authority:
    return Authority.load(owner.site.workspace.owner.authorities / AuthorityKind.BROKER)


def page(owner: Owned) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{owner.metrics_port}/metrics", timeout=PATIENT) as answer:
        text: str = answer.read().decode()
    return text


def put(owner: Owned, identity: CertifiedKey) -> None:
    certificate, key = broker_certificate_files(owner.site.workspace)
    identity.write(certificate=certificate, key=key)


def test_a_renewed_certificate_is_used_without_a_restart(owner: Owned) -> None:
    with owner.broker() as broker:
        before = presented(broker)
        assert leaf(broker_certificate(owner.site.workspace).chain_pem) == before
        assert run("certs", "renew", "-C", owner.site.directory).status == 0
        broker.until("reloaded the certificate")
        after = presented(broker)
        assert after != before
        assert after == leaf(broker_certificate(owner.site.workspace).chain_pem)
        assert owner.ask() == owner.made.key.reveal()


def test_a_handshake_that_has_begun_goes_on_with_the_former_certificate(owner: Owned) -> None:
    pair = make_certificate(owner.quote, owner.site.now)
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.use_certificate(crypto.load_certificate(crypto.FILETYPE_ASN1, pair.certificate))
    context.use_privatekey(pair.private_key)
    with owner.broker() as broker, socket.create_connection(("127.0.0.1", owner.port), timeout=PATIENT) as stream:
        before = presented(broker)
        tls = SSL.Connection(context, None)
        tls.set_connect_state()
        with pytest.raises(SSL.WantReadError):
            tls.do_handshake()
        stream.sendall(tls.bio_read(1 << 16))
        first = stream.recv(1 << 16)  # the broker has chosen its certificate
        put(owner, authority(owner).issue_server([NAME], [LOOPBACK], now=owner.site.now))
        broker.hang_up()
        broker.until("reloaded the certificate")
        assert presented(broker) != before
        client = ProvisioningClient()
        tls.bio_write(first)
        asked = done = False
        while not done:
            try:
                if not asked:
                    tls.do_handshake()
                    tls.sendall(REQUEST)
                    asked = True
                done = client.receive(tls.recv(4096))
            except SSL.WantReadError:
                if sending := pending(tls):
                    stream.sendall(sending)
                tls.bio_write(stream.recv(1 << 16))
        shown = tls.get_peer_certificate()
        assert shown is not None
        assert crypto.dump_certificate(crypto.FILETYPE_ASN1, shown) == before
        assert client.secret().reveal() == owner.made.key.reveal()


def pending(tls: SSL.Connection) -> bytes:
    try:
        return tls.bio_read(1 << 16)
    except SSL.WantReadError:
        return b""


def test_an_unusable_certificate_leaves_the_former_one_in_place(owner: Owned) -> None:
    certificate, key = broker_certificate_files(owner.site.workspace)
    now, site = owner.site.now, authority(owner)
    mine = broker_certificate(owner.site.workspace)
    other = site.issue_server([NAME], [LOOPBACK], now=now)
    past = now - timedelta(days=60)
    former = Authority.create(AuthorityKind.BROKER, names=[NAME], addresses=[LOOPBACK], simulated=True, now=past)
    broken: dict[str, CertifiedKey] = {
        "certificate.key-mismatch": CertifiedKey(key_pem=other.key_pem, chain_pem=mine.chain_pem),
        "certificate.unreadable": CertifiedKey(key_pem=other.key_pem, chain_pem=b"none"),
        "certificate.expired": former.issue_server([NAME], [LOOPBACK], now=past, days=30),
        "broker.certificate-unusable": site.issue_server([NAME], now=now),  # not its address
    }
    with owner.broker() as broker:
        before = presented(broker)
        for code, identity in broken.items():
            put(owner, identity)
            broker.hang_up()
            broker.until(f"cannot reload the certificate, so the broker continues with the former one: [{code}]")
            assert presented(broker) == before
            assert owner.ask() == owner.made.key.reveal()
            assert 'last_reload_successful{file="certificate"} 0.0' in page(owner)
            assert 'last_reload_successful{file="master key"} 1.0' in page(owner)
        # Missing files, a folder and a pipe are errors too, and none of them stops the broker.
        for path in (certificate, key):
            path.unlink()
        broker.hang_up()
        broker.until("[certificate.missing]")
        certificate.mkdir()
        os.mkfifo(key)
        broker.hang_up()
        broker.until("[input-file.not-regular]")
        certificate.rmdir()
        key.unlink()
        put(owner, other)
        broker.until("reloaded the certificate")
        assert 'last_reload_successful{file="certificate"} 1.0' in page(owner)
        assert f'stage_duration_seconds_count{{stage="whole"}} {len(broken)}.0' in page(owner)
        assert presented(broker) == leaf(other.chain_pem)


@pytest.mark.parametrize("passphrase", [False, True])
def test_a_rotated_master_key_needs_no_restart(tmp_path: Path, *, passphrase: bool) -> None:
    keystore: dict[str, object] = {}
    if passphrase:
        file = tmp_path / "passphrase"
        file.touch(mode=0o600)
        file.write_text("correct horse battery staple")
        keystore = {"passphrase_file": file}
    with owned(tmp_path / "site", keystore=keystore) as owner:
        if passphrase:
            rotated = run("broker", "rotate-master", "--passphrase-file", tmp_path / "passphrase",
                          "-C", owner.site.directory)  # fmt: skip
            assert rotated.status == 0, rotated.err
        with owner.broker() as broker:
            assert owner.ask() == owner.made.key.reveal()
            rotated = run("broker", "rotate-master", "-C", owner.site.directory)
            assert rotated.status == 0, rotated.err
            assert "restart" not in rotated.err
            # The first request after the rotation gets its key, whether the broker has noticed the new file or not.
            assert owner.ask() == owner.made.key.reveal()
            broker.until("reloaded the master key")


def test_enclaves_get_their_keys_while_the_master_key_is_rotated(owner: Owned) -> None:
    with owner.broker():
        owner.ask()  # the collateral is cached now
        ended = threading.Event()
        keys: list[bytes] = []

        def ask() -> None:
            while not ended.is_set():
                keys.append(owner.ask())

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            assert run("broker", "rotate-master", "-C", owner.site.directory).status == 0
        ended.set()
        for thread in threads:
            thread.join()
        assert set(keys) == {owner.made.key.reveal()}


def test_hanging_up_and_changing_files_never_ends_the_broker(owner: Owned) -> None:
    with owner.broker() as broker:
        master = owner.site.workspace.owner.master_key
        content = master.read_bytes()
        master.write_bytes(b"too short")
        broker.hang_up()
        broker.until("[keystore.master-key-length]")
        assert owner.ask() == owner.made.key.reveal()
        master.write_bytes(content)
        broker.until("reloaded the master key")
        assert owner.ask() == owner.made.key.reveal()
        broker.process.send_signal(signal.SIGTERM)
        broker.until("the broker has stopped")
        assert broker.process.wait(PATIENT) == 0


def result_of(owner: Owned) -> str:
    """Ask for an attestation result as an enclave does, and return the token."""
    ca = (owner.site.workspace.owner.authorities / AuthorityKind.BROKER / CERTIFICATE_FILE).read_bytes()
    broker = connect([("127.0.0.1", owner.port)], timeout=PATIENT)
    asked = ResultRequest(audience="me", nonce=bytes(32))
    return fetch_result(broker, asked, broker_ca=ca, quote_for=owner.quote, now=owner.site.now, timeout=PATIENT)


def key_of(owner: Owned, token: str) -> str:
    """Verify a token with the published keys, and return the id of its key."""
    keys = published_keys(owner.site.workspace)
    now = datetime.now(UTC)
    verify_result(token, keys, now=now, issuer=NAME, audience="me", nonce=bytes(32), dangerous_simulated=True)
    header = json.loads(decode_base64url(token.partition(".")[0]))
    found: str = header["kid"]
    return found


def test_a_rotated_token_key_signs_without_a_restart(owner: Owned) -> None:
    with owner.broker() as broker:
        before = key_of(owner, result_of(owner))
        rotated = run("broker", "token", "rotate", "--yes", "--json", "-C", owner.site.directory)
        assert rotated.status == 0, rotated
        broker.until("reloaded the token signing key")
        assert key_of(owner, result_of(owner)) == rotated.json["key"] != before
        # An invalid file leaves the former key in place, and the metrics report it.
        owner.site.workspace.owner.token_signing_key.write_bytes(b"broken")
        broker.until("cannot reload the token signing key")
        assert 'sealserve_broker_last_reload_successful{file="token signing key"} 0.0' in page(owner)
        assert result_of(owner)


@pytest.fixture
def administered(tmp_path: Path) -> Iterator[tuple[Owned, str, Path]]:
    """An owner with remote administration, its address, and the file of an operator."""
    port, file = free_port(), tmp_path / "alice.json"
    with owned(tmp_path / "site", broker={"admin_port": port}) as owner:
        administrators.issue(
            owner.site.workspace, owner.site.deployment, "alice", AdministratorRole.OPERATOR, file,
            now=owner.site.now, days=30,
        )  # fmt: skip
        yield owner, f"https://127.0.0.1:{port}", file


def test_the_administration_port_uses_the_same_certificate(administered: tuple[Owned, str, Path]) -> None:
    owner, url, file = administered
    certificate, key = broker_certificate_files(owner.site.workspace)

    def shown() -> bytes:
        port = int(url.rpartition(":")[2])
        return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port), timeout=PATIENT))

    with (
        owner.broker() as broker,
        RemoteAdministration(url, AdministratorFile.read(file), now=datetime.now(UTC)) as client,
    ):
        before = presented(broker)
        assert shown() == before
        # A key without its certificate is not used, neither for enclaves nor for administrators.
        other = authority(owner).issue_server([NAME], [LOOPBACK], now=owner.site.now)
        key.write_bytes(other.key_pem.reveal())
        broker.until("cannot reload the certificate")
        assert (shown(), client.status().keys) == (before, 1)
        # The pair is used by both at once.
        put(owner, other)
        broker.until("reloaded the certificate")
        assert shown() == presented(broker) == leaf(other.chain_pem) != before
        assert client.status().keys == 1
    assert certificate.exists()


def test_the_log_is_followed_over_the_network(administered: tuple[Owned, str, Path]) -> None:
    owner, url, file = administered
    follow = (
        "--broker",
        url,
        "--administrator",
        file,
        "broker",
        "log",
        "--follow",
        "--json",
        "--release",
        "half-plus-two",
    )
    with (
        owner.broker(),
        subprocess.Popen(
            command(*follow), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/", start_new_session=True
        ) as process,
    ):
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        owner.ask()
        lines.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENT)
    assert (process.returncode, rest, errors) == (0, "", "")
    assert [json.loads(line)["decision"] for line in lines] == ["allowed", "released"]
