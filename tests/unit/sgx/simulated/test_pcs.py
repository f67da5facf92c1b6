import json
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest
from tests.harness.errors import raises

from sealserve.attestation.claims import TcbStatus
from sealserve.sgx.appraisal import verify_quote
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.pck import PckCa, PckChain
from sealserve.sgx.pcs import PcsClient
from sealserve.sgx.quote import Quote
from sealserve.sgx.report import EnclaveReport
from sealserve.sgx.simulated.pcs import PcsServer
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting import quote
from sealserve.sgx.simulated.vendor import Vendor

API = "/sgx/certification/v4"


def pck_of(raw: bytes) -> PckChain:
    return PckChain.parse(Quote.parse(raw).pck_chain_pem)


@pytest.fixture
def server(vendor: Vendor, now: datetime) -> Iterator[PcsServer]:
    with PcsServer(vendor, clock=lambda: now) as running:
        yield running


@pytest.fixture
def http(server: PcsServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "member", "header"),
    [
        ("/tcb?fmspc=5EA15E000000", "tcbInfo", "TCB-Info-Issuer-Chain"),
        ("/tcb?fmspc=5ea15e000000&update=standard", "tcbInfo", "TCB-Info-Issuer-Chain"),
        ("/qe/identity", "enclaveIdentity", "SGX-Enclave-Identity-Issuer-Chain"),
    ],
)
def test_documents_have_the_shape_of_the_pcs(
    http: httpx.Client, vendor: Vendor, path: str, member: str, header: str
) -> None:
    answer = http.get(API + path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == [member, "signature"]
    assert "%0A" in answer.headers[header]
    assert unquote(answer.headers[header]) == vendor.signing_chain()
    # the reassembled collateral of the client equals the signed data
    assert json.dumps(answer.json()[member], separators=(",", ":")) in answer.text


def test_lists_have_the_shape_of_the_pcs(http: httpx.Client, vendor: Vendor) -> None:
    answer = http.get(f"{API}/pckcrl?ca=platform&encoding=der")
    assert answer.headers["content-type"] == "application/pkix-crl"
    assert answer.content[0] == 0x30
    assert unquote(answer.headers["SGX-PCK-CRL-Issuer-Chain"]).startswith("-----BEGIN CERTIFICATE-----")
    assert vendor.pck_ca_chain(PckCa.PLATFORM) == unquote(answer.headers["SGX-PCK-CRL-Issuer-Chain"])
    assert http.get("/IntelSGXRootCA.der").content[0] == 0x30
    assert bytes.fromhex(http.get(f"{API}/rootcacrl").text)[0] == 0x30


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404),
        (f"{API}/tcb", 404),
        (f"{API}/tcb?fmspc=000000000000", 404),
        (f"{API}/pckcrl", 400),
        (f"{API}/pckcrl?ca=other", 400),
    ],
)
def test_odd_requests(http: httpx.Client, path: str, status: int) -> None:
    assert http.get(path).status_code == status


def test_a_target_that_is_no_url(server: PcsServer) -> None:
    with socket.create_connection((server.host, server.port), timeout=10) as connection:
        connection.sendall(b"GET http://[ HTTP/1.1\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 400"


def test_a_vendor_that_is_gone_is_an_error_of_the_service(http: httpx.Client, vendor: Vendor) -> None:
    (vendor.folder / "vendor.json").unlink()
    assert http.get(f"{API}/qe/identity").status_code == 500


def test_a_hostile_service_with_a_stolen_key(
    vendor: Vendor, platform: SimulatedPlatform, tmp_path: Path, report: EnclaveReport, now: datetime
) -> None:
    old = SimulatedPlatform.create(vendor, tmp_path / "old", now=now, out_of_date=True)
    raw = quote(old, report)
    with PcsServer(vendor, clock=lambda: now) as honest, PcsClient(honest.url, clock=lambda: now) as client:
        collateral = client.collateral_for(pck_of(raw))
        assert verify_quote(raw, collateral, anchor=vendor.anchor, now=now).tcb_status is TcbStatus.OUT_OF_DATE
    hostile = PcsServer(vendor, clock=lambda: now, stolen=platform)
    with hostile, PcsClient(hostile.url, clock=lambda: now) as client:
        collateral = client.collateral_for(pck_of(raw))
    assert {level["tcbStatus"] for level in json.loads(collateral.tcb_info)["tcbLevels"]} == {"UpToDate"}
    with raises(
        SgxCode.COLLATERAL_SIGNER_NOT_TCB_SIGNING,
        match=r"The TCB info is not signed by the TCB signing key: expected the signer 'SGX TCB Signing "
        r"\(simulated\)', got 'SGX PCK Certificate \(simulated\)' \(a platform certificate\)",
    ) as caught:
        verify_quote(raw, collateral, anchor=vendor.anchor, now=now)
    assert caught.value.code == "collateral.signer-not-tcb-signing"


def test_a_port_that_is_taken(server: PcsServer, vendor: Vendor) -> None:
    with raises(SgxCode.PCS_PORT_TAKEN, match=f"cannot listen on 127.0.0.1:{server.port}") as caught:
        PcsServer(vendor, port=server.port)
    assert caught.value.code == "pcs.port-taken"
