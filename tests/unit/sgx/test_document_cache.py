"""The cache of collateral: hostile services, full disks, damaged files, clock jumps, two processes."""

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness.errors import raises

from sealserve.errors import SealserveError
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.collateral_folder import CollateralFolder, Reply
from sealserve.sgx.collateral_requests import Document, Kind, documents_for
from sealserve.sgx.document_cache import DocumentCache
from sealserve.sgx.pck import PckChain
from sealserve.sgx.pcs import PcsClient
from sealserve.sgx.quote import Quote
from sealserve.sgx.report import EnclaveReport
from sealserve.sgx.simulated.pcs import PcsServer
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting import quote
from sealserve.sgx.simulated.vendor import Vendor
from sealserve.terms import CollateralUpdate

PATIENT = 20.0


@dataclass
class Clock:
    now: datetime

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Service:
    """A PCS without a network, which can be down, slow, or hostile."""

    service: PcsServer
    down: bool = False
    status: int = 200
    asked: list[str] = field(default_factory=list)
    before: Callable[[], object] = lambda: None
    change: Callable[[str, bytes], bytes] = lambda _, body: body

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path.rpartition("/")[2])
        self.before()
        if self.down:
            raise httpx.ConnectError("connection refused")
        if self.status != 200:
            return httpx.Response(self.status)
        answer = self.service._server.service.answer(str(request.url).removeprefix("http://pccs.example"))  # type: ignore[attr-defined]
        body = self.change(request.url.path, answer.body)
        return httpx.Response(answer.status, stream=httpx.ByteStream(body), headers=answer.headers)


@pytest.fixture
def clock(now: datetime) -> Clock:
    return Clock(now)


@pytest.fixture
def service(vendor: Vendor, clock: Clock) -> Iterator[Service]:
    with PcsServer(vendor, clock=clock) as running:
        yield Service(running)


@pytest.fixture
def pck(platform: SimulatedPlatform, report: EnclaveReport) -> PckChain:
    return PckChain.parse(Quote.parse(quote(platform, report)).pck_chain_pem)


Open = Callable[..., PcsClient]


@pytest.fixture
def open_client(service: Service, vendor: Vendor, clock: Clock, tmp_path: Path) -> Iterator[Open]:
    clients: list[PcsClient] = []

    def make(**changes: Any) -> PcsClient:
        http = httpx.Client(transport=httpx.MockTransport(service))
        settings = {"http": http, "clock": clock, "anchor": vendor.anchor, "folder": tmp_path / "collateral", **changes}
        clients.append(PcsClient("http://pccs.example", **settings))
        return clients[-1]

    yield make
    for client in clients:
        client.wait(PATIENT)
        client.close()


def _tick(client: PcsClient, seconds: float) -> None:
    ticks = client._cache._ticks
    client._cache._ticks = lambda: ticks() + seconds


def test_valid_collateral_is_served_for_weeks_while_the_service_is_down(
    open_client: Open, service: Service, pck: PckChain, clock: Clock
) -> None:
    client = open_client()
    before = client.collateral_for(pck)
    service.down = True
    for _ in range(29):
        clock.now += timedelta(days=1)
        assert client.collateral_for(pck) == before
        client.wait(PATIENT)
        _tick(client, 61)
    clock.now += timedelta(days=2)
    with raises(SgxCode.PCS_UNREACHABLE, match="connection refused"):
        client.collateral_for(pck)
    service.down = False
    _tick(client, 61)
    assert client.collateral_for(pck).tcb_info != before.tcb_info


def test_short_lived_collateral_is_refreshed_from_half_of_its_life(
    open_client: Open, service: Service, pck: PckChain, clock: Clock
) -> None:
    client = open_client(max_age=timedelta(days=365))
    client.collateral_for(pck)
    clock.now += timedelta(days=14)
    client.collateral_for(pck)
    client.wait(PATIENT)
    assert len(service.asked) == 4
    clock.now += timedelta(days=2)
    client.collateral_for(pck)
    client.wait(PATIENT)
    assert len(service.asked) == 8


