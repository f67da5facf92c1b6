import ast
import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.harness.errors import raises

import sealserve
from sealserve.attestation.claims import Claims
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.evidence import EndorsedEvidence, Evidence, ScreenedEvidence, Verifier
from sealserve.errors import VerificationError
from sealserve.sgx import dcap
from sealserve.sgx.appraisal import ExaminedQuote, VerifiedQuote
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.pck import PckChain
from sealserve.sgx.quote import Quote
from sealserve.sgx.report import Attributes, EnclaveReport
from sealserve.sgx.simulated.attacks import forged_collateral
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting_enclave import quote
from sealserve.sgx.simulated.vendor import Vendor
from sealserve.sgx.trust_anchor import TrustAnchor
from sealserve.sgx.verifier import (
    EndorsedQuote,
    ScreenedQuote,
    SgxEvidence,
    SgxVerifier,
    TrustedVendor,
    check_platform_kind,
)
from sealserve.terms import PlatformKind

SOURCE = Path(sealserve.__file__).parent


@dataclass(slots=True)
class Published:
    """A source of collateral without HTTP."""

    collateral: Collateral
    asked: int = 0
    forgotten: int = 0

    def cached_for(self, _pck: PckChain) -> Collateral | None:
        return None

    def collateral_for(self, pck: PckChain) -> Collateral:
        assert pck.extension.fmspc
        self.asked += 1
        return self.collateral

    def forget(self, _pck: PckChain) -> None:
        self.forgotten += 1


@pytest.fixture
def source(vendor: Vendor, now: datetime) -> Published:
    return Published(vendor.collateral(now=now))


@pytest.fixture
def verifier(vendor: Vendor, source: Published) -> SgxVerifier:
    return SgxVerifier({PlatformKind.SIMULATED: TrustedVendor(anchor=vendor.anchor, collateral=source)})


@pytest.fixture
def raw(platform: SimulatedPlatform, report: EnclaveReport) -> bytes:
    return quote(platform, replace(report, report_data=b"\x05" * 64))


@pytest.fixture
def stranger(tmp_path: Path, now: datetime) -> SimulatedPlatform:
    return SimulatedPlatform.create(Vendor.create(tmp_path / "stranger", now=now), tmp_path / "its", now=now)


def test_sgx_implements_the_seam(
    verifier: SgxVerifier, vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport, now: datetime
) -> None:
    seam: Verifier = verifier
    evidence: Evidence = seam.read(quote(platform, report))
    assert (evidence.measurement, evidence.signer) == (report.mr_enclave, report.mr_signer)
    assert evidence.report_data == report.report_data
    screened: ScreenedEvidence = evidence.screen(PlatformKind.SIMULATED)
    assert screened.series == vendor.anchor.fingerprint
    endorsed: EndorsedEvidence = screened.endorse()
    claims: Claims = endorsed.verify(now=now, minimum_evaluation_number=0)
    assert claims.measurement == report.mr_enclave
    assert (claims.platform_id, claims.simulated) == (platform.platform_id, True)


