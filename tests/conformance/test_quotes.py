"""Quotes and collateral: a real one verifies, and each mutation of a simulated one gives its own error code."""

import dataclasses
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from sealserve.attestation.claims import Claims, TcbStatus
from sealserve.errors import VerificationError
from sealserve.sgx import dcap
from sealserve.sgx.appraisal import VerifiedQuote, verify_quote
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.pck import SGX_EXTENSION, PckCa, PckChain
from sealserve.sgx.quote import Quote
from sealserve.sgx.report import Attributes, EnclaveReport, MrEnclave, MrSigner
from sealserve.sgx.simulated import documents, pck_extension
from sealserve.sgx.simulated.attacks import forged_collateral
from sealserve.sgx.simulated.authority import Authority, chain_pem, new_key, raw_public_key, sign_raw
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting import quote
from sealserve.sgx.simulated.vendor import SignedDocument, Vendor
from sealserve.sgx.trust_anchor import SIMULATED, TrustAnchor
from sealserve.sgx.verifier import SgxVerifier, TrustedVendor
from sealserve.terms import PlatformKind

VECTORS = Path(__file__).parent / "quotes"
VECTOR_TIME = datetime(2025, 6, 20, tzinfo=UTC)
NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
REPORT = EnclaveReport(
    attributes=Attributes(flags=0x5, xfrm=0xE7),
    mr_enclave=MrEnclave(bytes([0xA1]) * 32),
    mr_signer=MrSigner(bytes([0xB2]) * 32),
    isv_prod_id=7,
    isv_svn=3,
    report_data=bytes(range(64)),
)
BYTES = st.integers(0, (1 << 16) - 1)  # taken modulo a length, because signatures have different lengths in each run
DEBUG = dataclasses.replace(REPORT, attributes=Attributes(flags=0x7, xfrm=0xE7))


@dataclass(frozen=True, kw_only=True)
class World:
    """A simulated vendor, a second vendor whose root has the same name, and platforms. Tests must not change them."""

    vendor: Vendor
    stranger: Vendor
    platform: SimulatedPlatform
    single: SimulatedPlatform
    old: SimulatedPlatform

    def __repr__(self) -> str:
        return "<world>"  # hypothesis prints arguments completely


@dataclass(frozen=True, kw_only=True)
class Given:
    raw: bytes
    collateral: Collateral
    anchor: TrustAnchor
    now: datetime = NOW
    minimum: int = 0

    def verify(self) -> VerifiedQuote:
        return verify_quote(
            self.raw, self.collateral, anchor=self.anchor, now=self.now, minimum_evaluation_number=self.minimum
        )

    def verify_as_the_broker_does(self) -> Claims:
        kind = PlatformKind.SIMULATED if self.anchor.simulated else PlatformKind.SGX
        vendor = TrustedVendor(anchor=self.anchor, collateral=Published(self.collateral))
        screened = SgxVerifier({kind: vendor}).read(self.raw).screen(kind)
        return screened.endorse().verify(now=self.now, minimum_evaluation_number=self.minimum)


