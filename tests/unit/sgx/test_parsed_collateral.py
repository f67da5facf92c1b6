from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.sgx import parsed_collateral
from sealserve.sgx.appraisal import verify_quote
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.parsed_collateral import check_signers, parse_collateral
from sealserve.sgx.report import EnclaveReport
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting_enclave import quote
from sealserve.sgx.simulated.vendor import Vendor


@pytest.fixture
def collateral(vendor: Vendor, now: datetime) -> Collateral:
    return vendor.collateral(now=now)


def test_the_documents_of_many_quotes_are_parsed_once(  # noqa: PLR0917  # fixtures
    vendor: Vendor,
    platform: SimulatedPlatform,
    report: EnclaveReport,
    collateral: Collateral,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = quote(platform, report)
    first = verify_quote(raw, collateral, anchor=vendor.anchor, now=now)
    for name in ("parse_tcb_info", "parse_qe_identity", "parse_crl", "parse_chain", "check_signer"):
        monkeypatch.setattr(parsed_collateral, name, None)
    assert verify_quote(raw, replace(collateral), anchor=vendor.anchor, now=now) == first


def test_known_collateral_expires(
    vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport, collateral: Collateral, now: datetime
) -> None:
    raw = quote(platform, report)
    verify_quote(raw, collateral, anchor=vendor.anchor, now=now)
    with raises(SgxCode.COLLATERAL_EXPIRED, match="has expired: it was valid until"):
        verify_quote(raw, collateral, anchor=vendor.anchor, now=now + timedelta(days=365))
    with raises(SgxCode.COLLATERAL_NOT_YET_VALID, match="is not valid yet"):
        verify_quote(raw, collateral, anchor=vendor.anchor, now=now - timedelta(days=365))


def test_changed_collateral_is_parsed_and_verified_again(
    vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport, collateral: Collateral, now: datetime
) -> None:
    raw = quote(platform, report)
    verify_quote(raw, collateral, anchor=vendor.anchor, now=now)
    forged = replace(collateral, tcb_info=collateral.tcb_info.replace('"UpToDate"', '"OutOfDate"', 1))
    assert forged != collateral
    for _ in range(2):
        with raises(SgxCode.COLLATERAL_TCB_INFO_SIGNATURE, match="its signer did not sign this text"):
            verify_quote(raw, forged, anchor=vendor.anchor, now=now)


def test_errors_are_not_cached(vendor: Vendor, collateral: Collateral, tmp_path: Path, now: datetime) -> None:
    broken = replace(collateral, pck_crl=b"\x30\x00")
    for _ in range(2):
        with raises(SgxCode.COLLATERAL_MALFORMED, match="PCK CRL is malformed"):
            parse_collateral(broken)
    check_signers(collateral, vendor.anchor)
    other = Vendor.create(tmp_path / "other", now=now)
    for _ in range(2):
        with raises(SgxCode.CERTIFICATE_CHAIN_MALFORMED, match="exactly the signer and the trusted root"):
            check_signers(collateral, other.anchor)


def test_the_caches_are_bounded(vendor: Vendor, collateral: Collateral) -> None:
    for number in range(40):
        other = replace(collateral, pck_crl_issuer_chain=f"{collateral.pck_crl_issuer_chain}{number}")
        parse_collateral(other)
        check_signers(other, vendor.anchor)
    assert parse_collateral.cache_info().currsize == check_signers.cache_info().currsize == 32