def test_a_quote_and_its_pck_chain_are_parsed_once(
    verifier: SgxVerifier,
    platform: SimulatedPlatform,
    report: EnclaveReport,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: Counter[str] = Counter()

    def count(kind: type[Any]) -> None:
        parse = kind.parse

        def counting(raw: bytes) -> Any:
            counted[kind.__name__] += 1
            return parse(raw)

        monkeypatch.setattr(kind, "parse", counting)

    raw = quote(platform, report)
    count(Quote)
    count(PckChain)
    screened = verifier.read(raw).screen(PlatformKind.SIMULATED)
    screened.endorse().verify(now=now, minimum_evaluation_number=0)
    assert counted == {"Quote": 1, "PckChain": 1}


def test_without_a_trusted_vendor_nothing_is_screened(
    vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport, source: Published
) -> None:
    raw = quote(platform, report)
    intel = TrustedVendor(anchor=TrustAnchor.intel(), collateral=source)
    simulated = TrustedVendor(anchor=vendor.anchor, collateral=source)
    cases: list[Mapping[PlatformKind, TrustedVendor]] = [
        {},
        {PlatformKind.SGX: intel},
        {PlatformKind.SIMULATED: intel},  # the wrong kind of root
        {PlatformKind.SGX: simulated},
    ]
    for vendors in cases:
        with raises(
            AttestationCode.BROKER_NO_TRUST_ANCHOR, match="The broker lacks a trust anchor for simulated releases"
        ):
            SgxVerifier(vendors).read(raw).screen(PlatformKind.SIMULATED)
    with raises(AttestationCode.BROKER_NO_TRUST_ANCHOR, match="The broker lacks a trust anchor for sgx releases"):
        SgxVerifier({PlatformKind.SGX: simulated}).read(raw).screen(PlatformKind.SGX)


def test_what_is_screened_out_makes_nobody_fetch_collateral(
    verifier: SgxVerifier,
    source: Published,
    platform: SimulatedPlatform,
    report: EnclaveReport,
    stranger: SimulatedPlatform,
) -> None:
    debug = replace(report, attributes=Attributes(flags=0x7, xfrm=0xE7))
    with raises(SgxCode.PCK_ROOT_NOT_TRUSTED):
        verifier.read(quote(stranger, report)).screen(PlatformKind.SIMULATED)
    with raises(SgxCode.QUOTE_DEBUG):
        verifier.read(quote(platform, debug)).screen(PlatformKind.SIMULATED)
    assert source.asked == 0


def test_an_examined_quote_cannot_exist_without_its_checks(
    vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport
) -> None:
    debug = quote(platform, replace(report, attributes=Attributes(flags=0x7, xfrm=0xE7)))
    pck = PckChain.parse(platform.pck_chain_pem)
    with raises(SgxCode.QUOTE_DEBUG):
        ExaminedQuote(raw=debug, quote=Quote.parse(debug), pck=pck, anchor=vendor.anchor)
    good = quote(platform, report)
    with raises(SgxCode.PCK_ROOT_NOT_TRUSTED):
        ExaminedQuote(raw=good, quote=Quote.parse(good), pck=pck, anchor=TrustAnchor.intel())


def test_collateral_that_does_not_verify_is_forgotten(
    verifier: SgxVerifier, source: Published, platform: SimulatedPlatform, report: EnclaveReport, now: datetime
) -> None:
    source.collateral = forged_collateral(source.collateral, platform)
    endorsed = verifier.read(quote(platform, report)).screen(PlatformKind.SIMULATED).endorse()
    with pytest.raises(VerificationError) as caught:
        endorsed.verify(now=now, minimum_evaluation_number=0)
    assert caught.value.code == "collateral.signer-not-tcb-signing"
    assert source.forgotten == 1


def test_a_quote_that_the_platform_did_not_sign_causes_no_fetch(
    verifier: SgxVerifier, source: Published, platform: SimulatedPlatform, report: EnclaveReport
) -> None:
    changed = {
        48: "quote.signature",  # the enclave's report
        440: "quote.signature",
        500: "quote.attestation-key",
        570: "quote.qe-report-signature",  # the quoting enclave's report
        950: "quote.qe-report-signature",
        1014: "quote.attestation-key",  # the authentication data
    }
    codes = {}
    for position in changed:
        raw = bytearray(quote(platform, report))
        raw[position] ^= 1
        with pytest.raises(VerificationError) as caught:
            verifier.read(bytes(raw)).screen(PlatformKind.SIMULATED)
        codes[position] = caught.value.code
    assert (codes, source.asked) == (changed, 0)


def test_a_quote_of_zeros_behind_a_genuine_certificate_chain_causes_no_fetch(
    verifier: SgxVerifier, platform: SimulatedPlatform, report: EnclaveReport
) -> None:
    """Anybody can copy a PCK chain from a published quote."""
    genuine = Quote.parse(quote(platform, report))
    zeros = replace(genuine, signature=bytes(64), attestation_key=bytes(64), qe_report_signature=bytes(64))
    with pytest.raises(VerificationError) as caught:
        verifier.read(zeros.to_bytes()).screen(PlatformKind.SIMULATED)
    assert caught.value.code == "quote.qe-report-signature"


def test_platform_kinds_do_not_mix() -> None:
    check_platform_kind(simulated_quote=True, release=PlatformKind.SIMULATED)
    check_platform_kind(simulated_quote=False, release=PlatformKind.SGX)
    with raises(
        SgxCode.POLICY_SIMULATED_QUOTE,
        match="The quote comes from a simulated platform, but the release is for SGX machines",
    ) as simulated:
        check_platform_kind(simulated_quote=True, release=PlatformKind.SGX)
    assert simulated.value.code == "policy.simulated-quote"
    with raises(
        SgxCode.POLICY_PLATFORM_KIND,
        match="The quote comes from an SGX processor, but the release is for simulated platforms",
    ) as genuine:
        check_platform_kind(simulated_quote=False, release=PlatformKind.SIMULATED)
    assert genuine.value.code == "policy.platform-kind"


# Claims never come from unverified bytes.


def test_claims_cannot_be_made_outside_of_a_verifier(now: datetime) -> None:
    values: dict[str, Any] = {
        "tcb_status": "UpToDate",
        "advisory_ids": (),
        "platform_id": "ab" * 16,
        "tcb_evaluation_data_number": 17,
        "tcb_date": now,
        "simulated": False,
    }
    with pytest.raises(TypeError, match="abstract"):
        Claims(**values)  # type: ignore[abstract]


def _calls(tree: ast.AST, names: set[str]) -> list[str]:
    return [
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]


def test_one_place_makes_claims_and_it_comes_after_the_verification() -> None:
    kinds = {"Claims", *(kind.__name__ for kind in Claims.__subclasses__())}
    assert kinds == {"Claims", "VerifiedQuote"}
    made = [
        (path.relative_to(SOURCE).as_posix(), name)
        for path in SOURCE.rglob("*.py")
        for name in _calls(ast.parse(path.read_text()), kinds)
    ]
    assert made == [("sgx/appraisal.py", "VerifiedQuote")]
    lines = inspect.getsource(ExaminedQuote.verify)
    assert lines.index("dcap.verify(") < lines.index("_check_agreement(") < lines.index("VerifiedQuote(")


@pytest.mark.parametrize("kind", [SgxEvidence, ScreenedQuote, EndorsedQuote, ExaminedQuote, Quote])
def test_what_is_not_verified_is_no_claims(kind: type[object]) -> None:
    assert not issubclass(kind, Claims)
    assert not hasattr(kind, "check_reference")


def test_what_dcap_qvl_refuses_never_becomes_claims(
    verifier: SgxVerifier,
    platform: SimulatedPlatform,
    report: EnclaveReport,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_arguments: object, **_keywords: object) -> None:
        raise SgxCode.QUOTE_DEBUG.error("refused")

    monkeypatch.setattr(dcap, "verify", refuse)
    made: list[object] = []
    monkeypatch.setattr(VerifiedQuote, "__init__", lambda self, **_: made.append(self))
    endorsed = verifier.read(quote(platform, report)).screen(PlatformKind.SIMULATED).endorse()
    with raises(SgxCode.QUOTE_DEBUG, match="refused"):
        endorsed.verify(now=now, minimum_evaluation_number=0)
    assert made == []


@pytest.mark.parametrize(
    "differ",
    [
        lambda verdict: verdict.report.update(mr_enclave="00" * 32),
        lambda verdict: verdict.report.update(report_data="00" * 64),
        lambda verdict: verdict.pck.update(ppid=[0] * 16),
    ],
    ids=["measurement", "report data", "platform"],
)
def test_claims_are_what_both_readers_saw(
    verifier: SgxVerifier,
    raw: bytes,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
    differ: Callable[[Any], None],
) -> None:
    verify = dcap.verify

    def another(*arguments: Any, **keywords: Any) -> Any:
        verdict = verify(*arguments, **keywords)
        differ(verdict)
        return verdict

    monkeypatch.setattr(dcap, "verify", another)
    endorsed = verifier.read(raw).screen(PlatformKind.SIMULATED).endorse()
    with raises(SgxCode.QUOTE_VERIFIER, match="The quote is ambiguous: two parsers read different values of"):
        endorsed.verify(now=now, minimum_evaluation_number=0)
