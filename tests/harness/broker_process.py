"""Brokers as real processes over one database, and enclaves that ask them for a key."""

import contextlib
import ipaddress
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.harness.reports import REFERENCE, REPORT

from sealserve.attestation.policy import AppraisalPolicy
from sealserve.attestation.presets import STRICT
from sealserve.broker import admin
from sealserve.broker.audit_entry import Decision
from sealserve.broker.database import Database
from sealserve.broker.keystore import ReleaseKey, open_keystore
from sealserve.broker.releases import Release, ReleaseId
from sealserve.deployment.database_url import SCHEME, parse_database_url
from sealserve.enclave.simulated.provisioning import connect, fetch_key
from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.sgx.simulated.pcs import PcsServer
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting_enclave import quote
from sealserve.sgx.simulated.vendor import Vendor
from sealserve.terms import PlatformKind

PATIENT: Final = 60.0
RELEASE: Final = "resnet50"
_ADDRESS: Final = "127.0.0.1"
_PROGRAM: Final = """
import sys
from pathlib import Path
from sealserve.broker.openssl_settings import ensure_no_tickets
folder, pcs_url, where, name, kind = Path(sys.argv[1]), *sys.argv[2:6]
ensure_no_tickets(folder)
import logging
from sealserve.broker.decision import Broker
from sealserve.broker.keystore import open_keystore
from sealserve.broker.server import BrokerServer
from sealserve.broker.service_loop import signalled
from sealserve.errors import SealserveError
from sealserve.pki.certificate import CertifiedKey
from sealserve.sgx.pcs import PcsClient
from sealserve.sgx.trust_anchor import TrustAnchor
from sealserve.sgx.verifier import SgxVerifier, TrustedVendor
from sealserve.terms import PlatformKind
from tests.harness.broker_process import open_place
logging.basicConfig(level=logging.INFO, filename=folder / f"{name}.log")
if kind == "hasty":  # it waits only briefly for a lock
    from sealserve.broker import sqlite_engine
    sqlite_engine.BUSY_SECONDS = 0.5
if kind == "limited":  # no file may grow: a full disk
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
anchor = TrustAnchor(root_der=(folder / "vendor" / "root.der").read_bytes(), simulated=True)
identity = CertifiedKey.read(certificate=folder / "broker.pem", key=folder / "broker.key")
try:
    with open_place(where) as database, PcsClient(pcs_url) as pcs:
        verifier = SgxVerifier({PlatformKind.SIMULATED: TrustedVendor(anchor=anchor, collateral=pcs)})
        keystore = open_keystore(database, folder / "master.key", create=False)
        broker = Broker(database=database, keystore=keystore, verifier=verifier, name=name)
        server = BrokerServer(broker, identity=identity, port=0)
        if kind == "limited":
            size = max(path.stat().st_size for path in Path(where).parent.glob("broker.sqlite*"))
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        with signalled() as signals:
            server.serve_until_signalled(signals, ready=lambda: print(server.address[1], flush=True))
except SealserveError as error:
    print(f"{error.code}: {error}", flush=True)
    sys.exit(error.exit_status)
"""


def open_place(where: str) -> Database:
    """Open a database by its URL, or by the path of its file."""
    if not where.startswith(SCHEME):
        return Database.open(Path(where))
    opened = Database.connect(parse_database_url(where))
    assert opened is not None
    return opened


@dataclass(slots=True)
class Running:
    """A broker's process.

    Args:
        name: Its name in the audit log.
        process: The process.
        port: Its port.
    """

    name: str
    process: "subprocess.Popen[str]"
    port: int

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENT)

    @property
    def address(self) -> tuple[str, int]:
        return _ADDRESS, self.port


@dataclass(slots=True)
class Place:
    """A vendor with its service, a platform, and a database with one release."""

    folder: Path
    where: str
    pcs: PcsServer
    platform: SimulatedPlatform
    authority: Authority
    made: ReleaseKey
    _processes: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def start(self, name: str, *, kind: str = "ordinary") -> Running:
        """Start a broker, and wait until it listens."""
        process = self.launch(name, kind=kind)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.strip().isdecimal(), line
        return Running(name, process, int(line))

    def launch(self, name: str, *, kind: str = "ordinary") -> "subprocess.Popen[str]":
        """Start a broker that may fail."""
        environment = {key: value for key, value in os.environ.items() if key != "OPENSSL_CONF"}
        command = [sys.executable, "-c", _PROGRAM, str(self.folder), self.pcs.url, self.where, name, kind]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        self._processes.callback(_end, process)
        return process

    def ask(self, *brokers: Running, timeout: float = PATIENT) -> bytes:
        """Do what an enclave does: connect to the first broker that accepts, and attest; return the key."""
        connection = connect([broker.address for broker in brokers], timeout=timeout)
        with fetch_key(
            connection,
            broker_ca=self.authority.certificate_pem,
            quote_for=lambda data: quote(self.platform, replace(REPORT, report_data=data)),
            now=datetime.now(UTC),
            timeout=timeout,
        ) as key:
            return key.reveal()

    def released(self) -> list[str | None]:
        """Verify the audit log, and return the name of the broker that released each key."""
        with open_place(self.where) as database:
            admin.verify_log(database)
            rows = admin.log(database)
        return [row.entry.broker for row in rows if row.entry.decision is Decision.RELEASED]


@contextlib.contextmanager
def place(folder: Path, where: str) -> Iterator[Place]:
    """Yield a place whose brokers end at the end."""
    now = datetime.now(UTC)
    vendor = Vendor.create(folder / "vendor", now=now)
    address = ipaddress.ip_address(_ADDRESS)
    authority = Authority.create(AuthorityKind.BROKER, names=[], addresses=[address], simulated=True, now=now)
    authority.issue_server([], [address], now=now).write(certificate=folder / "broker.pem", key=folder / "broker.key")
    with open_place(where) as database:
        made = open_keystore(database, folder / "master.key").create(database, now=now)
        release = Release(
            release_id=ReleaseId("a" * 64),
            name=RELEASE,
            platform=PlatformKind.SIMULATED,
            key_id=made.key_id,
            policy=AppraisalPolicy(tcb=STRICT, enrolled_platforms_only=False),
            created=now,
        )
        admin.allow(database, release, {"replica-0": REFERENCE}, now=now)
    platform = SimulatedPlatform.create(vendor, folder / "platform", now=now)
    with PcsServer(vendor) as pcs:
        made_place = Place(folder, where, pcs, platform, authority, made)
        with made_place._processes:
            yield made_place


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait(PATIENT)
    if process.stdout is not None:
        process.stdout.close()