@dataclass(frozen=True)
class Published:
    """A source of collateral that always returns the same collateral."""

    collateral: Collateral

    def cached_for(self, _pck: PckChain) -> Collateral | None:
        return self.collateral

    def collateral_for(self, _pck: PckChain) -> Collateral:
        return self.collateral

    def forget(self, _pck: PckChain) -> None:
        """Do nothing: the source has no other collateral."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    vendor = Vendor.create(folder / "vendor", now=NOW)
    return World(
        vendor=vendor,
        stranger=Vendor.create(folder / "stranger", now=NOW),
        platform=SimulatedPlatform.create(vendor, folder / "platform", now=NOW),
        single=SimulatedPlatform.create(vendor, folder / "single", now=NOW, ca=PckCa.PROCESSOR),
        old=SimulatedPlatform.create(vendor, folder / "old", now=NOW, out_of_date=True),
    )


@functools.lru_cache
def good(world: World) -> Given:
    return Given(
        raw=quote(world.platform, REPORT), collateral=world.vendor.collateral(now=NOW), anchor=world.vendor.anchor
    )


def real() -> Given:
    return Given(
        raw=(VECTORS / "sgx_quote").read_bytes(),
        collateral=Collateral.from_json((VECTORS / "sgx_quote_collateral.json").read_text()),
        anchor=TrustAnchor.intel(),
        now=VECTOR_TIME,
    )


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def signed(vendor: Vendor, text: str, **changes: Any) -> SignedDocument:
    return vendor.sign(documents.encode(json.loads(text) | changes))


def with_tcb_info(world: World, **changes: Any) -> Given:
    start = good(world)
    document = signed(world.vendor, start.collateral.tcb_info, **changes)
    return with_collateral(start, tcb_info=document.text, tcb_info_signature=document.signature)


def with_qe_identity(world: World, **changes: Any) -> Given:
    start = good(world)
    document = signed(world.vendor, start.collateral.qe_identity, **changes)
    return with_collateral(start, qe_identity=document.text, qe_identity_signature=document.signature)


def with_collateral(start: Given, **changes: Any) -> Given:
    return dataclasses.replace(start, collateral=dataclasses.replace(start.collateral, **changes))


def with_raw(world: World, change: Callable[[bytes], bytes]) -> Given:
    start = good(world)
    return dataclasses.replace(start, raw=change(start.raw))


def with_quote(world: World, change: Callable[[Quote], Quote]) -> Given:
    return with_raw(world, lambda raw: change(Quote.parse(raw)).to_bytes())


def with_pck_chain(world: World, *certificates: x509.Certificate) -> Given:
    return with_quote(
        world, lambda parsed: dataclasses.replace(parsed, certification_data=chain_pem(*certificates).encode())
    )


def with_pck_issuer(world: World, issuer: Authority) -> Given:
    """A PCK certificate for the platform's own key from an issuer that is not a PCK CA."""
    pck = world.platform.chain
    leaf = issuer.issue(
        SIMULATED.pck, world.platform.pck_key.public_key(), extension=pck_extension.encode(pck.extension), now=NOW
    )
    return with_pck_chain(world, leaf, issuer.certificate, world.vendor.root.certificate)


def with_rogue_pck_ca(world: World) -> Given:
    """A CA that the root issued for another purpose. It issues PCK certificates and revokes none."""
    rogue = root_issued(world, "SGX Something CA (simulated)")
    return with_collateral(with_pck_issuer(world, rogue), pck_crl=rogue.revocation_list((), number=1, now=NOW))


def with_pck_extension(world: World, extension: x509.UnrecognizedExtension) -> Given:
    issuer = world.vendor.platform_ca
    leaf = issuer.issue(SIMULATED.pck, world.platform.pck_key.public_key(), extension=extension, now=NOW)
    return with_pck_chain(world, leaf, issuer.certificate, world.vendor.root.certificate)


def with_qe_report(world: World, **changes: Any) -> Given:
    """A different quoting enclave, certified with the platform's PCK."""

    def change(parsed: Quote) -> Quote:
        report = dataclasses.replace(parsed.qe_report, **changes)
        signature = sign_raw(world.platform.pck_key, report.to_bytes())
        return dataclasses.replace(parsed, qe_report=report, qe_report_signature=signature)

    return with_quote(world, change)


def with_own_attestation_key(world: World) -> Given:
    key = new_key()

    def change(parsed: Quote) -> Quote:
        claimed = dataclasses.replace(parsed, attestation_key=raw_public_key(key))
        return dataclasses.replace(claimed, signature=sign_raw(key, claimed.signed_bytes()))

    return with_quote(world, change)


def with_qe_identity_by_pck(world: World) -> Given:
    start = good(world)
    return with_collateral(
        start,
        qe_identity_signature=sign_raw(world.platform.pck_key, start.collateral.qe_identity.encode()),
        qe_identity_issuer_chain=world.platform.pck_chain_pem.decode(),
    )


def with_signer(world: World, signer: Authority, *rest: x509.Certificate) -> Given:
    start = good(world)
    return with_collateral(
        start,
        tcb_info_signature=sign_raw(signer.key, start.collateral.tcb_info.encode()),
        tcb_info_issuer_chain=chain_pem(signer.certificate, *rest),
    )


