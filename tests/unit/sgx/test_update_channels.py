"""The update channels of collateral: own names, URLs, cache entries and files."""

from datetime import datetime
from pathlib import Path

import httpx
import pytest

from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.evidence import SERIES_LENGTH
from sealserve.sgx.appraisal import verify_quote
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.collateral_documents import parse_tcb_info
from sealserve.sgx.collateral_requests import Document, Kind, documents_for
from sealserve.sgx.pck import PckChain
from sealserve.sgx.pcs import PcsClient
from sealserve.sgx.quote import Quote
from sealserve.sgx.report import EnclaveReport
from sealserve.sgx.simulated.pcs import PcsServer
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting_enclave import quote
from sealserve.sgx.simulated.vendor import Vendor
from sealserve.sgx.verifier import SgxVerifier, TrustedVendor
from sealserve.terms import CollateralUpdate, PlatformKind

EARLY = CollateralUpdate.EARLY
TCB = Document(Kind.TCB_INFO, "00906ED50000", EARLY)
QE = Document(Kind.QE_IDENTITY, update=EARLY)


@pytest.fixture
def raw(platform: SimulatedPlatform, report: EnclaveReport) -> bytes:
    return quote(platform, report)


@pytest.fixture
def pck(raw: bytes) -> PckChain:
    return PckChain.parse(Quote.parse(raw).pck_chain_pem)


def _number(collateral: Collateral) -> int:
    return parse_tcb_info(collateral.tcb_info).tcb_evaluation_data_number


def test_an_early_document_has_a_name_of_its_own() -> None:
    assert (TCB.name, QE.name) == ("tcb-00906ED50000-early", "qe-identity-early")
    assert (TCB.title, QE.title) == ("TCB info for FMSPC 00906ED50000 (early)", "QE identity (early)")
    for document in (TCB, QE, Document(Kind.TCB_INFO, "00906ED50000"), Document(Kind.PCK_CRL, "platform")):
        assert Document.named(document.name) == document


@pytest.mark.parametrize(
    "name",
    ["root-crl-early", "pckcrl-platform-early", "tcb-early", "qe-identity-early-early", "tcb-00906ED50000-late",
     "tcb-00906ED50000-early-early", "early", "-early"],
)  # fmt: skip
def test_other_names_are_not_documents(name: str) -> None:
    assert Document.named(name) is None


def test_the_standard_channel_sends_no_parameter() -> None:
    assert TCB.url("https://pcs/v4", "") == "https://pcs/v4/tcb?fmspc=00906ED50000&update=early"
    assert QE.url("https://pcs/v4", "") == "https://pcs/v4/qe/identity?update=early"
    standard = Document(Kind.TCB_INFO, "00906ED50000")
    assert standard.url("https://pcs/v4", "") == "https://pcs/v4/tcb?fmspc=00906ED50000"
    assert Document(Kind.QE_IDENTITY).url("https://pcs/v4", "") == "https://pcs/v4/qe/identity"


def test_revocation_lists_have_one_channel(pck: PckChain) -> None:
    early, standard = documents_for(pck, EARLY), documents_for(pck)
    assert [document.update for document in early] == ["early", "early", "standard", "standard"]
    assert early[2:] == standard[2:]


def test_the_channels_do_not_share_documents(
    vendor: Vendor, tmp_path: Path, raw: bytes, pck: PckChain, now: datetime
) -> None:
    vendor.recover_tcb(early=True, tcb_date="2026-01-13T00:00:00Z")
    with PcsServer(vendor, clock=lambda: now) as server:

        def client(update: CollateralUpdate) -> PcsClient:
            return PcsClient(
                server.url, anchor=vendor.anchor, folder=tmp_path / "folder", update=update, clock=lambda: now
            )

        with client(EARLY) as early, client(CollateralUpdate.STANDARD) as standard:
            ahead, present = early.collateral_for(pck), standard.collateral_for(pck)
    assert (_number(ahead), _number(present)) == (18, 17)
    assert verify_quote(raw, present, anchor=vendor.anchor, now=now).tcb_status is TcbStatus.UP_TO_DATE
    assert verify_quote(raw, ahead, anchor=vendor.anchor, now=now).tcb_status is TcbStatus.OUT_OF_DATE
    names = {path.stem for path in (tmp_path / "folder").iterdir()}
    assert {"tcb-5EA15E000000", "tcb-5EA15E000000-early", "qe-identity", "qe-identity-early"} <= names
    # After a restart without the service, each channel finds its own files.
    offline = httpx.MockTransport(lambda _: httpx.Response(503))
    for update, number in ((EARLY, 18), (CollateralUpdate.STANDARD, 17)):
        with (
            httpx.Client(transport=offline) as http,
            PcsClient(
                "http://pcs", http=http, anchor=vendor.anchor, folder=tmp_path / "folder", update=update,
                clock=lambda: now,
            ) as restarted,
        ):  # fmt: skip
            assert _number(restarted.collateral_for(pck)) == number


def test_a_recovery_ends_the_announcement(vendor: Vendor, now: datetime) -> None:
    before = vendor.tcb_info(now=now, early=True).text
    assert before == vendor.tcb_info(now=now).text
    vendor.recover_tcb(early=True)
    announced = vendor.tcb_info(now=now, early=True).text
    assert vendor.tcb_info(now=now).text == before
    vendor.recover_tcb()
    assert vendor.tcb_info(now=now).text == vendor.tcb_info(now=now, early=True).text == announced
    assert vendor.qe_identity(now=now).text == vendor.qe_identity(now=now, early=True).text


def test_each_channel_is_a_series(vendor: Vendor, raw: bytes, pck: PckChain) -> None:
    class Nothing:
        def cached_for(self, pck: PckChain) -> Collateral | None: ...
        def collateral_for(self, pck: PckChain) -> Collateral:
            raise NotImplementedError

        def forget(self, pck: PckChain) -> None: ...

    assert pck
    names = []
    for update in CollateralUpdate:
        trusted = TrustedVendor(anchor=vendor.anchor, collateral=Nothing(), update=update)
        verifier = SgxVerifier({PlatformKind.SIMULATED: trusted})
        names.append(verifier.read(raw).screen(PlatformKind.SIMULATED).series)
    assert names == [vendor.anchor.fingerprint, f"early:{vendor.anchor.fingerprint}"[:64]]
    assert {len(name) for name in names} == {SERIES_LENGTH}
