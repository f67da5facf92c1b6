"""The table of dcap-qvl's messages. Messages that earlier checks normally prevent are triggered directly."""

import dataclasses
import importlib.metadata
import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.harness.errors import raises

from sealserve.errors import VerificationError
from sealserve.sgx import dcap
from sealserve.sgx.appraisal import verify_quote
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral import Collateral
from sealserve.sgx.dcap import DCAP_QVL_VERSION, DcapVerdict
from sealserve.sgx.report import Attributes, EnclaveReport
from sealserve.sgx.simulated import documents
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting import quote
from sealserve.sgx.simulated.vendor import Vendor


def _verify(vendor: Vendor, raw: bytes, collateral: Collateral, now: datetime) -> DcapVerdict:
    return dcap.verify(raw, collateral, anchor=vendor.anchor, now=now)


def _with_tcb_info(vendor: Vendor, now: datetime, **changes: Any) -> Collateral:
    collateral = vendor.collateral(now=now)
    document = vendor.sign(documents.encode(json.loads(collateral.tcb_info) | changes))
    return dataclasses.replace(collateral, tcb_info=document.text, tcb_info_signature=document.signature)


def test_the_table_was_made_from_the_installed_version() -> None:
    assert importlib.metadata.version("dcap-qvl") == DCAP_QVL_VERSION


def test_debug(vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport, now: datetime) -> None:
    raw = quote(platform, dataclasses.replace(report, attributes=Attributes(flags=0x7, xfrm=3)))
    with pytest.raises(VerificationError, match="in debug mode") as caught:
        _verify(vendor, raw, vendor.collateral(now=now), now)
    assert caught.value.code == "quote.debug"


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"fmspc": "000000000000"}, "collateral.fmspc", "FMSPC"),
        ({"nextUpdate": "2026-01-15T00:00:00Z"}, "collateral.expired", "TCBInfo expired"),
        ({"issueDate": "2026-01-16T00:00:00Z"}, "collateral.not-yet-valid", "TCBInfo issue date is in the future"),
        ({"issueDate": "today"}, "collateral.malformed", "Failed to parse TCB Info issue date"),
        ({"tcbLevels": "none"}, "collateral.malformed", "Failed to decode TcbInfo"),
    ],
)
def test_tcb_info(
    vendor: Vendor,
    platform: SimulatedPlatform,
    report: EnclaveReport,
    now: datetime,
    *,
    changes: dict[str, Any],
    code: str,
    message: str,
) -> None:
    with pytest.raises(VerificationError, match=message) as caught:
        _verify(vendor, quote(platform, report), _with_tcb_info(vendor, now, **changes), now)
    assert caught.value.code == code


def test_an_expired_list(vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport, now: datetime) -> None:
    with pytest.raises(VerificationError, match="CrlExpired") as caught:
        _verify(vendor, quote(platform, report), vendor.collateral(now=now), now + timedelta(days=40))
    assert caught.value.code == "collateral.expired"


def test_a_chain_to_nowhere(vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport, now: datetime) -> None:
    raw = quote(platform, report)
    collateral = dataclasses.replace(
        vendor.collateral(now=now), tcb_info_issuer_chain=vendor.pck_ca_chain(platform.chain.ca)
    )
    with pytest.raises(
        VerificationError,
        match="A certificate chain of the quote or collateral is broken: Failed to verify certificate "
        "chain Caused by: CaUsedAsEndEntity",
    ) as caught:
        _verify(vendor, raw, collateral, now)
    assert caught.value.code == "certificate-chain.broken"


def test_what_the_table_does_not_have(
    vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport, now: datetime
) -> None:
    collateral = dataclasses.replace(vendor.collateral(now=now), tcb_info_issuer_chain="")
    with raises(
        SgxCode.QUOTE_VERIFIER,
        match="dcap-qvl rejected the quote: Verification failed: Certificate chain is too short for TCB Info",
    ) as caught:
        _verify(vendor, quote(platform, report), collateral, now)
    assert caught.value.code == "quote.verifier"


def test_what_only_one_of_its_functions_refuses(
    vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verifier(_: bytes) -> None:
        raise ValueError("no claims")

    monkeypatch.setattr("dcap_qvl.QuoteVerifier", verifier)
    with raises(SgxCode.QUOTE_VERIFIER, match="dcap-qvl rejected the quote: no claims"):
        _verify(vendor, quote(platform, report), vendor.collateral(now=now), now)


def test_a_panic_of_the_library_is_a_refusal(
    vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):
        """An exception like the one that pyo3 raises for a Rust panic."""

    def verifier(_: bytes) -> None:
        raise PanicException

    monkeypatch.setattr("dcap_qvl.QuoteVerifier", verifier)
    with raises(SgxCode.QUOTE_VERIFIER, match="The quote cannot be verified: dcap-qvl failed with an internal error"):
        _verify(vendor, quote(platform, report), vendor.collateral(now=now), now)


def test_what_ends_the_program_is_not_caught(
    vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verifier(_: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dcap_qvl.QuoteVerifier", verifier)
    with pytest.raises(KeyboardInterrupt):
        _verify(vendor, quote(platform, report), vendor.collateral(now=now), now)


def test_two_readers_must_agree(
    vendor: Vendor, platform: SimulatedPlatform, report: EnclaveReport, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = dcap.verify

    def other(*args: Any, **kwargs: Any) -> DcapVerdict:
        verdict = genuine(*args, **kwargs)
        return dataclasses.replace(verdict, report=verdict.report | {"mr_enclave": "00" * 32, "isv_svn": 9})

    monkeypatch.setattr(dcap, "verify", other)
    with raises(
        SgxCode.QUOTE_VERIFIER, match="The quote is ambiguous: two parsers read different values of isv, mr_enclave"
    ):
        verify_quote(quote(platform, report), vendor.collateral(now=now), anchor=vendor.anchor, now=now)
