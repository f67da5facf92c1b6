import gzip
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from socketserver import TCPServer
from typing import Self

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.harness.errors import Expected, raises

from sealserve.attestation.claims import TcbStatus
from sealserve.sgx.appraisal import verify_quote
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.pck import PckChain
from sealserve.sgx.pcs import INTEL_ROOT_CRL, PcsClient
from sealserve.sgx.quote import Quote
from sealserve.sgx.report import EnclaveReport
from sealserve.sgx.simulated.pcs import PcsServer
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting import quote
from sealserve.sgx.simulated.vendor import Vendor


def pck_of(raw: bytes) -> PckChain:
    return PckChain.parse(Quote.parse(raw).pck_chain_pem)


@dataclass
class Clock:
    now: datetime

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Recorder:
    """An HTTP transport that records the requests and sends the configured replies."""

    status: int = 404
    body: bytes = b""
    asked: list[str] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        return httpx.Response(self.status, content=self.body)


@pytest.fixture
def clock(now: datetime) -> Clock:
    return Clock(now)


@pytest.fixture
def server(vendor: Vendor, clock: Clock) -> Iterator[PcsServer]:
    with PcsServer(vendor, clock=clock) as running:
        yield running


@pytest.fixture
def client(server: PcsServer, clock: Clock) -> Iterator[PcsClient]:
    with PcsClient(server.url, clock=clock) as connected:
        yield connected


@pytest.fixture
def raw(platform: SimulatedPlatform, report: EnclaveReport) -> bytes:
    return quote(platform, report)


def _client(recorder: Recorder, base_url: str = "http://pccs.example") -> PcsClient:
    return PcsClient(base_url, http=httpx.Client(transport=httpx.MockTransport(recorder)))


def test_what_is_fetched_verifies(client: PcsClient, vendor: Vendor, raw: bytes, now: datetime) -> None:
    collateral = client.collateral_for(pck_of(raw))
    assert verify_quote(raw, collateral, anchor=vendor.anchor, now=now).tcb_status is TcbStatus.UP_TO_DATE


def test_the_address_may_have_the_path_of_the_api(server: PcsServer, clock: Clock, raw: bytes) -> None:
    with PcsClient(f"{server.url}/sgx/certification/v4/", clock=clock) as client:
        assert client.collateral_for(pck_of(raw)).tcb_info


def test_the_roots_list_may_be_at_intels_path(server: PcsServer, clock: Clock, vendor: Vendor, raw: bytes) -> None:
    with PcsClient(server.url, root_crl_url=f"{server.url}/IntelSGXRootCA.der", clock=clock) as client:
        collateral = client.collateral_for(pck_of(raw))
    assert verify_quote(raw, collateral, anchor=vendor.anchor, now=clock.now).simulated


def test_a_cached_document_is_refreshed_in_the_background_after_a_day(
    client: PcsClient, vendor: Vendor, platform: SimulatedPlatform, raw: bytes, clock: Clock
) -> None:
    before = client.collateral_for(pck_of(raw))
    vendor.revoke(platform.chain.leaf.serial_number)
    clock.now += timedelta(hours=23)
    assert client.collateral_for(pck_of(raw)) == before
    clock.now += timedelta(hours=2)
    assert client.cached_for(pck_of(raw)) == before  # served from the cache, and refreshed
    client.wait(10)
    refreshed = client.cached_for(pck_of(raw))
    assert refreshed is not None
    assert refreshed.pck_crl != before.pck_crl


def test_answers_are_not_kept_beyond_their_next_update(server: PcsServer, clock: Clock, raw: bytes) -> None:
    with PcsClient(server.url, clock=clock, max_age=timedelta(days=365)) as client:
        before = client.collateral_for(pck_of(raw))
        clock.now += timedelta(days=29)
        assert client.cached_for(pck_of(raw)) == before  # and it starts a refresh
        client.wait(10)
        clock.now += timedelta(days=31)
        assert client.cached_for(pck_of(raw)) is None
        assert client.collateral_for(pck_of(raw)).tcb_info != before.tcb_info


