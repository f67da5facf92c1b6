"""What the tests of a real broker share: a vendor with its service, a platform, and a database with one release."""

import contextlib
import ipaddress
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from tests.harness.reports import REFERENCE, REPORT

from sealserve.attestation.policy import AppraisalPolicy
from sealserve.attestation.presets import STRICT
from sealserve.attestation.ra_tls import RaTlsKeyPair, make_certificate
from sealserve.broker import admin
from sealserve.broker.database import Database
from sealserve.broker.decision import Broker
from sealserve.broker.keystore import ReleaseKey, open_keystore
from sealserve.broker.releases import Release, ReleaseId
from sealserve.broker.row_authentication import History
from sealserve.broker.row_key import KEY_SIZE, RowKey
from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.certificate import CertifiedKey
from sealserve.secret import SecretBytes
from sealserve.sgx.pcs import PcsClient
from sealserve.sgx.simulated.pcs import PcsServer
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting_enclave import quote
from sealserve.sgx.simulated.vendor import Vendor
from sealserve.sgx.verifier import SgxVerifier, TrustedVendor
from sealserve.terms import PlatformKind

ADDRESS: Final = ipaddress.ip_address("127.0.0.1")
NAME: Final = "attestation.service.com"


def strict_release(made: ReleaseKey, *, name: str = "resnet50", now: datetime) -> Release:
    """Return a release for all simulated platforms with a current TCB."""
    return Release(
        release_id=ReleaseId("a" * 64),
        name=name,
        platform=PlatformKind.SIMULATED,
        key_id=made.key_id,
        policy=AppraisalPolicy(tcb=STRICT, enrolled_platforms_only=False),
        created=now,
    )


@dataclass(slots=True, kw_only=True)
class BrokerWorld:
    """A vendor with its service, a platform, a broker's database with one release, and the broker's certificate.

    Args:
        servers: Closes what a test started, before the database and the vendor's service.
    """

    folder: Path
    vendor: Vendor
    platform: SimulatedPlatform
    pcs: PcsServer
    authority: Authority
    identity: CertifiedKey
    database: Database
    made: ReleaseKey
    release: Release
    servers: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Path) -> Iterator[Self]:
        """Yield a new world in a folder."""
        now = datetime.now(UTC)
        vendor = Vendor.create(folder / "vendor", now=now)
        authority = Authority.create(AuthorityKind.BROKER, names=[NAME], addresses=[ADDRESS], simulated=True, now=now)
        with Database.open(folder / "broker.sqlite") as database, PcsServer(vendor) as pcs:
            database.history = History(RowKey(SecretBytes(b"k" * KEY_SIZE)))
            made = open_keystore(database, folder / "master.key").create(database, now=now)
            release = strict_release(made, now=now)
            admin.allow(database, release, {"replica-0": REFERENCE}, now=now)
            world = cls(
                folder=folder,
                vendor=vendor,
                platform=SimulatedPlatform.create(vendor, folder / "platform", now=now),
                pcs=pcs,
                authority=authority,
                identity=authority.issue_server([NAME], [ADDRESS], now=now),
                database=database,
                made=made,
                release=release,
            )
            with world.servers:
                yield world

    def broker(self, vendors: Mapping[PlatformKind, TrustedVendor] | None = None) -> Broker:
        """Return a broker that trusts these vendors, or the vendor of this world."""
        if vendors is None:
            client = self.servers.enter_context(PcsClient(self.pcs.url))
            vendors = {PlatformKind.SIMULATED: TrustedVendor(anchor=self.vendor.anchor, collateral=client)}
        keystore = open_keystore(self.database, self.folder / "master.key")
        return Broker(database=self.database, keystore=keystore, verifier=SgxVerifier(vendors))

    def quoted(self, platform: SimulatedPlatform | None = None, **changes: Any) -> Callable[[bytes], bytes]:
        """Return what a platform quotes: an enclave's report, with these changes and the given report data."""
        report = replace(REPORT, **changes)
        return lambda data: quote(platform or self.platform, replace(report, report_data=data))

    def ratls(self, platform: SimulatedPlatform | None = None, **changes: Any) -> RaTlsKeyPair:
        """Return the key pair of an enclave, with a quote in its certificate."""
        return make_certificate(self.quoted(platform, **changes), datetime.now(UTC))
