from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealserve.attestation.policy import AppraisalPolicy
from sealserve.attestation.ra_tls import RaTlsKeyPair, make_certificate
from sealserve.attestation.tcb_policy import STRICT
from sealserve.broker import admin, audit
from sealserve.broker.audit import AuditRow
from sealserve.broker.database import Database
from sealserve.broker.decision import Broker
from sealserve.broker.keystore import Keystore, ReleaseKey, open_keystore
from sealserve.broker.releases import Release, ReleaseId
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.pck import PckChain
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.sgx.report import Attributes, EnclaveReport, MrEnclave, MrSigner
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting_enclave import quote
from sealserve.sgx.simulated.vendor import Vendor
from sealserve.sgx.verifier import CollateralSource, SgxVerifier, TrustedVendor
from sealserve.terms import PlatformKind

REPORT = EnclaveReport(
    attributes=Attributes(flags=0x5, xfrm=0xE7),
    mr_enclave=MrEnclave(b"\x01" * 32),
    mr_signer=MrSigner(b"\x02" * 32),
    isv_prod_id=1,
    isv_svn=2,
    report_data=bytes(64),
)
REFERENCE = ReferenceValues(mr_enclave=REPORT.mr_enclave, mr_signer=REPORT.mr_signer, isv_prod_id=1, isv_svn=2)


@dataclass(slots=True)
class Published:
    """A source of collateral without HTTP: the vendor's published collateral, unless a test replaces it."""

    vendor: Vendor
    now: datetime
    asked: int = 0
    forgotten: int = 0
    answer: Callable[[], Collateral] | None = None

    def collateral_for(self, pck: PckChain) -> Collateral:
        assert pck.extension.fmspc
        self.asked += 1
        return self.answer() if self.answer else self.vendor.collateral(now=self.now)

    def forget(self) -> None:
        self.forgotten += 1


@dataclass(slots=True)
class Stage:
    """A vendor, a platform, a release that is registered for the platform, and a broker."""

    database: Database
    keystore: Keystore
    vendor: Vendor
    platform: SimulatedPlatform
    source: Published
    made: ReleaseKey
    release: Release
    now: datetime
    folder: Path
    signer: Ed25519PrivateKey

    def trusted(self) -> TrustedVendor:
        return TrustedVendor(anchor=self.vendor.anchor, collateral=self.source)

    def broker(self, **changes: Any) -> Broker:
        settings: dict[str, Any] = {
            "database": self.database,
            "keystore": self.keystore,
            "verifier": SgxVerifier({PlatformKind.SIMULATED: self.trusted()}),
            "clock": lambda: self.now,
        }
        return Broker(**(settings | changes))

    def ratls(self, platform: SimulatedPlatform | None = None, **changes: Any) -> RaTlsKeyPair:
        report = replace(REPORT, **changes)
        return make_certificate(
            lambda data: quote(platform or self.platform, replace(report, report_data=data)), self.now
        )

    def allow(self, release: Release, *references: ReferenceValues, reactivate: bool = False) -> None:
        values = {f"replica-{number}": reference for number, reference in enumerate(references or (REFERENCE,))}
        admin.allow(self.database, release, values, now=self.now, reactivate=reactivate)

    def rows(self) -> list[AuditRow]:
        with self.database.read() as connection:
            audit.verify_chain(connection)
            return list(audit.rows(connection))


@pytest.fixture
def now() -> datetime:
    return datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database.open(tmp_path / "broker.sqlite") as opened:
        yield opened


@pytest.fixture
def stage(database: Database, tmp_path: Path, now: datetime) -> Stage:
    vendor = Vendor.create(tmp_path / "vendor", now=now)
    platform = SimulatedPlatform.create(vendor, tmp_path / "platform", now=now)
    keystore = open_keystore(database, tmp_path / "master.key")
    with database.write() as connection:
        made = keystore.create(connection, now=now)
    source: CollateralSource = (published := Published(vendor, now))
    assert source is published
    release = Release(
        release_id=ReleaseId("a" * 64),
        name="resnet50",
        platform=PlatformKind.SIMULATED,
        key_id=made.key_id,
        policy=AppraisalPolicy(tcb=STRICT, enrolled_platforms_only=False),
        created=now,
    )
    staged = Stage(
        database=database,
        keystore=keystore,
        vendor=vendor,
        platform=platform,
        source=published,
        made=made,
        release=release,
        now=now,
        folder=tmp_path,
        signer=Ed25519PrivateKey.generate(),
    )
    staged.allow(release)
    return staged