def with_levels(world: World, **first: Any) -> Given:
    levels = json.loads(world.vendor.tcb_info(now=NOW).text)["tcbLevels"]
    return with_tcb_info(world, tcbLevels=[levels[0] | first, *levels[1:]])


def with_tcb_info_text(world: World, change: Callable[[str], str]) -> Given:
    start = good(world)
    document = world.vendor.sign(change(start.collateral.tcb_info))
    return with_collateral(start, tcb_info=document.text, tcb_info_signature=document.signature)


def root_issued(world: World, name: str) -> Authority:
    return world.vendor.root.create_authority(name, now=NOW)


def without_extension(world: World) -> Given:
    signer = world.vendor.platform_ca.create_signer(SIMULATED.pck, now=NOW)
    return with_pck_chain(
        world, signer.certificate, world.vendor.platform_ca.certificate, world.vendor.root.certificate
    )


def inconsistent_svns(world: World) -> x509.UnrecognizedExtension:
    encoded = pck_extension.encode(world.platform.chain.extension).value
    cpu_svn = world.platform.chain.extension.cpu_svn
    return x509.UnrecognizedExtension(SGX_EXTENSION, encoded.replace(cpu_svn, b"\xff" * 16))


CASES: dict[str, tuple[Callable[[World], Given], str, str]] = {
    # the format of the quote
    "empty": (lambda w: with_raw(w, lambda raw: raw[:0]), "quote.truncated", "at least 436 bytes, got 0"),
    "cut in the header": (lambda w: with_raw(w, lambda raw: raw[:47]), "quote.truncated", "got 47"),
    "last byte cut": (
        lambda w: with_raw(w, lambda raw: raw[:-1]), "quote.truncated", r"bytes of signature data, got \d+"),
    "one byte more": (lambda w: with_raw(w, lambda raw: raw + b"\0"), "quote.trailing-bytes", "got 1 more"),
    "version 4": (
        lambda w: with_raw(w, lambda raw: patched(raw, 0, b"\4\0")), "quote.version", "version: expected 3, got 4"),
    "ECDSA P-384": (lambda w: with_raw(w, lambda raw: patched(raw, 2, b"\3\0")), "quote.attestation-key-type", "got 3"),
    "TDX": (lambda w: with_raw(w, lambda raw: patched(raw, 4, b"\x81")), "quote.tee-type", "got 0x81"),
    "another QE vendor": (lambda w: with_raw(w, lambda raw: flipped(raw, 12)), "quote.qe-vendor", "got 929a72"),
    "no room for signatures": (
        lambda w: with_raw(w, lambda raw: raw[:432] + (10).to_bytes(4, "little") + bytes(10)),
        "quote.malformed", "bytes of signature data, got 10"),
    "QE authentication data of 31 bytes": (
        lambda w: with_raw(w, lambda raw: patched(raw, 1012, b"\x1f\0")), "quote.malformed", "got 31"),
    "certification data without its header": (
        lambda w: with_raw(w, lambda raw: raw[:432] + (612).to_bytes(4, "little") + raw[436:1048]),
        "quote.malformed", "expected at least 6 bytes of certification data, got 2"),
    "certification data of another length": (
        lambda w: with_raw(w, lambda raw: patched(raw, 1048, bytes([raw[1048] ^ 1]))),
        "quote.malformed", r"expected \d+ bytes of certification data"),
    "encrypted PPID instead of a chain": (
        lambda w: with_raw(w, lambda raw: patched(raw, 1046, b"\3\0")),
        "quote.certification-data", "The host lacks the quote provider library"),
    "reserved bytes of the report": (
        lambda w: with_raw(w, lambda raw: flipped(raw, 48 + 20)), "report.reserved", "reserved"),
    # the enclave
    "debug enclave": (
        lambda w: dataclasses.replace(good(w), raw=quote(w.platform, DEBUG)),
        "quote.debug", r"debug mode \(attributes 0x7\)"),
    # the quote's signatures
    "changed report": (
        lambda w: with_raw(w, lambda raw: flipped(raw, 48 + 64)), "quote.signature", "attestation key did not sign"),
    "changed header": (
        lambda w: with_raw(w, lambda raw: flipped(raw, 28)), "quote.signature", "attestation key did not sign"),
    "changed signature": (
        lambda w: with_raw(w, lambda raw: flipped(raw, 440)), "quote.signature", "attestation key did not sign"),
    "zeros for a signature": (
        lambda w: with_raw(w, lambda raw: patched(raw, 436, bytes(64))),
        "quote.signature", "attestation key did not sign"),
    "an attestation key of the host's own": (
        with_own_attestation_key, "quote.attestation-key", "bound to another attestation key"),
    "changed QE authentication data": (
        lambda w: with_raw(w, lambda raw: flipped(raw, 1014)),
        "quote.attestation-key", "bound to another attestation key"),
    "changed QE report": (
        lambda w: with_raw(w, lambda raw: flipped(raw, 564 + 64)), "quote.qe-report-signature", "PCK key did not sign"),
    "changed QE report signature": (
        lambda w: with_raw(w, lambda raw: flipped(raw, 948 + 9)), "quote.qe-report-signature", "PCK key did not sign"),
    # the quoting enclave
    "QE of another signer": (
        lambda w: with_qe_report(w, mr_signer=MrSigner(bytes(32))),
        "quote.qe-identity", "QE MRSIGNER mismatch: expected"),
    "QE of another product": (
        lambda w: with_qe_report(w, isv_prod_id=2), "quote.qe-identity", "QE ISVPRODID mismatch: expected 1, got 2"),
    "QE too old for any level": (
        lambda w: with_qe_report(w, isv_svn=1), "quote.qe-identity", "QE ISVSVN 1 is below minimum required 8"),
    "QE in debug mode": (
        lambda w: with_qe_report(w, attributes=Attributes(flags=0x17, xfrm=0xE7)),
        "quote.qe-identity", "in debug mode"),
    # the PCK chain
    "PCK from a CA that is not a PCK CA": (
        with_rogue_pck_ca,
        "pck.issuer-not-pck-ca", "got 'SGX Something CA"),
    "PCK from the genuine vendor's CA name": (
        lambda w: with_pck_issuer(w, root_issued(w, "Intel SGX PCK Platform CA")),
        "pck.issuer-not-pck-ca", "got 'Intel SGX PCK Platform CA'"),
    "PCK CA that the root did not issue": (
        lambda w: with_pck_issuer(w, w.stranger.platform_ca),
        "certificate-chain.broken", "was not issued by the next certificate, 'SGX Root CA"),
    "PCK that the PCK CA did not issue": (
        lambda w: with_pck_chain(
            w, w.platform.chain.leaf, w.vendor.processor_ca.certificate, w.vendor.root.certificate),
        "certificate-chain.broken", "'SGX PCK Certificate"),
    "a stranger's root": (
        lambda w: dataclasses.replace(good(w), anchor=w.stranger.anchor),
        "pck.root-not-trusted", "does not end at the trusted root: expected"),
    "simulated where Intel's root is trusted": (
        lambda w: dataclasses.replace(good(w), anchor=TrustAnchor.intel()),
        "pck.root-not-trusted", "trusted root: expected 'Intel SGX Root CA', got 'SGX Root CA"),
    "chain without its root": (
        lambda w: with_pck_chain(w, w.platform.chain.leaf, w.platform.chain.issuer), "pck.chain", "got 2 certificates"),
    "chain with text in between": (
        lambda w: with_quote(w, lambda q: dataclasses.replace(q, certification_data=b"hello\n" + q.certification_data)),
        "certificate-chain.malformed", "PEM certificates without other data"),
    "PCK without the SGX extension": (without_extension, "pck.malformed", "lacks the SGX extension"),
    "PCK whose security versions disagree": (
        lambda w: with_pck_extension(w, inconsistent_svns(w)), "pck.svn-inconsistent", "differ from its CPUSVN ffff"),
    "PCK with an empty SGX extension": (
        lambda w: with_pck_extension(w, x509.UnrecognizedExtension(SGX_EXTENSION, b"\x30\x00")),
        "pck.malformed", "lacks the part 1"),
    "PCK with garbage for the SGX extension": (
        lambda w: with_pck_extension(w, x509.UnrecognizedExtension(SGX_EXTENSION, b"\x04\x01x")),
        "pck.malformed", "violates the specification"),
    "revoked PCK": (
        lambda w: with_collateral(good(w), pck_crl=w.vendor.platform_ca.revocation_list(
            [w.platform.chain.leaf.serial_number], number=2, now=NOW)),
        "pck.revoked", "is revoked"),
    "revoked PCK CA": (
        lambda w: with_collateral(good(w), root_ca_crl=w.vendor.root.revocation_list(
            [w.vendor.platform_ca.certificate.serial_number], number=2, now=NOW)),
        "certificate-chain.revoked", "on the revocation list of its issuer"),
    "revoked TCB signing certificate": (
        lambda w: with_collateral(good(w), root_ca_crl=w.vendor.root.revocation_list(
            [w.vendor.tcb_signing.certificate.serial_number], number=2, now=NOW)),
        "certificate-chain.revoked", "on the revocation list of its issuer"),
    "certificates past their end": (
        lambda w: dataclasses.replace(
            good(w),
            collateral=w.vendor.collateral(now=NOW + timedelta(days=40 * 365)), now=NOW + timedelta(days=40 * 365)),
        "certificate-chain.validity", "CertExpired"),
    # the signers of the collateral
    "TCB info by a stolen PCK key": (
        lambda w: with_collateral(good(w), **dataclasses.asdict(forged_collateral(good(w).collateral, w.platform))),
        "collateral.signer-not-tcb-signing", r"got 'SGX PCK Certificate \(simulated\)' \(a platform certificate\)"),
    "QE identity by a stolen PCK key": (
        with_qe_identity_by_pck,
        "collateral.signer-not-tcb-signing",
        "QE identity is not signed by the TCB signing key: expected the signer 'SGX TCB Signing"),
    "TCB info by a signer of another name": (
        lambda w: with_signer(
            w, w.vendor.root.create_signer("SGX Foo Signing", now=NOW), w.vendor.root.certificate),
        "collateral.signer-not-tcb-signing", "got 'SGX Foo Signing'"),
    "TCB info by the genuine signer's name": (
        lambda w: with_signer(
            w, w.vendor.root.create_signer("Intel SGX TCB Signing", now=NOW), w.vendor.root.certificate),
        "collateral.signer-not-tcb-signing", "got 'Intel SGX TCB Signing'"),
    "TCB info by a signer below the PCK CA": (
        lambda w: with_signer(
            w, w.vendor.platform_ca.create_signer(SIMULATED.tcb_signing, now=NOW), w.vendor.root.certificate),
        "certificate-chain.broken", "TCB info issuer chain"),
    "TCB info with the PCK CA in its chain": (
        lambda w: with_signer(
            w, w.vendor.platform_ca.create_signer(SIMULATED.tcb_signing, now=NOW),
            w.vendor.platform_ca.certificate, w.vendor.root.certificate),
        "certificate-chain.malformed", "expected exactly the signer and the trusted root"),
    "TCB info by a stranger": (
        lambda w: with_signer(w, w.stranger.tcb_signing, w.stranger.root.certificate),
        "certificate-chain.malformed", "the signer and the trusted root"),
    "changed TCB info": (
        lambda w: with_collateral(good(w), tcb_info=good(w).collateral.tcb_info.replace("2025-05-14", "2025-05-15")),
        "collateral.tcb-info-signature", "did not sign"),
    "changed TCB info signature": (
        lambda w: with_collateral(good(w), tcb_info_signature=flipped(good(w).collateral.tcb_info_signature, 40)),
        "collateral.tcb-info-signature", "did not sign"),
    "changed QE identity signature": (
        lambda w: with_collateral(good(w), qe_identity_signature=flipped(good(w).collateral.qe_identity_signature, 40)),
        "collateral.qe-identity-signature", "did not sign"),
    "short signature": (
        lambda w: with_collateral(good(w), qe_identity_signature=b"short"), "collateral.malformed", "64 bytes, got 5"),
    # the subject and format of the collateral
    "TCB info of another FMSPC": (
        lambda w: with_tcb_info(w, fmspc="00A067110000"),
        "collateral.fmspc", "expected FMSPC 5EA15E000000, got 00A067110000"),
    "TCB info of another PCE": (
        lambda w: with_tcb_info(w, pceId="0001"), "collateral.pce-id", "expected pceId 0000, got 0001"),
    "TCB info for TDX": (
        lambda w: with_tcb_info(w, id="TDX"),
        "collateral.malformed", "TCB info is malformed: id: Input should be 'SGX'"),
    "TCB info of version 2": (
        lambda w: with_tcb_info(w, version=2), "collateral.malformed", "version: Input should be 3"),
    "TCB type 1": (lambda w: with_tcb_info(w, tcbType=1), "collateral.malformed", "tcbType: Input should be 0"),
    "QE identity for TDX": (
        lambda w: with_qe_identity(w, id="TD_QE"),
        "collateral.malformed", "QE identity is malformed: id"),
    "unknown TCB status": (
        lambda w: with_levels(w, tcbStatus="Fine"), "collateral.malformed", "Failed to decode TcbInfo"),
    "status that platforms cannot have": (
        lambda w: with_levels(w, tcbStatus="TDRelaunchAdvised"), "collateral.malformed", "Unrecognized TCB status"),
    "a key twice": (
        lambda w: with_tcb_info_text(w, lambda text: text.replace('"version":3', '"version":3,"version":3')),
        "collateral.duplicate-key", "the key 'version' occurs twice"),
    "a key twice in a level": (
        lambda w: with_tcb_info_text(
            w, lambda text: text.replace('"tcbStatus":"OutOfDate"', '"tcbStatus":"OutOfDate","tcbStatus":"UpToDate"')),
        "collateral.duplicate-key", "the key 'tcbStatus' occurs twice"),
    "no JSON": (
        lambda w: with_tcb_info_text(w, lambda text: text[:-1]),
        "collateral.malformed", "TCB info is malformed: it is not JSON"),
    "an array": (
        lambda w: with_tcb_info_text(w, lambda text: f"[{text}]"), "collateral.malformed", "expected a JSON object"),
    "nested beyond reason": (
        lambda w: with_tcb_info_text(w, lambda _: "[" * 500_000),
        "collateral.malformed", "TCB info is malformed: it is not JSON"),
    "larger than reason": (
        lambda w: with_tcb_info_text(w, lambda text: text + " " * (1 << 20)),
        "collateral.malformed", "too large: expected at most"),
    # time
    "expired TCB info": (
        lambda w: with_tcb_info(w, nextUpdate="2026-01-14T00:00:00Z"),
        "collateral.expired",
        "TCB info has expired: it was valid until 2026-01-14T00:00:00Z, and the time is 2026-01-15T12:00:00Z"),
    "expired QE identity": (
        lambda w: with_qe_identity(w, nextUpdate="2026-01-14T00:00:00Z"),
        "collateral.expired", "QE identity has expired: it was valid until"),
    "expired PCK CRL": (
        lambda w: with_collateral(good(w), pck_crl=w.vendor.pck_crl(PckCa.PLATFORM, now=NOW - timedelta(days=31))),
        "collateral.expired", "PCK CRL has expired: it was valid until 2026-01-14"),
    "expired root CRL": (
        lambda w: with_collateral(good(w), root_ca_crl=w.vendor.root_crl(now=NOW - timedelta(days=31))),
        "collateral.expired", "Root CRL has expired: it was valid until"),
    "all of it a month later": (
        lambda w: dataclasses.replace(good(w), now=NOW + timedelta(days=31)),
        "collateral.expired", "has expired: "),
    "TCB info from the future": (
        lambda w: with_tcb_info(w, issueDate="2026-01-16T00:00:00Z"),
        "collateral.not-yet-valid", "TCB info is not valid yet: it was issued at 2026-01-16T00:00:00Z, and"),
    "PCK CRL from the future": (
        lambda w: with_collateral(good(w), pck_crl=w.vendor.pck_crl(PckCa.PLATFORM, now=NOW + timedelta(days=1))),
        "collateral.not-yet-valid", "PCK CRL is not valid yet: it was issued at"),
    # revocation lists
    "CRL of the other PCK CA": (
        lambda w: with_collateral(good(w), pck_crl=w.vendor.pck_crl(PckCa.PROCESSOR, now=NOW)),
        "collateral.crl", "UnknownRevocationStatus"),
    "a stranger's PCK CRL": (
        lambda w: with_collateral(good(w), pck_crl=w.stranger.pck_crl(PckCa.PLATFORM, now=NOW)),
        "collateral.crl", "InvalidCrlSignature"),
    "a stranger's root CRL": (
        lambda w: with_collateral(good(w), root_ca_crl=w.stranger.root_crl(now=NOW)),
        "collateral.crl", "Failed to parse root CA"),
    "garbage for a CRL": (
        lambda w: with_collateral(good(w), pck_crl=b"garbage"),
        "collateral.malformed", "PCK CRL is malformed: it is not a certificate revocation"),
    # roll-back
    "older than what was seen": (
        lambda w: dataclasses.replace(good(w), minimum=18), "collateral.rolled-back", "at least 18, got 17"),
    "older in one of the two documents": (
        lambda w: dataclasses.replace(with_tcb_info(w, tcbEvaluationDataNumber=18), minimum=18),
        "collateral.rolled-back", "at least 18, got 17"),
    # TCB levels
    "below every level": (
        lambda w: with_tcb_info(w, tcbLevels=[]), "tcb.no-level", "below every level"),
    "revoked level": (lambda w: with_levels(w, tcbStatus="Revoked"), "tcb.revoked", "is Revoked"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_mutation_is_refused_with_its_own_code(world: World, name: str) -> None:
    mutate, code, message = CASES[name]
    with pytest.raises(VerificationError, match=message) as caught:
        mutate(world).verify()
    assert caught.value.code == code


@pytest.mark.parametrize("name", CASES)
def test_no_mutation_becomes_claims_for_the_broker(world: World, name: str) -> None:
    mutate, code, _ = CASES[name]
    with pytest.raises(VerificationError) as caught:
        mutate(world).verify_as_the_broker_does()
    mixed_up = name == "simulated where Intel's root is trusted"  # the broker reports this mistake with its own code
    assert caught.value.code == ("policy.simulated-quote" if mixed_up else code)


def test_the_broker_has_the_same_claims(world: World) -> None:
    for given_ in (good(world), real()):
        assert given_.verify_as_the_broker_does() == given_.verify()


def test_the_real_quote_verifies_at_its_time_against_intels_root() -> None:
    verified = real().verify()
    assert verified.tcb_status is TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED
    assert verified.advisory_ids == ("INTEL-SA-00289", "INTEL-SA-00615")
    assert verified.fmspc == "00A067110000"
    assert verified.platform_id == "d04ec06d4e6d92dc90d0ad3cf5ee2ddf"
    assert verified.tcb_evaluation_data_number == 17
    assert verified.tcb_date == datetime(2024, 3, 13, tzinfo=UTC)
    assert verified.simulated is False
    assert verified.report.attributes == Attributes(flags=0x5, xfrm=0xE7)
    assert verified.report.report_data.startswith(b"Hello, world!")
    assert verified.report.mr_enclave.hex().startswith("33d8736db756ed4997e0")


def test_the_real_quote_is_written_as_it_is_read() -> None:
    raw = real().raw
    assert Quote.parse(raw).to_bytes() == raw


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (datetime(2025, 6, 18, tzinfo=UTC), "collateral.not-yet-valid"),
        (datetime(2025, 8, 1, tzinfo=UTC), "collateral.expired"),
    ],
)
def test_the_real_collateral_has_its_time(now: datetime, code: str) -> None:
    with pytest.raises(VerificationError) as caught:
        dataclasses.replace(real(), now=now).verify()
    assert caught.value.code == code


