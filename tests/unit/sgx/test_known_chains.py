from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.harness.errors import raises

from sealserve.sgx.codes import SgxCode
from sealserve.sgx.known_chains import KnownChains
from sealserve.sgx.pck import PckChain
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.vendor import Vendor


def _spoil(pem: bytes) -> bytes:
    """Return the chain with another signature of the leaf."""
    leaf, *others = x509.load_pem_x509_certificates(pem)
    der = bytearray(leaf.public_bytes(Encoding.DER))
    der[-1] ^= 1
    spoiled = x509.load_der_x509_certificate(bytes(der))
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in (spoiled, *others))


def test_a_verified_chain_is_parsed_and_checked_once(
    vendor: Vendor, platform: SimulatedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, pem = KnownChains(), platform.pck_chain_pem
    chain = known.parse(pem)
    known.check(chain, vendor.anchor)
    monkeypatch.setattr(PckChain, "parse", None)
    monkeypatch.setattr(PckChain, "check", None)
    again = known.parse(pem)
    assert again is chain
    known.check(again, vendor.anchor)


def test_a_chain_is_known_only_after_its_check(platform: SimulatedPlatform) -> None:
    known = KnownChains()
    assert known.parse(platform.pck_chain_pem) is not known.parse(platform.pck_chain_pem)
    assert len(known) == 0


def test_a_known_chain_is_checked_again_with_another_root(
    vendor: Vendor, platform: SimulatedPlatform, tmp_path: Path, now: datetime
) -> None:
    known, pem = KnownChains(), platform.pck_chain_pem
    chain = known.parse(pem)
    known.check(chain, vendor.anchor)
    other = Vendor.create(tmp_path / "other", now=now)
    with raises(SgxCode.PCK_ROOT_NOT_TRUSTED, match="does not end at the trusted root"):
        known.check(known.parse(pem), other.anchor)
    known.check(known.parse(pem), vendor.anchor)


def test_another_chain_with_a_known_text_is_checked(vendor: Vendor, platform: SimulatedPlatform) -> None:
    known, pem = KnownChains(), platform.pck_chain_pem
    known.check(known.parse(pem), vendor.anchor)
    forged = replace(PckChain.parse(_spoil(pem)), pem=pem)
    with raises(SgxCode.CERTIFICATE_CHAIN_BROKEN, match="was not issued by the next certificate"):
        known.check(forged, vendor.anchor)


def test_a_changed_chain_is_never_known(vendor: Vendor, platform: SimulatedPlatform) -> None:
    known, pem = KnownChains(), platform.pck_chain_pem
    known.check(known.parse(pem), vendor.anchor)
    forged = _spoil(pem)
    for _ in range(2):
        with raises(SgxCode.CERTIFICATE_CHAIN_BROKEN, match="was not issued by the next certificate"):
            known.check(known.parse(forged), vendor.anchor)
    assert len(known) == 1


def test_the_number_of_known_chains_is_bounded(vendor: Vendor, tmp_path: Path, now: datetime) -> None:
    known = KnownChains(2)
    made = [SimulatedPlatform.create(vendor, tmp_path / str(number), now=now).pck_chain_pem for number in range(3)]
    for pem in (made[0], made[1], made[0], made[2]):
        known.check(known.parse(pem), vendor.anchor)
    assert len(known) == 2
    first, second = known.parse(made[0]), known.parse(made[1])
    assert known.parse(made[0]) is first  # used more recently than the second, which was removed
    assert known.parse(made[1]) is not second
