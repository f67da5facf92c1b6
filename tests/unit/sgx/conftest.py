"""A simulated vendor and platform, separate for each test."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from sealserve.sgx.report import Attributes, EnclaveReport, MrEnclave, MrSigner
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.vendor import Vendor


@pytest.fixture
def now() -> datetime:
    return datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.fixture
def vendor(tmp_path: Path, now: datetime) -> Vendor:
    return Vendor.create(tmp_path / "vendor", now=now)


@pytest.fixture
def platform(vendor: Vendor, tmp_path: Path, now: datetime) -> SimulatedPlatform:
    return SimulatedPlatform.create(vendor, tmp_path / "platform", now=now)


@pytest.fixture
def report() -> EnclaveReport:
    return EnclaveReport(
        attributes=Attributes(flags=0x5, xfrm=0xE7),
        mr_enclave=MrEnclave(bytes([0xA1]) * 32),
        mr_signer=MrSigner(bytes([0xB2]) * 32),
        isv_prod_id=7,
        isv_svn=3,
        report_data=bytes(range(64)),
    )