def test_the_real_quote_is_refused_where_a_simulated_root_is_trusted(world: World) -> None:
    with pytest.raises(VerificationError, match="got 'Intel SGX Root CA'") as caught:
        dataclasses.replace(real(), anchor=world.vendor.anchor).verify()
    assert caught.value.code == "pck.root-not-trusted"


def test_a_simulated_quote_verifies_through_the_same_code(world: World) -> None:
    verified = good(world).verify()
    assert verified == VerifiedQuote(
        report=dataclasses.replace(REPORT, cpu_svn=documents.CPU_SVN),
        tcb_status=TcbStatus.UP_TO_DATE,
        advisory_ids=(),
        fmspc=documents.FMSPC,
        platform_id=world.platform.platform_id,
        tcb_evaluation_data_number=17,
        tcb_date=datetime(2025, 5, 14, tzinfo=UTC),
        tcb_superseded=None,
        collateral_issued=NOW,
        verified_at=NOW,
        simulated=True,
        cpu_svn=documents.CPU_SVN,
        pce_svn=documents.PCE_SVN,
        qe_svn=8,
    )


def test_a_platform_of_the_processor_ca_is_known_by_its_ppid(world: World) -> None:
    given_ = Given(
        raw=quote(world.single, REPORT),
        collateral=world.vendor.collateral(ca=PckCa.PROCESSOR, now=NOW),
        anchor=world.vendor.anchor,
    )
    extension = PckChain.parse(world.single.pck_chain_pem).extension
    assert extension.platform_instance_id is None
    assert given_.verify().platform_id == extension.ppid.hex()


