import hashlib
from datetime import datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.harness.errors import raises

from sealserve.sgx.codes import SgxCode
from sealserve.sgx.simulated.authority import Authority
from sealserve.sgx.simulated.vendor import Vendor
from sealserve.sgx.trust_anchor import INTEL_ROOT_SHA256, SIMULATED, TrustAnchor


def test_intels_root_is_built_in() -> None:
    anchor = TrustAnchor.intel()
    assert hashlib.sha256(anchor.root_der).hexdigest() == INTEL_ROOT_SHA256
    assert anchor.names.root == "Intel SGX Root CA"
    assert not anchor.simulated


def test_everything_simulated_says_so(vendor: Vendor) -> None:
    assert vendor.anchor.simulated
    names = SIMULATED
    for name in (names.root, names.processor_ca, names.platform_ca, names.pck, names.tcb_signing):
        assert "simulated" in name


def test_no_other_root_passes_for_intels(vendor: Vendor) -> None:
    with raises(
        SgxCode.TRUST_ANCHOR_INVALID,
        match=r"The trust anchor is not Intel's SGX root certificate: expected SHA-256 [0-9a-f]{64}, "
        r"got [0-9a-f]{64} \('SGX Root CA \(simulated\)'\)",
    ) as caught:
        TrustAnchor(root_der=vendor.root_der, simulated=False)
    assert caught.value.code == "trust-anchor.invalid"


def test_a_root_with_intels_name_does_not_pass_for_intels(now: datetime) -> None:
    root = Authority.create_root("Intel SGX Root CA", now=now)
    der = root.certificate.public_bytes(Encoding.DER)
    with raises(
        SgxCode.TRUST_ANCHOR_INVALID,
        match=r"The trust anchor is not Intel's SGX root certificate: expected SHA-256 [0-9a-f]{64}, "
        r"got [0-9a-f]{64} \('Intel SGX Root CA'\)",
    ):
        TrustAnchor(root_der=der, simulated=False)


def test_intels_root_does_not_pass_for_a_simulated_one() -> None:
    with raises(
        SgxCode.TRUST_ANCHOR_INVALID,
        match=r"The trust anchor is not the root of a simulated vendor: expected 'SGX Root CA "
        r"\(simulated\)', got 'Intel SGX Root CA'",
    ):
        TrustAnchor(root_der=TrustAnchor.intel().root_der, simulated=True)


@pytest.mark.parametrize("raw", [b"", b"garbage", b"\x30\x03\x02\x01\x01"])
def test_what_is_no_certificate_is_no_anchor(raw: bytes) -> None:
    with raises(SgxCode.TRUST_ANCHOR_INVALID, match="a self-signed"):
        TrustAnchor(root_der=raw, simulated=True)


def test_a_certificate_that_another_one_signed_is_no_anchor(vendor: Vendor) -> None:
    with raises(SgxCode.TRUST_ANCHOR_INVALID, match="self-signed"):
        TrustAnchor(root_der=vendor.tcb_signing.certificate.public_bytes(Encoding.DER), simulated=True)
