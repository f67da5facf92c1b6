"""What the attacks of the demo need: a genuine service, its user, a hostile platform, and the means of attackers.

Attackers get quotes of enclaves without starting a server. On SGX, only the code in an enclave can do this. In
simulation, root can, and the demo uses this to give attackers more than they can have.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec

from sealserve.attestation.attest_messages import Grant
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.session_binding import service_report_data
from sealserve.attested.evidence_conversation import EvidenceService, PresentedService
from sealserve.attester.broker_link import BrokerLink
from sealserve.attester.enclave_keys import EnclaveKeys
from sealserve.attester.session import attest
from sealserve.broker import admin
from sealserve.cli import access
from sealserve.cli.access import Access
from sealserve.cli.demo import user
from sealserve.cli.demo.attempts import Refusal, not_refused, refused_by_user
from sealserve.cli.demo.between import Between, beginning, ending
from sealserve.cli.demo.preparation import REPLICAS
from sealserve.cli.demo.pretended_service import PretendedService
from sealserve.cli.demo.walk import Walk
from sealserve.client.attested import AttestedPolicy, EndpointTls, fetch_evidence, verify_endpoint
from sealserve.enclave.launch.broker_addresses import broker_addresses
from sealserve.enclave.launch.simulator import load_simulator
from sealserve.enclave.measurement import load_enclave
from sealserve.errors import SealserveError
from sealserve.owner import simulation
from sealserve.owner.certificates import broker_authority_pem
from sealserve.owner.owner import Owner
from sealserve.pki.authority import Authority, AuthorityKind
from sealserve.pki.certificate import CertifiedKey
from sealserve.pki.signing import certificate_pem, private_pem, sign, subject_name
from sealserve.terms import TlsMode
from sealserve.workspace import Workspace

if TYPE_CHECKING:
    from sealserve.enclave.launch.simulator import SimulatedPlatform, Vendor

NAME: Final = "replica-1"
"""The enclave that attackers start or quote. The genuine service is `replica-0`, with another measured port."""
SECONDS: Final = 20.0
_REFUSALS: Final = frozenset({AttestationCode.ATTEST_REFUSED, AttestationCode.ATTEST_UNAVAILABLE})
"""What the enclave receives. The reason is only in the broker's audit log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestedEnclave:
    """A genuine enclave whose keys the attacker knows, which only a simulation allows.

    Args:
        keys: Its keys.
        grant: What the broker granted to it.
        release: The folder of its release.
    """

    keys: EnclaveKeys
    grant: Grant = field(repr=False)
    release: Path