def test_sixteen_requests_at_once_ask_once_for_each_document(
    open_client: Open, service: Service, pck: PckChain
) -> None:
    client, entered, leave = open_client(), threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert leave.wait(PATIENT)

    service.before = hold
    with ThreadPoolExecutor(16) as threads:
        asking = [threads.submit(client.collateral_for, pck) for _ in range(16)]
        assert entered.wait(PATIENT)
        leave.set()
        assert len({one.result().tcb_info for one in asking}) == 1
    assert sorted(service.asked) == ["identity", "pckcrl", "rootcacrl", "tcb"]


def test_a_request_that_looked_into_the_cache_before_a_download_ended_starts_no_second_one(
    open_client: Open, service: Service, pck: PckChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_client()
    look = DocumentCache.cached

    def too_early(cache: DocumentCache, document: Document) -> object:
        found = look(cache, document)  # the document is missing
        if found is None:
            cache._start(document).result(PATIENT)  # meanwhile, another request downloads it
        return found

    monkeypatch.setattr(DocumentCache, "cached", too_early)
    client.collateral_for(pck)
    assert sorted(service.asked) == ["identity", "pckcrl", "rootcacrl", "tcb"]


def test_a_request_that_looked_into_the_cache_before_a_download_failed_uses_distrusted_collateral(
    open_client: Open, service: Service, pck: PckChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_client()
    before = client.collateral_for(pck)
    client.forget(pck)
    service.down = True
    look = DocumentCache.cached

    def too_early(cache: DocumentCache, document: Document) -> object:
        found = look(cache, document)
        if found is None:
            with contextlib.suppress(SealserveError):
                cache._start(document).result(PATIENT)
        return found

    monkeypatch.setattr(DocumentCache, "cached", too_early)
    assert client.collateral_for(pck) == before


def test_a_refresh_does_not_delay_requests(open_client: Open, service: Service, pck: PckChain, clock: Clock) -> None:
    client, leave = open_client(), threading.Event()
    before = client.collateral_for(pck)
    service.before = lambda: leave.wait(PATIENT)
    clock.now += timedelta(days=2)
    for _ in range(3):
        assert client.collateral_for(pck) == before
    leave.set()
    client.wait(PATIENT)
    assert len(service.asked) == 8


@pytest.mark.parametrize("status", [404, 500])
def test_a_refusal_is_remembered(open_client: Open, service: Service, pck: PckChain, status: int) -> None:
    client, service.status = open_client(), status
    for _ in range(5):
        with raises(SgxCode.PCS_NOT_FOUND if status == 404 else SgxCode.PCS_STATUS, match="tcb"):
            client.collateral_for(pck)
    assert service.asked == ["tcb"]
    service.status = 200
    _tick(client, 61)
    assert client.collateral_for(pck).tcb_info


def test_pauses_after_failures_grow_to_a_minute(open_client: Open, service: Service, pck: PckChain) -> None:
    client, service.down, waited = open_client(), True, 0
    while waited < 300:
        with raises(SgxCode.PCS_UNREACHABLE, match="connection refused"):
            client.collateral_for(pck)
        _tick(client, 1)
        waited += 1
    assert 5 <= len(service.asked) <= 12


@pytest.mark.parametrize("fault", ["garbage", "changed", "other FMSPC", "huge"])
def test_a_hostile_service_displaces_no_valid_document(
    open_client: Open, service: Service, pck: PckChain, clock: Clock, fault: str
) -> None:
    client = open_client()
    before = client.collateral_for(pck)

    def change(path: str, body: bytes) -> bytes:
        if not path.endswith("/tcb"):
            return body
        return {
            "garbage": b"\x00" * 100,
            "changed": body.replace(b"UpToDate", b"UpTodate"),
            "other FMSPC": body.replace(pck.extension.fmspc.encode(), b"00" * 6),
            "huge": b" " * (2**20 + 1),
        }[fault]

    service.change = change
    clock.now += timedelta(days=2)
    client.collateral_for(pck)
    client.wait(PATIENT)
    after = client.cached_for(pck)
    assert after is not None
    assert after.tcb_info == before.tcb_info
    assert after.qe_identity != before.qe_identity


def test_an_older_document_does_not_replace_a_newer_one(open_client: Open, pck: PckChain, clock: Clock) -> None:
    client, start = open_client(), clock.now
    clock.now = start + timedelta(days=2)
    before = client.collateral_for(pck)
    clock.now = start  # the service's cache, and this machine's clock, are set back
    assert client.collateral_for(pck) == before
    client.wait(PATIENT)
    clock.now = start + timedelta(days=2)
    assert client.cached_for(pck) == before


def test_collateral_of_another_vendor_is_not_cached(
    open_client: Open, pck: PckChain, tmp_path: Path, now: datetime
) -> None:
    other = Vendor.create(tmp_path / "other", now=now)
    with raises(SgxCode.CERTIFICATE_CHAIN_MALFORMED, match="trusted root"):
        open_client(anchor=other.anchor).collateral_for(pck)
    assert not CollateralFolder(tmp_path / "collateral").names()


def test_a_restart_serves_the_stored_collateral_while_the_service_is_down(
    open_client: Open, service: Service, pck: PckChain, tmp_path: Path
) -> None:
    before = open_client().collateral_for(pck)
    folder = tmp_path / "collateral"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert not [path for path in folder.iterdir() if "partial" in path.name]
    service.down, service.asked = True, []
    again = open_client().cached_for(pck)
    assert again == before
    assert service.asked == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"\x00\xff",
        b"[" * 100_000,
        b'{"format":1,"url":"x","fetched":"2020-01-01T00:00:00Z","headers":{},"body":"%"}',
        b" " * 5_000_000,
    ],
)
def test_a_damaged_file_is_downloaded_again(
    open_client: Open, service: Service, pck: PckChain, tmp_path: Path, content: bytes
) -> None:
    before = open_client().collateral_for(pck)
    path = tmp_path / "collateral" / f"{documents_for(pck)[0].name}.json"
    intact = path.read_bytes()
    path.write_bytes(content)
    service.asked.clear()
    assert open_client().collateral_for(pck).tcb_info == before.tcb_info
    assert service.asked == ["tcb"]
    assert len(path.read_bytes()) == len(intact)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "changed", "swapped"])
