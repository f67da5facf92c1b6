"""The owner of an attestation key is verified once for each platform. Everything else is verified for each quote."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.harness.errors import raises

from sealserve.sgx import quote_signatures
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.pck import PckChain
from sealserve.sgx.quote import Quote
from sealserve.sgx.quote_signatures import check_signatures
from sealserve.sgx.report import EnclaveReport
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.quoting_enclave import quote
from sealserve.sgx.simulated.vendor import Vendor


@pytest.fixture
def genuine(platform: SimulatedPlatform, report: EnclaveReport) -> Quote:
    return Quote.parse(quote(platform, report))


@pytest.fixture
def chain(platform: SimulatedPlatform) -> PckChain:
    return PckChain.parse(platform.pck_chain_pem)


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The contents whose signatures were verified."""
    contents: list[bytes] = []
    signed = quote_signatures._signed

    def count(key: object, signature: bytes, content: bytes) -> bool:
        contents.append(content)
        return signed(key, signature, content)

    monkeypatch.setattr(quote_signatures, "_signed", count)
    return contents


def test_the_quoting_enclave_of_a_platform_is_verified_once(
    genuine: Quote, chain: PckChain, verifications: list[bytes]
) -> None:
    for _ in range(3):
        check_signatures(genuine, chain)
    # The report of the enclave is verified each time.
    assert verifications == [genuine.qe_report.to_bytes(), *[genuine.signed_bytes()] * 3]


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("signature", SgxCode.QUOTE_SIGNATURE),
        ("qe_report_signature", SgxCode.QUOTE_QE_REPORT_SIGNATURE),
        ("attestation_key", SgxCode.QUOTE_ATTESTATION_KEY),
        ("qe_authentication_data", SgxCode.QUOTE_ATTESTATION_KEY),
    ],
)
def test_each_changed_byte_is_found_after_a_genuine_quote(
    genuine: Quote, chain: PckChain, field: str, code: SgxCode
) -> None:
    check_signatures(genuine, chain)
    changed = bytearray(getattr(genuine, field))
    changed[7] ^= 1
    spoiled: dict[str, Any] = {field: bytes(changed)}
    for _ in range(2):  # an error is not remembered as a success
        with raises(code):
            check_signatures(replace(genuine, **spoiled), chain)
    check_signatures(genuine, chain)


def test_a_changed_report_of_the_quoting_enclave_is_found(genuine: Quote, chain: PckChain) -> None:
    check_signatures(genuine, chain)
    newer = replace(genuine.qe_report, isv_svn=genuine.qe_report.isv_svn + 1)
    with raises(SgxCode.QUOTE_QE_REPORT_SIGNATURE):
        check_signatures(replace(genuine, qe_report=newer), chain)


def test_the_chain_of_another_platform_is_not_known(
    genuine: Quote, chain: PckChain, vendor: Vendor, tmp_path: Path, now: datetime
) -> None:
    check_signatures(genuine, chain)
    other = PckChain.parse(SimulatedPlatform.create(vendor, tmp_path / "other", now=now).pck_chain_pem)
    for forged in (other, replace(other, pem=chain.pem)):
        with raises(SgxCode.QUOTE_QE_REPORT_SIGNATURE):
            check_signatures(genuine, forged)


def test_the_memory_is_bounded(genuine: Quote, chain: PckChain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quote_signatures, "_MOST_PLATFORMS", 3)
    known = quote_signatures._KnownKeys()
    for number in range(5):
        known.owned(genuine, replace(chain, pem=chain.pem + b"\n" * number))
    assert len(known._keys) == 3