class AuditLog:
    """The broker's audit log, from now on.

    Args:
        workspace: The owner's workspace.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        with Owner.open(workspace).vault() as vault:
            self._start = max((row.seq for row in admin.log(vault.database, last=1)), default=0)

    def refusal(self, *facts: tuple[str, str]) -> Refusal:
        """Return the broker's newest refusal.

        Raises:
            VerificationError: `demo.not-refused`: The broker refused nothing.
        """
        with Owner.open(self._workspace).vault() as vault:
            rows = [row.entry for row in admin.log(vault.database, after=self._start)]
        refused = [entry for entry in rows if entry.decision == "refused"]
        if not refused:
            decisions = ", ".join(str(entry.decision) for entry in rows) or "no decision"
            raise not_refused(f"The broker's decision is wrong: expected 'refused', got {decisions}.")
        return Refusal(code=refused[-1].code, message=refused[-1].detail, by="the broker", facts=facts)


class Stage:
    """A genuine release that is served by one replica, and its user.

    Args:
        workspace: The demo's workspace.
        walk: The demo, after it created the model and the certificates.
    """

    def __init__(self, workspace: Workspace, walk: Walk) -> None:
        self.workspace = workspace
        self.walk = walk
        walk.start_vendor()
        self.built = walk.seal()
        bundle = walk.prepare_release(self.built.folder, REPLICAS)
        self.release = bundle.folder
        self._replica = walk.target.start_replica(bundle, 0)
        # The vendor publishes a security update. The genuine platform has it; any other platform is now out of date.
        self.vendor: Vendor = simulation.open_vendor(workspace, now=datetime.now(UTC))
        self.policy: AttestedPolicy = user.write_policy(workspace)

    @cached_property
    def service(self) -> tuple[str, int]:
        """Host and port of the genuine service, which serves."""
        self.walk.target.wait_replica(self._replica)
        return "127.0.0.1", self._replica.port or 0

    @property
    def reach(self) -> Access:
        """How the user reaches the service, and her credentials."""
        return access.access(self.workspace, self.walk.deployment)

    @property
    def own_tls(self) -> EndpointTls:
        """The TLS settings of a user who checks no CA, so that only the evidence decides."""
        return user.tls_of(self.reach, with_ca=False)

    @cached_property
    def accomplice(self) -> CertifiedKey | None:
        """The client certificate of an accomplice of the attacker, or None with one-way TLS."""
        service = self.walk.deployment.service
        if service.tls is TlsMode.ONE_WAY:
            return None
        return self.authority(AuthorityKind.USERS).issue_client(service.client_name, now=datetime.now(UTC))

    def authority(self, kind: AuthorityKind) -> Authority:
        """Return one of the owner's authorities."""
        return Authority.load(self.workspace.owner.authorities / kind)

    @cached_property
    def recorded(self) -> PresentedService:
        """Evidence of the genuine service that the attacker requested earlier, with the accomplice's certificate."""
        pair = self.accomplice
        tls = EndpointTls(
            server_name=self.reach.server_name,
            certificate=None if pair is None else pair.chain_pem,
            key=None if pair is None else pair.key_pem,
        )
        host, port = self.service
        return fetch_evidence(f"{host}:{port}", tls=tls, timeout=SECONDS)

    def quote(self, release: Path, report_data: bytes, *, socket: Path | None = None) -> bytes:
        """Return a quote of an enclave on the host."""
        quoting_socket = socket or simulation.quoting_socket(self.workspace)
        return load_simulator().quote(release, NAME, report_data, quoting_socket=quoting_socket)

    def broker_of(self, release: Path) -> tuple[str, int]:
        """Return the measured host and port of the broker."""
        return broker_addresses(load_enclave(release, NAME).manifest.loader.env["SECRET_PROVISION_SERVERS"])[0]

    def new_keys(self, release: Path) -> EnclaveKeys:
        """Return new keys of an enclave, or of an attacker who claims to be one."""
        return EnclaveKeys.create(load_enclave(release, NAME).manifest.loader.env["SEALSERVE_RELEASE_ID"])

    def attest(
        self,
        release: Path,
        keys: EnclaveKeys,
        *,
        port: int | None = None,
        quote_for: Callable[[bytes], bytes] | None = None,
    ) -> Grant:
        """Attest to the broker as the program in the enclave does. The release's key is wiped.

        Args:
            release: The folder of the release on the host.
            keys: The keys of the enclave.
            port: Another port to which the network diverts the connection.
            quote_for: Returns a quote with the given report data, instead of the platform.
        """
        host, measured = self.broker_of(release)
        with BrokerLink(host, port or measured, broker_ca=broker_authority_pem(self.workspace)) as link:
            granted = attest(link, keys, purpose="start", quote_for=quote_for or partial(self.quote, release))
        if granted.key is not None:
            granted.key.wipe()
        return granted.grant

    def enclave(self, release: Path) -> AttestedEnclave:
        """Return a genuine enclave that the broker accepted."""
        keys = self.new_keys(release)
        return AttestedEnclave(keys=keys, grant=self.attest(release, keys), release=release)

    def refused_by_broker(self, act: Callable[[], object], *facts: tuple[str, str]) -> Refusal:
        """Return the broker's refusal from its audit log.

        Raises:
            VerificationError: `demo.not-refused`: The broker did not refuse.
        """
        log = AuditLog(self.workspace)
        try:
            act()
        except SealserveError as error:
            if error.code not in _REFUSALS:
                raise
            return log.refusal(*facts)
        raise not_refused("The attack was not refused: the broker released the key.")

    def in_path(self, service: tuple[str, int], pair: CertifiedKey) -> Between:
        """Return a machine in the path, which ends users' connections with a key and a certificate."""
        client, name = self.accomplice, self.reach.server_name
        to_service = beginning(
            protocol="h2",
            chain_pem=None if client is None else client.chain_pem,
            key_pem=None if client is None else client.key_pem.reveal(),
        )
        to_user = ending(pair.chain_pem, pair.key_pem.reveal(), protocol="h2")
        return Between(service, end=to_user, begin=to_service, name=name)

    def evidence(self, keys: EnclaveKeys, quote: bytes) -> EvidenceService:
        """Return evidence of an attacker: a quote with other keys, and the genuine documents of the service."""
        genuine = self.recorded.evidence
        return EvidenceService(
            keyset=keys.keyset,
            identity=keys.identity,
            quote=quote,
            collateral=genuine.collateral,
            attestation_result=genuine.attestation_result,
            statement=genuine.statement,
        )

    def served_by(self, release: Path, keys: EnclaveKeys, *, socket: Path | None = None) -> EvidenceService:
        """Return the evidence of an enclave that runs a release, with the genuine documents of the service."""
        return self.evidence(keys, self.quote(release, service_report_data(keys.keyset.digest), socket=socket))

    def present(
        self,
        answer: Callable[[bytes], bytes],
        *facts: tuple[str, str],
        tls_key: ec.EllipticCurvePrivateKey | None = None,
        policy: AttestedPolicy | None = None,
    ) -> Refusal:
        """Present evidence to the user on a connection that ends at the attacker, and return her refusal.

        Args:
            answer: Returns the evidence for a nonce.
            facts: The details of the attempt.
            tls_key: The key of the connection. None means a new key of the attacker.
            policy: The user's policy, instead of the usual one.
        """
        pair = own_certificate(self.reach.server_name, tls_key)
        with PretendedService(pair.chain_pem, pair.key_pem.reveal(), answer) as pretended:
            return refused_by_user(
                lambda: verify_endpoint(pretended.address, policy or self.policy, tls=self.own_tls, timeout=SECONDS),
                *facts,
            )

    @contextmanager
    def old_platform(self) -> "Iterator[tuple[SimulatedPlatform, Path]]":
        """Yield a platform without the vendor's last security update, and the socket of its quoting service."""
        simulator = load_simulator()
        folder = self.workspace.host.root / "old-platform"
        if folder.exists():
            platform = simulator.platform.load(folder)
        else:
            platform = simulator.platform.create(self.vendor, folder, now=datetime.now(UTC), out_of_date=True)
        socket = self.workspace.host.run / "old-quoting.sock"
        with simulator.quoting_server(platform, socket):
            yield platform, socket


def own_certificate(name: str, key: ec.EllipticCurvePrivateKey | None = None) -> CertifiedKey:
    """Return a certificate that an attacker signed, for a new key or for ``key``."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    now, subject = datetime.now(UTC), subject_name(name, simulated=True)
    certificate = sign(
        subject=subject,
        issuer=subject,
        public_key=key.public_key(),
        signer=key,
        valid=(now - timedelta(minutes=5), now + timedelta(days=1)),
        extensions=[],
    )
    return CertifiedKey(key_pem=private_pem(key), chain_pem=certificate_pem(certificate))
