"""TCB levels: the rating is the one of dcap-qvl, and a newer level starts the grace period."""

import json
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tests.harness.errors import raises

from sealserve.attestation.claims import TcbStatus
from sealserve.errors import SealserveError
from sealserve.sgx.appraisal import VerifiedQuote, verify_quote
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.report import EnclaveReport
from sealserve.sgx.simulated.documents import CPU_SVN, OLD_CPU_SVN, OLD_PCE_SVN, PCE_SVN, TcbLevel
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting_enclave import quote
from sealserve.sgx.simulated.vendor import Vendor
from sealserve.sgx.tcb_levels import TcbRating, rate


def _rate(collateral: Collateral, cpu_svn: bytes = CPU_SVN, pce_svn: int = PCE_SVN, qe_svn: int = 8) -> TcbRating:
    return rate(collateral.tcb_info, collateral.qe_identity, cpu_svn=cpu_svn, pce_svn=pce_svn, qe_svn=qe_svn)


def _verify(vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport, now: datetime) -> VerifiedQuote:
    return verify_quote(quote(platform, report), vendor.collateral(now=now), anchor=vendor.anchor, now=now)


def _level(number: int, status: TcbStatus, dated: str, *, pce_svn: int = 0) -> TcbLevel:
    return TcbLevel(
        cpu_svn=(bytes([number]) + bytes(15)).hex(), pce_svn=pce_svn, tcb_date=f"{dated}T00:00:00Z", status=status
    )


@pytest.mark.parametrize("status", [status for status in TcbStatus if status is not TcbStatus.REVOKED])
@pytest.mark.parametrize("newer", [False, True])
def test_the_rating_is_dcap_qvls(
    tmp_path: Path, report: EnclaveReport, now: datetime, status: TcbStatus, newer: bool
) -> None:
    vendor = Vendor.create(tmp_path / "vendor", now=now)
    platform = SimulatedPlatform.create(vendor, tmp_path / "platform", now=now)
    matching = TcbLevel(
        cpu_svn=CPU_SVN.hex(), pce_svn=PCE_SVN, tcb_date="2025-01-01T00:00:00Z", status=status,
        advisory_ids=("SIMULATED-SA-00007",),
    )  # fmt: skip
    higher = _level(10, TcbStatus.UP_TO_DATE, "2025-06-01")
    vendor.publish_levels([higher, matching] if newer else [matching])
    verified, rating = _verify(vendor, platform, report, now), _rate(vendor.collateral(now=now))
    assert (rating.status, rating.advisory_ids, rating.dated, rating.evaluation_number, rating.superseded) == (
        verified.tcb_status,
        verified.advisory_ids,
        verified.tcb_date,
        verified.tcb_evaluation_data_number,
        verified.tcb_superseded,
    )
    out_of_date = status.startswith("OutOfDate") and newer
    assert verified.tcb_superseded == (datetime(2025, 6, 1, tzinfo=UTC) if out_of_date else None)


def test_an_out_of_date_platform_was_superseded_by_the_first_newer_level(
    vendor: Vendor, tmp_path: Path, report: EnclaveReport, now: datetime
) -> None:
    old = SimulatedPlatform.create(vendor, tmp_path / "old", now=now, out_of_date=True)
    verified = _verify(vendor, old, report, now)
    assert verified.tcb_status == "OutOfDate"
    assert verified.tcb_superseded == datetime(2025, 5, 14, tzinfo=UTC)
    # A second TCB recovery does not start a second grace period.
    vendor.recover_tcb(tcb_date="2026-01-10T00:00:00Z")
    assert _verify(vendor, old, report, now).tcb_superseded == datetime(2025, 5, 14, tzinfo=UTC)


def test_several_levels_of_one_date_are_one_recovery() -> None:
    levels = [
        _level(9, TcbStatus.UP_TO_DATE, "2025-05-14", pce_svn=2),
        _level(9, TcbStatus.CONFIGURATION_NEEDED, "2025-05-14", pce_svn=1),
        _level(7, TcbStatus.OUT_OF_DATE, "2024-05-14"),
        _level(6, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED, "2024-05-14"),
        _level(0, TcbStatus.OUT_OF_DATE, "2020-01-01"),
    ]
    for number, dated, superseded in ((9, 2025, None), (8, 2024, 2025), (6, 2024, 2025), (1, 2020, 2024)):
        rating = rate(_tcb_info(levels), _qe_identity(), cpu_svn=bytes([number]) + bytes(15), pce_svn=1, qe_svn=8)
        assert rating.dated.year == dated
        assert (rating.superseded and rating.superseded.year) == superseded