def test_an_out_of_date_platform_is_a_result_and_no_error(world: World) -> None:
    verified = dataclasses.replace(good(world), raw=quote(world.old, REPORT)).verify()
    assert verified.tcb_status is TcbStatus.OUT_OF_DATE
    assert verified.advisory_ids == ("SIMULATED-SA-00001",)


def test_of_unequal_evaluation_numbers_the_smaller_counts(world: World) -> None:
    given_ = dataclasses.replace(with_tcb_info(world, tcbEvaluationDataNumber=18), minimum=17)
    assert given_.verify().tcb_evaluation_data_number == 17


def test_a_time_without_a_zone_is_a_programming_error(world: World) -> None:
    with pytest.raises(ValueError, match="time zone"):
        dataclasses.replace(good(world), now=datetime(2026, 1, 15)).verify()  # noqa: DTZ001  # a time without a zone


@pytest.mark.parametrize(
    "mutate",
    [
        lambda w: dataclasses.replace(
            good(w), raw=quote(w.old, REPORT), collateral=forged_collateral(good(w).collateral, w.platform)
        ),
        lambda w: with_tcb_info(w, pceId="0001"),
        lambda w: with_raw(w, lambda raw: raw + b"trailing"),
        CASES["PCK CRL from the future"][0],
        with_rogue_pck_ca,
    ],
    ids=["stolen PCK key", "pceId", "trailing bytes", "CRL from the future", "rogue PCK CA"],
)
def test_dcap_qvl_alone_would_have_accepted_it(world: World, mutate: Callable[[World], Given]) -> None:
    # These tests show why the separate checks exist. If one fails after an upgrade, dcap-qvl has become stricter.
    given_ = mutate(world)
    verdict = dcap.verify(given_.raw, given_.collateral, anchor=given_.anchor, now=given_.now)
    assert verdict.tcb_status is TcbStatus.UP_TO_DATE


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_no_single_bit_of_a_quote_can_change(world: World, data: st.DataObject) -> None:
    start = good(world)
    at = data.draw(BYTES, label="byte") % len(start.raw)
    bit = data.draw(st.integers(0, 7), label="bit")
    with pytest.raises(VerificationError):
        dataclasses.replace(start, raw=flipped(start.raw, at, bit)).verify()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_prefix_of_a_quote_verifies(world: World, data: st.DataObject) -> None:
    start = good(world)
    length = data.draw(BYTES) % len(start.raw)
    with pytest.raises(VerificationError, match=r"The quote is truncated: expected .* got") as caught:
        dataclasses.replace(start, raw=start.raw[:length]).verify()
    assert caught.value.code == "quote.truncated"


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_single_bit_of_signed_collateral_can_change(world: World, data: st.DataObject) -> None:
    start = good(world)
    names = ("root_ca_crl", "pck_crl", "tcb_info", "tcb_info_signature", "qe_identity", "qe_identity_signature")
    name = data.draw(st.sampled_from(names))
    value = getattr(start.collateral, name)
    raw = value.encode() if isinstance(value, str) else value
    changed = flipped(raw, data.draw(BYTES) % len(raw), data.draw(st.integers(0, 6)))
    new = changed.decode() if isinstance(value, str) else changed
    with pytest.raises(VerificationError):
        with_collateral(start, **{name: new}).verify()