def test_answers_can_be_forgotten(client: PcsClient, vendor: Vendor, raw: bytes) -> None:
    before = client.collateral_for(pck_of(raw))
    vendor.recover_tcb()
    assert client.collateral_for(pck_of(raw)) == before
    client.forget(pck_of(raw))
    assert client.cached_for(pck_of(raw)) is None
    assert client.collateral_for(pck_of(raw)).tcb_info != before.tcb_info


def test_strangers_fill_no_memory(monkeypatch: pytest.MonkeyPatch, client: PcsClient, raw: bytes) -> None:
    monkeypatch.setattr("sealserve.sgx.document_cache._MAX_CACHED", 2)
    client.collateral_for(pck_of(raw))
    assert len(client.kept()) == 2


def test_nobody_listens(server: PcsServer, raw: bytes) -> None:
    server.stop()
    with (
        PcsClient(server.url) as client,
        raises(
            SgxCode.PCS_UNREACHABLE,
            match=r"The collateral cannot be downloaded from "
            r"http://127\.0\.0\.1:\d+/sgx/certification/v4/tcb\?fmspc=5EA15E000000: the server did "
            r"not reply \(ConnectError: \[Errno 111\] Connection refused\)",
        ) as caught,
    ):
        client.collateral_for(pck_of(raw))
    assert caught.value.code == "pcs.unreachable"
    assert server.url in caught.value.message


class Drip:
    """A server that starts a reply and then sends single bytes slowly, as long as the client reads."""

    def __init__(self, begin: bytes) -> None:
        self._begin = begin
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        stream, _ = self._listener.accept()
        with stream, suppress(OSError):
            stream.sendall(self._begin)
            while not select.select([stream], [], [], 0.01)[0] or stream.recv(4096):
                stream.sendall(b"x")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()


@pytest.mark.parametrize(
    ("scheme", "begin"),
    [
        ("http", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
        ("http", b"HTTP/1.1 200 OK\r\n\r\n"),  # the reply ends when the connection ends
        ("http", b"HTTP/1.1 200 OK\r\nX-Header: "),
        ("https", b"\x16\x03\x03\x40\x00"),  # a TLS record of 16 KiB
    ],
)
def test_an_answer_that_drips_is_cut_off(raw: bytes, scheme: str, begin: bytes) -> None:
    with Drip(begin) as server:
        client = PcsClient(f"{scheme}://{server.address}", timeout=60, total=0.3)
        with (
            client,
            raises(
                SgxCode.PCS_TOO_SLOW,
                match=r"The download of collateral from .* is too slow: the reply was not complete within 0\.3 s",
            ) as caught,
        ):
            client.collateral_for(pck_of(raw))
    assert caught.value.code == "pcs.too-slow"


def test_an_unknown_kind_of_platform(raw: bytes) -> None:
    recorder = Recorder(status=404)
    with raises(
        SgxCode.PCS_NOT_FOUND,
        match=r"The PCS or PCCS does not have the document "
        r"http://pccs\.example/sgx/certification/v4/tcb\?fmspc=5EA15E000000",
    ) as caught:
        _client(recorder).collateral_for(pck_of(raw))
    assert caught.value.code == "pcs.not-found"
    assert recorder.asked == ["http://pccs.example/sgx/certification/v4/tcb?fmspc=5EA15E000000"]


@pytest.mark.parametrize("status", [302, 400, 500, 503])
def test_an_error_for_an_answer(raw: bytes, status: int) -> None:
    with raises(SgxCode.PCS_STATUS, match=f"expected HTTP status 200 for .*, got {status}") as caught:
        _client(Recorder(status=status)).collateral_for(pck_of(raw))
    assert caught.value.code == "pcs.status"


def test_an_answer_without_end(raw: bytes) -> None:
    with raises(
        SgxCode.COLLATERAL_MALFORMED,
        match=r"The reply of http://pccs\.example/sgx/certification/v4/tcb\?fmspc=5EA15E000000 is too "
        r"large: expected at most 1048576 bytes",
    ):
        _client(Recorder(status=200, body=bytes((1 << 20) + 1))).collateral_for(pck_of(raw))


@pytest.mark.parametrize(
    ("encoding", "error"),
    [("gzip, gzip", SgxCode.PCS_STATUS), ("br", SgxCode.PCS_STATUS), ("gzip", SgxCode.COLLATERAL_MALFORMED)],
)
def test_a_compressed_answer_takes_no_memory(raw: bytes, encoding: str, error: Expected) -> None:
    bomb = gzip.compress(bytes(2**24))
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers={"Content-Encoding": encoding}, stream=httpx.ByteStream(bomb))
    )
    with raises(
        error, match=r"The reply of .* is (invalid: the reply is compressed|too large: expected at most 1048576 bytes)"
    ):
        PcsClient("http://pccs.example", http=httpx.Client(transport=transport)).collateral_for(pck_of(raw))


