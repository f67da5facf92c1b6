"""A clock that is up to five minutes slow accepts new documents and certificates, but no expired ones."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.harness.errors import raises

from sealserve.clock import CLOCK_SKEW
from sealserve.sgx.appraisal import VerifiedQuote, verify_quote
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.collateral_documents import parse_tcb_info
from sealserve.sgx.pck import PckCa
from sealserve.sgx.report import Attributes, EnclaveReport, MrEnclave, MrSigner
from sealserve.sgx.simulated import documents
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting import quote
from sealserve.sgx.simulated.vendor import Vendor

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
A_DAY = timedelta(days=1)  # how long before their issue the simulated vendor's certificates become valid
REPORT = EnclaveReport(
    attributes=Attributes(flags=0x5, xfrm=0xE7), mr_enclave=MrEnclave(bytes(32)), mr_signer=MrSigner(bytes(32)),
    isv_prod_id=1, isv_svn=1, report_data=bytes(64),
)  # fmt: skip


class World:
    """A vendor whose certificates start at ``starts``, and a quote of one of its platforms."""

    def __init__(self, folder: Path, *, starts: datetime) -> None:
        self.vendor = Vendor.create(folder / "vendor", now=starts + A_DAY)
        self.raw = quote(SimulatedPlatform.create(self.vendor, folder / "platform", now=starts + A_DAY), REPORT)

    def verify(self, collateral: Collateral, now: datetime) -> VerifiedQuote:
        return verify_quote(self.raw, collateral, anchor=self.vendor.anchor, now=now)

    def collateral(self, **issued: datetime) -> Collateral:
        """Return collateral that was issued a day ago, except for the named parts."""
        vendor, before = self.vendor, NOW - A_DAY
        tcb_info = vendor.tcb_info(now=issued.get("tcb_info", before))
        qe_identity = vendor.qe_identity(now=issued.get("qe_identity", before))
        return replace(
            vendor.collateral(now=before),
            tcb_info=tcb_info.text, tcb_info_signature=tcb_info.signature,
            qe_identity=qe_identity.text, qe_identity_signature=qe_identity.signature,
            pck_crl=vendor.pck_crl(PckCa.PLATFORM, now=issued.get("pck_crl", before)),
            root_ca_crl=vendor.root_crl(now=issued.get("root_crl", before)),
        )  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), starts=NOW - timedelta(days=30))


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity", "pck_crl", "root_crl"])
@pytest.mark.parametrize("slow", [SECOND, 2 * SECOND, CLOCK_SKEW], ids=str)
def test_a_fresh_document_is_accepted_by_a_slow_clock(world: World, part: str, slow: timedelta) -> None:
    assert world.verify(world.collateral(**{part: NOW}), NOW - slow).tcb_status == "UpToDate"
    with raises(
        SgxCode.COLLATERAL_NOT_YET_VALID,
        match=r"The .* is not valid yet: it was issued at 2026-01-15T12:00:00Z, and the time is "
        r"2026-01-15T11:54:59Z",
    ):
        world.verify(world.collateral(**{part: NOW}), NOW - CLOCK_SKEW - SECOND)


def test_all_of_it_may_be_fresh(world: World) -> None:
    fresh = world.vendor.collateral(now=NOW)
    assert world.verify(fresh, NOW - CLOCK_SKEW).tcb_status == "UpToDate"
    assert world.verify(fresh, NOW - timedelta(microseconds=1)).tcb_status == "UpToDate"


def test_fractions_of_a_second_are_no_trap(world: World) -> None:
    start = world.collateral()
    text = documents.encode(json.loads(start.tcb_info) | {"issueDate": "2026-01-15T12:00:00.75Z"})
    document = world.vendor.sign(text)
    changed = replace(start, tcb_info=document.text, tcb_info_signature=document.signature)
    assert world.verify(changed, NOW).tcb_status == "UpToDate"


def test_what_has_ended_stays_void(world: World) -> None:
    ends = NOW - A_DAY + timedelta(days=30)
    assert world.verify(world.collateral(), ends - SECOND).tcb_status == "UpToDate"
    with raises(SgxCode.COLLATERAL_EXPIRED):
        world.verify(world.collateral(), ends + SECOND)
    with raises(SgxCode.COLLATERAL_EXPIRED):  # a new part shows that the clock is slow, so the other parts have expired
        world.verify(world.collateral(root_crl=ends + 2 * SECOND), ends - SECOND)


def test_fresh_certificates_are_accepted_by_a_slow_clock(tmp_path: Path) -> None:
    fresh = World(tmp_path, starts=NOW)
    collateral = fresh.vendor.collateral(now=NOW - A_DAY)
    for now in (NOW, NOW - SECOND, NOW - CLOCK_SKEW):
        assert fresh.verify(collateral, now).tcb_status == "UpToDate"
    with raises(SgxCode.CERTIFICATE_CHAIN_VALIDITY):
        fresh.verify(collateral, NOW - CLOCK_SKEW - SECOND)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_utc_has_not_is_malformed(world: World, moment: str) -> None:
    changes: dict[str, Any] = {"issueDate": moment, "nextUpdate": moment}
    text = documents.encode(json.loads(world.collateral().tcb_info) | changes)
    with raises(SgxCode.COLLATERAL_MALFORMED, match="issueDate"):
        parse_tcb_info(text)
