from datetime import datetime

import pytest
from cryptography import x509
from tests.harness.errors import raises

from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral_documents import is_revoked, next_update_of, parse_crl
from sealserve.sgx.pck import SGX_EXTENSION, PckChain, PckExtension, sgx_extension
from sealserve.sgx.simulated import pck_extension
from sealserve.sgx.simulated.platform import SimulatedPlatform
from sealserve.sgx.simulated.vendor import Vendor


def test_a_chain_tells_its_platform(platform: SimulatedPlatform) -> None:
    chain = PckChain.parse(platform.pck_chain_pem)
    assert chain.extension.fmspc == "5EA15E000000"
    assert chain.extension.platform_id == platform.platform_id
    assert sgx_extension(chain.issuer) is None


def _tlv(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    assert len(content) < 128
    return bytes([tag, len(content)]) + content


def _item(number: int, value: bytes) -> bytes:
    # 1.2.840.113741.1.13.1.NUMBER
    return _tlv(0x30, _tlv(0x06, bytes.fromhex("2a864886f84d010d01"), bytes([number])), value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "violates the specification"),
        (b"\x30\x80", "violates the specification"),
        (_tlv(0x30, _item(1, _tlv(0x04, bytes(15)))), "lacks the part|expected 16 bytes for ppid, got 15"),
        (_tlv(0x30, _item(1, _tlv(0x02, b"\1"))), "violates the specification|lacks the part"),
        (_tlv(0x30, _item(1, _tlv(0x04)), _item(1, _tlv(0x04))), r"1.2.840.113741.1.13.1.1 is duplicated"),
        (_tlv(0x30, _tlv(0x30, _tlv(0x06, b"\x2a\x03"), _tlv(0x04))), r"1.2.3 is duplicated or not permitted"),
    ],
)
def test_an_extension_that_is_not_as_specified(raw: bytes, message: str) -> None:
    with raises(SgxCode.PCK_MALFORMED, match=message) as caught:
        PckExtension.parse(raw)
    assert caught.value.code == "pck.malformed"


def test_trailing_bytes_of_the_extension_are_refused(platform: SimulatedPlatform) -> None:
    raw = pck_extension.encode(platform.chain.extension).value
    assert PckExtension.parse(raw) == platform.chain.extension
    with raises(
        SgxCode.PCK_MALFORMED, match="The PCK certificate is malformed: its SGX extension violates the specification"
    ):
        PckExtension.parse(raw + b"\0")


def test_the_extension_is_found_by_its_identifier(platform: SimulatedPlatform) -> None:
    raw = sgx_extension(platform.chain.leaf)
    assert raw == pck_extension.encode(platform.chain.extension).value
    assert SGX_EXTENSION.dotted_string == "1.2.840.113741.1.13.1"


def test_a_list_without_a_next_update(vendor: Vendor, now: datetime) -> None:
    crl = parse_crl(vendor.root_crl(now=now), of="x")
    assert next_update_of(crl, of="x") > now

    class Timeless:
        next_update_utc = None

    with raises(SgxCode.COLLATERAL_MALFORMED, match="The PCK CRL is malformed: it lacks a next-update time"):
        next_update_of(Timeless(), of="PCK CRL")  # type: ignore[arg-type]  # cryptography cannot make such a list


def test_a_list_with_an_entry_that_does_not_parse(vendor: Vendor, now: datetime) -> None:
    class Odd:
        def get_revoked_certificate_by_serial_number(self, _: int) -> None:
            raise x509.DuplicateExtension("twice", SGX_EXTENSION)

    assert not is_revoked(parse_crl(vendor.root_crl(now=now), of="x"), 1, of="x")
    with raises(SgxCode.COLLATERAL_MALFORMED, match="The PCK CRL is malformed: an entry cannot be parsed"):
        is_revoked(Odd(), 1, of="PCK CRL")  # type: ignore[arg-type]  # cryptography cannot make such a list
