"""What an owner learns before a broker for genuine enclaves runs. The simulated vendor takes Intel's place."""

import secrets
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.harness.workspaces import Site, make_site

from sealserve.broker import platforms
from sealserve.broker.database import Database
from sealserve.doctor.broker_checks import broker
from sealserve.doctor.finding import Finding, Verdict
from sealserve.owner import simulation
from sealserve.owner.attestation import open_client, trust_anchors
from sealserve.sgx.collateral_requests import Document, Kind
from sealserve.sgx.simulated.pcs import PcsServer
from sealserve.terms import PlatformKind


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolve ``broker.example`` only, without a network."""

    def resolve(name: str) -> list[str]:
        if name != "broker.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ["192.0.2.1", "192.0.2.9"]

    monkeypatch.setattr("sealserve.doctor.broker_checks.addresses_of", resolve)


@pytest.fixture
def owner(tmp_path: Path) -> Site:
    """A workspace that trusts the root of a simulated vendor."""
    return make_site(tmp_path / "owner")


@pytest.fixture
def url(owner: Site) -> Iterator[str]:
    with PcsServer(simulation.open_vendor(owner.workspace, now=owner.now)) as server:
        yield server.url


def _check(owner: Site, tmp_path: Path, *, after: timedelta = timedelta(), **settings: str) -> dict[str, Finding]:
    settings = {"address": "broker.example", **settings}
    described = make_site(tmp_path / secrets.token_hex(4), broker=settings).deployment
    found = broker(owner.workspace, described, PlatformKind.SIMULATED, now=datetime.now(UTC) + after)
    return {finding.name: finding for finding in found}


def _store(owner: Site, tmp_path: Path, url: str) -> None:
    described = make_site(tmp_path / secrets.token_hex(4), broker={"collateral_url": url}).deployment
    anchor = trust_anchors(owner.workspace)[PlatformKind.SIMULATED]
    with open_client(owner.workspace, described, PlatformKind.SIMULATED, anchor) as client:
        client.refresh(Document(Kind.QE_IDENTITY))


def test_a_broker_that_can_start_has_no_complaint(owner: Site, tmp_path: Path, url: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in owner.directory.rglob("*")}
    found = _check(owner, tmp_path, collateral_url=url)
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}
    assert found["broker address"].found == "broker.example is 192.0.2.1, 192.0.2.9"
    assert "TCB evaluation data number 17" in found["collateral service"].found
    assert {path: path.stat().st_mtime_ns for path in owner.directory.rglob("*")} == before


def test_an_ip_address_is_noted_for_older_gramine(owner: Site, tmp_path: Path, url: str) -> None:
    finding = _check(owner, tmp_path, collateral_url=url, address="192.0.2.1")["broker address"]
    assert finding.verdict is Verdict.NOTE
    assert "192.0.2.1; enclaves with Gramine before 1.6" in finding.found


def test_a_name_that_does_not_resolve_is_noted(owner: Site, tmp_path: Path, url: str) -> None:
    finding = _check(owner, tmp_path, collateral_url=url, address="nowhere.example")["broker address"]
    assert finding.verdict is Verdict.NOTE
    assert "cannot resolve broker.address nowhere.example: Name or service not known" in finding.found


@pytest.mark.usefixtures("url")
def test_a_service_that_is_down_is_missing(owner: Site, tmp_path: Path) -> None:
    finding = _check(owner, tmp_path, collateral_url="http://127.0.0.1:1")["collateral service"]
    assert finding.verdict is Verdict.MISSING
    assert "http://127.0.0.1:1/" in finding.found
    assert finding.remedy


@pytest.mark.usefixtures("url")
def test_the_service_of_another_vendor_is_missing(owner: Site, tmp_path: Path) -> None:
    other = make_site(tmp_path / "other")
    with PcsServer(simulation.open_vendor(other.workspace, now=other.now)) as server:
        finding = _check(owner, tmp_path, collateral_url=server.url)["collateral service"]
    assert finding.verdict is Verdict.MISSING


def test_stored_documents_that_the_broker_would_refuse_are_noted(owner: Site, tmp_path: Path, url: str) -> None:
    _store(owner, tmp_path, url)
    assert "collateral" not in _check(owner, tmp_path, collateral_url=url)
    owner.workspace.owner.database.parent.mkdir(exist_ok=True)
    with Database.open(owner.workspace.owner.database) as database, database.write() as connection:
        platforms.raise_evaluation_floor(connection, "ab" * 32, PlatformKind.SIMULATED, 18, now=owner.now)
    finding = _check(owner, tmp_path, collateral_url=url)["collateral"]
    assert finding.verdict is Verdict.NOTE
    assert finding.found == "the stored QE identity has the evaluation number 17, below the floor 18"
    assert finding.remedy == "run `sealserve broker collateral --refresh`"
    finding = _check(owner, tmp_path, collateral_url=url, after=timedelta(days=60))["collateral"]
    assert "the stored QE identity expired on" in finding.found