def test_a_file_that_somebody_replaced_is_not_used(open_client: Open, pck: PckChain, tmp_path: Path, kind: str) -> None:
    before = open_client().collateral_for(pck)
    tcb, qe, *_ = (tmp_path / "collateral" / f"{document.name}.json" for document in documents_for(pck))
    content = tcb.read_bytes()
    tcb.unlink()
    match kind:
        case "link":
            (tmp_path / "elsewhere").write_bytes(content)
            tcb.symlink_to(tmp_path / "elsewhere")
        case "pipe":
            os.mkfifo(tcb)
        case "folder":
            tcb.mkdir()
        case "changed":
            stored = CollateralFolder(tmp_path / "collateral")
            tcb.write_bytes(content)
            reply = stored.read(documents_for(pck)[0].name)
            assert reply is not None
            number = b'"tcbEvaluationDataNumber":'
            altered = replace(reply, body=reply.body.replace(number + b"17", number + b"99"))
            assert altered.body != reply.body
            stored.write(documents_for(pck)[0].name, altered)
        case "swapped":
            tcb.write_bytes(qe.read_bytes())
    assert open_client().cached_for(pck) is None
    assert open_client().collateral_for(pck).tcb_info == before.tcb_info


def test_a_full_disk_costs_only_the_file(
    open_client: Open, pck: PckChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    client = open_client()
    assert client.collateral_for(pck) == client.cached_for(pck)
    assert "only in memory" in caplog.text
    assert {path.suffix for path in (tmp_path / "collateral").iterdir()} == {".lock"}  # empty files


def test_two_processes_ask_the_service_once_for_each_document(
    open_client: Open, service: Service, pck: PckChain
) -> None:
    # Each cache has its own lock on the files, as in two processes.
    both_ask = threading.Barrier(2)
    clients = [open_client(), open_client()]

    def ask(client: PcsClient) -> Collateral:
        both_ask.wait(PATIENT)
        return client.collateral_for(pck)

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(ask, clients)
    assert first == second
    assert len(service.asked) == len(set(service.asked)) == 4


def test_a_process_that_keeps_a_document_locked_does_not_stop_the_others(
    open_client: Open, service: Service, pck: PckChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CollateralFolder(tmp_path / "collateral")
    client = open_client()
    monkeypatch.setattr(client._cache, "_patience", 0.1)
    with contextlib.ExitStack() as held:
        for document in documents_for(pck, CollateralUpdate.STANDARD):
            held.enter_context(folder.alone(document.name, seconds=1))
        for document in documents_for(pck, CollateralUpdate.STANDARD):
            client.refresh(document)
    assert len(service.asked) == 4


def test_a_clock_that_jumps_costs_no_document(open_client: Open, service: Service, pck: PckChain, clock: Clock) -> None:
    client, start = open_client(), clock.now
    before = client.collateral_for(pck)
    service.down = True
    clock.now = start + timedelta(days=4000)
    with raises(SgxCode.PCS_UNREACHABLE, match="refused"):
        client.collateral_for(pck)
    clock.now = start - timedelta(days=4000)
    assert client.cached_for(pck) == before  # the verification rejects it as not yet valid
    client.wait(PATIENT)
    clock.now = start
    assert client.cached_for(pck) == before
    service.asked.clear()
    assert open_client().cached_for(pck) == before
    assert service.asked == []


def test_two_processes_share_a_folder(open_client: Open, service: Service, pck: PckChain, clock: Clock) -> None:
    first, second = open_client(), open_client()
    before = first.collateral_for(pck)
    assert second.cached_for(pck) == before
    assert len(service.asked) == 4
    clock.now += timedelta(days=2)
    for document in documents_for(pck):
        second.refresh(document)
    service.down, service.asked = True, []
    first.collateral_for(pck)  # due: the refresh finds the other process's files
    first.wait(PATIENT)
    assert first.cached_for(pck) == second.cached_for(pck) != before
    assert service.asked == []


def test_distrusted_collateral_is_downloaded_again_at_most_once_a_minute(
    open_client: Open, service: Service, pck: PckChain
) -> None:
    client = open_client()
    before = client.collateral_for(pck)
    for _ in range(10):
        client.forget(pck)
        assert client.collateral_for(pck).tcb_info == before.tcb_info
    assert len(service.asked) == 8
    _tick(client, 61)
    client.forget(pck)
    client.collateral_for(pck)
    assert len(service.asked) == 12


def test_distrusted_collateral_stays_while_the_service_is_down(
    open_client: Open, service: Service, pck: PckChain
) -> None:
    client = open_client()
    before = client.collateral_for(pck)
    service.down = True
    client.forget(pck)
    assert client.collateral_for(pck) == before
    assert client.cached_for(pck) == before  # during the pause, without waiting


def test_an_expired_document_is_refused_and_remembered(
    open_client: Open, service: Service, pck: PckChain, clock: Clock
) -> None:
    client, start = open_client(), clock.now

    def late(_path: str, body: bytes) -> bytes:
        clock.now = start + timedelta(days=60)
        return body

    service.change = late
    for _ in range(3):
        with raises(SgxCode.COLLATERAL_EXPIRED, match="TCB info for FMSPC"):
            client.collateral_for(pck)
    assert service.asked == ["tcb"]


def test_names_of_documents() -> None:
    for name in ("tcb-00906ED50000", "qe-identity", "pckcrl-processor", "pckcrl-platform", "root-crl"):
        document = Document.named(name)
        assert document is not None
        assert document.name == name
    for name in ("tcb", "tcb-00906ed50000", "tcb-../x", "pckcrl-other", "qe-identity-1", "root-crl-x", ""):
        assert Document.named(name) is None
    assert Document(Kind.TCB_INFO, "00906ED50000").title == "TCB info for FMSPC 00906ED50000"
    with pytest.raises(ValueError, match="not the name"):
        CollateralFolder(Path()).read("../secret")


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    # The user of the broker's container can write to the parent folder, and root lists and refreshes the collateral.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "root-crl.json").write_text("{}")
    link = tmp_path / "sgx"
    link.symlink_to(elsewhere)
    folder = CollateralFolder(link)
    folder.write("tcb-00906ED50000", Reply(url="https://pcs", fetched=datetime.now(UTC), body=b"x", headers={}))
    assert [path.name for path in elsewhere.iterdir()] == ["root-crl.json"]
    assert folder.names() == []
    assert folder.read("root-crl") is None
    assert folder.stamp("root-crl") is None