def test_an_out_of_date_quoting_enclave_makes_the_platform_out_of_date() -> None:
    expected = {
        TcbStatus.UP_TO_DATE: "OutOfDate",
        TcbStatus.SW_HARDENING_NEEDED: "OutOfDate",
        TcbStatus.CONFIGURATION_NEEDED: "OutOfDateConfigurationNeeded",
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: "OutOfDateConfigurationNeeded",
        TcbStatus.OUT_OF_DATE: "OutOfDate",
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: "OutOfDateConfigurationNeeded",
        TcbStatus.REVOKED: "Revoked",
    }
    for status, combined in expected.items():
        tcb_info = _tcb_info([_level(0, status, "2025-05-14")])
        rating = rate(tcb_info, _qe_identity(), cpu_svn=bytes(16), pce_svn=0, qe_svn=7)
        assert rating.status == combined
        assert rating.advisory_ids == ("SIMULATED-SA-00003",)
        # The newer level of the quoting enclave starts the grace period.
        if status in (TcbStatus.UP_TO_DATE, TcbStatus.SW_HARDENING_NEEDED):
            assert rating.superseded == datetime(2024, 3, 13, tzinfo=UTC)
    revoked = _qe_identity(status="Revoked")
    for status in TcbStatus:
        tcb_info = _tcb_info([_level(0, status, "2025-05-14")])
        assert rate(tcb_info, revoked, cpu_svn=bytes(16), pce_svn=0, qe_svn=7).status == "Revoked"


def test_security_versions_below_each_level(vendor: Vendor, now: datetime) -> None:
    collateral = vendor.collateral(now=now)
    assert _rate(collateral, OLD_CPU_SVN, OLD_PCE_SVN).status == "OutOfDate"
    for cpu_svn, pce_svn, qe_svn in (
        (bytes(16), PCE_SVN, 8),
        (OLD_CPU_SVN, OLD_PCE_SVN - 1, 8),
        (CPU_SVN, PCE_SVN, 7),
    ):
        with raises(SgxCode.TCB_NO_LEVEL, match="below every level"):
            _rate(collateral, cpu_svn, pce_svn, qe_svn)


def test_malformed_levels_are_an_error() -> None:
    good = json.loads(_tcb_info([_level(0, TcbStatus.UP_TO_DATE, "2025-05-14")]))
    changes: tuple[dict[str, Any], ...] = (
        {"tcbLevels": []},
        {"tcbLevels": 1},
        {"tcbLevels": [{**good["tcbLevels"][0], "tcbStatus": "Fine"}]},
        {"tcbLevels": [{**good["tcbLevels"][0], "tcbDate": "2025-05-14T00:00:00"}]},
        {"tcbLevels": [{**good["tcbLevels"][0], "tcb": {"sgxtcbcomponents": [{"svn": 0}], "pcesvn": 0}}]},
        {"tcbLevels": [{**good["tcbLevels"][0], "tcb": {"sgxtcbcomponents": [{"svn": "0"}] * 16, "pcesvn": 0}}]},
    )
    for change in changes:
        with raises(SgxCode.COLLATERAL_MALFORMED, match=r"The TCB info is malformed: tcbLevels"):
            rate(json.dumps({**good, **change}), _qe_identity(), cpu_svn=bytes(16), pce_svn=0, qe_svn=8)
    for text, identity in product(("", "[]"), (_qe_identity(),)):
        with pytest.raises(SealserveError):
            rate(text, identity, cpu_svn=bytes(16), pce_svn=0, qe_svn=8)


def _tcb_info(levels: list[TcbLevel]) -> str:
    rows = [
        {
            "tcb": {
                "sgxtcbcomponents": [{"svn": svn} for svn in bytes.fromhex(level.cpu_svn)],
                "pcesvn": level.pce_svn,
            },
            "tcbDate": level.tcb_date,
            "tcbStatus": level.status,
        }
        for level in levels
    ]
    header = {"id": "SGX", "version": 3, "tcbType": 0, "fmspc": "00606A000000", "pceId": "0000"}
    return json.dumps({**header, **_DATES, "tcbLevels": rows})


def _qe_identity(*, status: str = "OutOfDate") -> str:
    rows = [
        {"tcb": {"isvsvn": 8}, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": "UpToDate"},
        {
            "tcb": {"isvsvn": 6},
            "tcbDate": "2023-03-13T00:00:00Z",
            "tcbStatus": status,
            "advisoryIDs": ["SIMULATED-SA-00003"],
        },
    ]
    return json.dumps({"id": "QE", "version": 2, **_DATES, "tcbLevels": rows})


_DATES = {
    "issueDate": "2026-01-01T00:00:00Z",
    "nextUpdate": "2026-02-01T00:00:00Z",
    "tcbEvaluationDataNumber": 17,
}