@pytest.mark.parametrize(
    "url", ["", "pccs.example", "ftp://pccs.example", "http://", "http://pccs:port", "file:///etc/passwd"]
)
def test_what_is_no_address(url: str) -> None:
    with raises(
        SgxCode.PCS_URL,
        match=r"The address of the PCS is (not a valid URL|invalid: expected http:// or https:// and a host)",
    ) as caught:
        PcsClient(url)
    assert caught.value.code == "pcs.url"


def test_intels_service_has_the_roots_list_elsewhere() -> None:
    with PcsClient() as client:
        assert client._root_crl_url == INTEL_ROOT_CRL


def test_a_given_http_client_stays_open() -> None:
    with httpx.Client() as http:
        with PcsClient("https://pccs.example", http=http):
            pass
        assert not http.is_closed


def test_no_proxy_is_asked_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, server: PcsServer, clock: Clock, raw: bytes
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # no proxy listens there
    with PcsClient(server.url, clock=clock) as client:
        assert isinstance(Quote.parse(raw), Quote)
        assert client.collateral_for(pck_of(raw)).tcb_info


@pytest.mark.parametrize("version", ["v3", "V3", "v2", "v41"])
def test_another_version_of_the_api_is_refused(version: str) -> None:
    with raises(SgxCode.PCS_URL, match=rf"expected /sgx/certification/v4, got {version}") as caught:
        PcsClient(f"https://pccs.example/sgx/certification/{version}/")
    assert "with v4" in (caught.value.hint or "")


def test_a_ca_file_that_is_not_a_certificate(tmp_path: Path) -> None:
    for name, content, reason in (("missing", None, "No such file"), ("other", b"text", "PEM"), ("empty", b"", "PEM")):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with raises(SgxCode.PCS_CA_FILE, match=reason):
            PcsClient("https://pccs.example", ca_file=path)


class TlsPcs:
    """A PCCS on the loopback address with a private certificate, which is its own CA."""

    def __init__(self, folder: Path, service: PcsServer) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pccs")])
        today = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(today - timedelta(days=1))
            .not_valid_after(today + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.ca_file = folder / "pccs.pem"
        self.ca_file.write_bytes(certificate.public_bytes(Encoding.PEM))
        private = folder / "pccs.key"
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca_file, private)
        server = service._server
        assert isinstance(server, TCPServer)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        self.url = service.url.replace("http", "https")


def test_a_private_certificate_needs_the_ca_file(tmp_path: Path, vendor: Vendor, clock: Clock, raw: bytes) -> None:
    service = PcsServer(vendor, clock=clock)
    private = TlsPcs(tmp_path, service)
    with service:
        with (
            PcsClient(private.url, clock=clock) as client,
            raises(SgxCode.PCS_UNREACHABLE, match="CERTIFICATE_VERIFY_FAILED") as caught,
        ):
            client.collateral_for(pck_of(raw))
        assert "broker.collateral_ca_file" in (caught.value.hint or "")
        with PcsClient(private.url, clock=clock, ca_file=private.ca_file) as client:
            assert client.collateral_for(pck_of(raw)).tcb_info


def test_the_hint_names_a_proxy(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with PcsClient("http://pccs.example") as client, raises(SgxCode.PCS_UNREACHABLE, match="pccs.example") as caught:
        client.collateral_for(pck_of(raw))
    assert "http_proxy" in (caught.value.hint or "")
