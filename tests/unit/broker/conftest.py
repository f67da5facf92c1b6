import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.harness.broker_world import strict_release
from tests.harness.reports import REFERENCE, REPORT

from sealserve.attestation.ra_tls import RaTlsKeyPair, make_certificate
from sealserve.broker import admin, audit
from sealserve.broker.audit import AuditRow
from sealserve.broker.audit_entry import Decision
from sealserve.broker.database import Database
from sealserve.broker.decision import Broker
from sealserve.broker.keystore import Keystore, ReleaseKey, open_keystore
from sealserve.broker.releases import Release
from sealserve.broker.row_authentication import History
from sealserve.broker.row_key import KEY_SIZE, RowKey
from sealserve.secret import SecretBytes
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.pck import PckChain
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting_enclave import quote
from sealserve.sgx.simulated.vendor import Vendor
from sealserve.sgx.verifier import CollateralSource, SgxVerifier, TrustedVendor
from sealserve.terms import PlatformKind


@dataclass(slots=True)
class Published:
    """A source of collateral without HTTP: the vendor's published collateral, unless a test replaces it."""

    vendor: Vendor
    now: datetime
    asked: int = 0
    forgotten: int = 0
    answer: Callable[[], Collateral] | None = None

    def cached_for(self, _pck: PckChain) -> Collateral | None:
        return None

    def collateral_for(self, pck: PckChain) -> Collateral:
        assert pck.extension.fmspc
        self.asked += 1
        return self.answer() if self.answer else self.vendor.collateral(now=self.now)

    def forget(self, _pck: PckChain) -> None:
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
            return [row for row in audit.rows(connection) if row.entry.decision is not Decision.FLOOR_RAISED]


@pytest.fixture
def now() -> datetime:
    return datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of database: each test of the broker runs with both."""
    return str(request.param)


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with empty tables, after all migrations."""
    path = tmp_path_factory.mktemp("database") / "broker.sqlite"
    Database.open(path).close()
    return path


@pytest.fixture
def database(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    if kind == "sqlite":
        opening = Database.open(Path(shutil.copy(request.getfixturevalue("empty_file"), tmp_path)))
    else:
        opening = request.getfixturevalue("postgresql").database()
    with opening as opened:
        yield opened


@pytest.fixture
def stage(database: Database, tmp_path: Path, now: datetime) -> Stage:
    database.history = History(RowKey(SecretBytes(b"k" * KEY_SIZE)))
    vendor = Vendor.create(tmp_path / "vendor", now=now)
    platform = SimulatedPlatform.create(vendor, tmp_path / "platform", now=now)
    keystore = open_keystore(database, tmp_path / "master.key")
    made = keystore.create(database, now=now)
    source: CollateralSource = (published := Published(vendor, now))
    assert source is published
    release = strict_release(made, now=now)
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
