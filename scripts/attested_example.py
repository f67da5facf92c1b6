"""A service with fixed keys on a simulated platform, for test vectors and tests: its owner, its broker and its user.

All keys and times are fixed, and all signatures are deterministic. So every run builds the same bytes.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from sealserve.attestation.claims import EnclaveIdentity, TcbStatus
from sealserve.attestation.json_web_keys import JsonWebKey, JsonWebKeySet
from sealserve.attestation.keyset import Keyset
from sealserve.attestation.result import AttestationResult, Freshness
from sealserve.attestation.result_token import sign_result
from sealserve.attestation.session_binding import service_report_data, session_report_data
from sealserve.attestation.strict_document import SignedContent
from sealserve.attestation.trustworthiness import vector_of, worst_tier
from sealserve.attested.evidence import EvidenceBundle, ServiceEvidence
from sealserve.attested.evidence_conversation import EvidenceRequest, EvidenceService, PresentedService
from sealserve.attested.receipt import ReceiptClaims
from sealserve.attested.release_statement import (
    ReleaseStatement,
    StatedBroker,
    StatedEnclave,
    StatedModel,
    StatedPolicy,
    model_digest,
    sign_statement,
)
from sealserve.attested.user_policy import UserPolicy, parse_user_policy
from sealserve.attested.verification import AUDIENCE
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.pck import PckCa, PckChain, PckExtension
from sealserve.sgx.reference_values import ReferenceValues
from sealserve.sgx.report import Attributes, EnclaveReport, MrEnclave, MrSigner
from sealserve.sgx.simulated import documents
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting_enclave import quote
from sealserve.sgx.simulated.vendor import Vendor

REQUEST = b'{"instances": [1.0, 2.0, 5.0]}'
RESPONSE = b'{"predictions": [2.5, 3.0, 4.5]}'
KEY = bytes(range(16))
NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
BROKER = "attestation.service.com"
ADDRESS = "grpc.tf-serving.service.com:8500"
FIRST_TIME = 60
"""The vectors are verified this number of seconds after `NOW`."""


def digest(what: str) -> bytes:
    """Return a fixed value of 32 bytes that looks random."""
    return hashlib.sha256(f"sealserve example: {what}".encode()).digest()


def p256(what: str) -> ec.EllipticCurvePrivateKey:
    """Return a fixed P-256 key."""
    return ec.derive_private_key(int.from_bytes(digest(what)) >> 1, ec.SECP256R1())


def ed25519(what: str) -> Ed25519PrivateKey:
    """Return a fixed Ed25519 key."""
    return Ed25519PrivateKey.from_private_bytes(digest(what))


class Example:
    """A service with fixed keys on a simulated platform, its owner, and its broker.

    Args:
        folder: An empty folder for the state of the simulated vendor.
        name: The name of the replica. Replicas of a release have different keys.
        enclave: The name of the enclave's code. Releases have different code.
        shared: Another example, whose vendor and platform are used.
        keys: The keys of another vendor, by number.
        now: The time of the evidence.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "replica",
        enclave: str = "release",
        shared: "Example | None" = None,
        keys: Callable[[int], ec.EllipticCurvePrivateKey] | None = None,
        now: datetime = NOW,
    ) -> None:
        self.now = now
        self.folder = folder
        self.name = name
        self.enclave = enclave
        self.owner = ed25519("owner")
        self.token_key = p256("token key")
        self.tls_key = p256(f"{name} TLS key")
        self.identity = ed25519(f"{name} identity key")
        self.release_id = digest(f"{enclave} index").hex()
        self.nonce = digest("user nonce")
        self._vendor_key = keys or (lambda number: p256(f"vendor {number}"))
        self.vendor: Vendor = shared.vendor if shared else self._vendor()
        self.platform: SimulatedPlatform = shared.platform if shared else self._platform()

    def _vendor(self) -> Vendor:
        numbers = itertools.count()
        return Vendor.create(
            self.folder, now=self.now - timedelta(days=1), keys=lambda: self._vendor_key(next(numbers))
        )

    def _platform(self) -> SimulatedPlatform:
        extension = PckExtension(
            ppid=digest("PPID")[:16],
            cpu_svn=documents.CPU_SVN,
            pce_svn=documents.PCE_SVN,
            pce_id=documents.PCE_ID,
            fmspc=documents.FMSPC,
            platform_instance_id=digest("platform")[:16],
        )
        pck = p256("PCK")
        chain = self.vendor.issue_platform(
            pck.public_key(), extension, ca=PckCa.PLATFORM, now=self.now - timedelta(days=1)
        ).encode()
        return SimulatedPlatform(
            pck_key=pck,
            pck_chain_pem=chain,
            chain=PckChain.parse(chain),
            attestation_key=p256("attestation key"),
            qe_id=digest("QE")[:16],
            qe_authentication_data=digest("QE authentication data"),
        )

    # The enclave

    @cached_property
    def keyset(self) -> Keyset:
        """The keyset of the enclave."""
        return Keyset.of_keys(
            release_id=self.release_id, tls=self.tls_key.public_key(), identity=self.identity.public_key()
        )

    def report(self, report_data: bytes, **changes: Any) -> EnclaveReport:
        """Return the enclave's report, with ``changes``."""
        report = EnclaveReport(
            attributes=Attributes(flags=0x5, xfrm=0xE7),
            mr_enclave=MrEnclave(digest(f"{self.enclave} MRENCLAVE")),
            mr_signer=MrSigner(digest("MRSIGNER")),
            isv_prod_id=7,
            isv_svn=3,
            report_data=report_data,
        )
        return dataclasses.replace(report, **changes)

    def quote(self, report_data: bytes | None = None, **changes: Any) -> bytes:
        """Return a quote. Without ``report_data``, it is for users and covers the keyset."""
        data = service_report_data(self.keyset.digest) if report_data is None else report_data
        return quote(self.platform, self.report(data, **changes))

    @cached_property
    def certificate(self) -> x509.Certificate:
        """The service's certificate for the TLS key."""
        return self.certificate_for(self.tls_key)

    def certificate_for(self, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        """Return a certificate of the owner's issuing CA for a key."""
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Example issuing CA")])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "grpc.tf-serving.service.com")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(self.now - timedelta(minutes=5))
            .not_valid_after(self.now + timedelta(days=3))
        )
        return builder.sign(p256("issuing CA"), hashes.SHA256(), ecdsa_deterministic=True)

    # The vendor

    def collateral(self, **changes: Any) -> Collateral:
        """Return the vendor's collateral, with ``changes``."""
        return dataclasses.replace(self.vendor.collateral(now=self.now - timedelta(hours=1)), **changes)

    @property
    def collateral_members(self) -> dict[str, str]:
        """The collateral as a member of the evidence."""
        return dict(json.loads(self.collateral().to_json()))

    # The owner and the broker

    @property
    def reference_values(self) -> ReferenceValues:
        """The reference values of the enclave."""
        return ReferenceValues(
            mr_enclave=MrEnclave(digest(f"{self.enclave} MRENCLAVE")),
            mr_signer=MrSigner(digest("MRSIGNER")),
            isv_prod_id=7,
            isv_svn=3,
        )

    def statement(self, **changes: Any) -> ReleaseStatement:
        """Return the release statement, with ``changes``."""
        values: dict[str, Any] = {
            "release_id": self.release_id,
            "shared_batches": False,
            "issued": int((self.now - timedelta(hours=2)).timestamp()),
            "models": (self.model,),
            "enclaves": (StatedEnclave.of_values(self.reference_values),),
            "policy": StatedPolicy(name="cloud-smt", sha256=digest("policy").hex()),
            "brokers": (StatedBroker.of_keys(BROKER, JsonWebKeySet([JsonWebKey(self.token_key.public_key())])),),
        }
        return ReleaseStatement(**(values | changes))

    @property
    def model(self) -> StatedModel:
        """The model in the release."""
        files = {
            "saved_model.pb": (1024, digest("saved_model.pb").hex()),
            "variables/variables.index": (64, digest("index").hex()),
        }
        return StatedModel(
            name="half_plus_two", version="1", sha256=model_digest(files), allowed_operations=(), signer=None
        )

    @property
    def signed_statement(self) -> SignedContent:
        """The statement with the owner's signature."""
        return sign_statement(self.statement(), self.owner)

    def result(self, **changes: Any) -> AttestationResult:
        """Return the broker's attestation result, with ``changes``."""
        vector = vector_of(tcb_status=TcbStatus.UP_TO_DATE, enrolled=False, simulated=True)
        result = AttestationResult(
            issuer=BROKER,
            audience=AUDIENCE,
            token_id="A" * 22,
            issued=self.now,
            expires=self.now + timedelta(days=3),
            nonce=None,
            build="sealserve 0.2.0",
            enclave=EnclaveIdentity(
                tee="sgx",
                measurement=self.reference_values.measurement,
                signer=self.reference_values.signer,
                product_id=7,
                security_version=3,
                debug=False,
            ),
            public_key_digest=self.keyset.tls_key_digest,
            keyset_digest=self.keyset.digest,
            simulated=True,
            release_id=self.release_id,
            policy_digest=digest("policy"),
            tcb_status=TcbStatus.UP_TO_DATE,
            tcb_date=datetime(2025, 5, 14, tzinfo=UTC),
            advisories=(),
            evaluation_number=documents.EVALUATION_NUMBER,
            evidence_digest=hashlib.sha256(self.session_quote).digest(),
            freshness=Freshness.SESSION,
            status=worst_tier(vector),
            vector=vector,
        )
        return dataclasses.replace(result, **changes)

    @cached_property
    def token(self) -> str:
        """The signed attestation result."""
        return sign_result(self.result(), self.token_key)

    # The service and its user

    def service(self, **changes: Any) -> EvidenceService:
        """Return the service's side of the conversation, with ``changes``."""
        values: dict[str, Any] = {
            "keyset": self.keyset,
            "identity": self.identity,
            "quote": self.quote(),
            "collateral": self.collateral_members,
            "attestation_result": self.token,
            "statement": self.signed_statement,
        }
        return EvidenceService(**(values | changes))

    def evidence(self, **changes: Any) -> ServiceEvidence:
        """Return the evidence for the user's nonce, with ``changes`` of its members."""
        return ServiceEvidence.parse(self.service().answer(self.nonce)).model_copy(update=changes)

    def presented(self, evidence: ServiceEvidence | None = None) -> PresentedService:
        """Return the evidence as it arrives at the user, on a connection that ends at the TLS key."""
        content = (evidence or self.evidence()).to_bytes()
        return EvidenceRequest(nonce=self.nonce).receive(
            content, certificate=self.certificate.public_bytes(Encoding.DER)
        )

    def bundle(self, evidence: ServiceEvidence | None = None) -> EvidenceBundle:
        """Return the bundle that the user keeps."""
        return self.presented(evidence).bundle(address=ADDRESS, saved=self.now + timedelta(seconds=FIRST_TIME))

    @property
    def policy_file(self) -> str:
        """The user's policy, as TOML."""
        root = self.vendor.root.certificate.public_bytes(Encoding.PEM).decode()
        key = self.owner.public_key().public_bytes_raw().hex()
        return f'version = 1\nowner_keys = ["{key}"]\ndangerous_simulated_root = """\n{root}"""\n'

    @property
    def policy(self) -> UserPolicy:
        """The user's policy."""
        return parse_user_policy(self.policy_file.encode())

    def receipt_claims(self, **changes: Any) -> ReceiptClaims:
        """Return the claims of a receipt, with ``changes``."""
        values: dict[str, Any] = {
            "keyset_sha256": self.keyset.digest.hex(),
            "release_id": self.release_id,
            "model": self.model.name,
            "model_version": self.model.version,
            "model_sha256": self.model.sha256,
            "request_sha256": hashlib.sha256(REQUEST).hexdigest(),
            "response_sha256": hashlib.sha256(RESPONSE).hexdigest(),
            "sequence": 0,
        }
        return ReceiptClaims(**(values | changes))

    # The session between enclave and broker

    @property
    def session_nonce(self) -> bytes:
        """The broker's nonce."""
        return digest("broker nonce")

    @property
    def exporter(self) -> bytes:
        """The exporter of the TLS session."""
        return digest("exporter")

    @cached_property
    def session_quote(self) -> bytes:
        """The quote for the broker."""
        return self.quote(
            session_report_data(nonce=self.session_nonce, exporter=self.exporter, keyset_digest=self.keyset.digest)
        )
