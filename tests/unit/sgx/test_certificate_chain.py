import base64
from collections.abc import Callable
from datetime import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from tests.harness.errors import raises

from sealserve.sgx.certificate_chain import check_links, common_name, parse_chain
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.simulated.authority import chain_pem, new_key
from sealserve.sgx.simulated.vendor import Vendor

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


@pytest.fixture
def pem(vendor: Vendor) -> bytes:
    return vendor.signing_chain().encode()


def test_a_chain_is_read_in_its_order(vendor: Vendor, pem: bytes) -> None:
    assert parse_chain(pem, of="x") == (vendor.tcb_signing.certificate, vendor.root.certificate)
    assert parse_chain(pem.replace(b"\n", b"\r\n"), of="x") == parse_chain(pem, of="x")


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda pem: b"text\n" + pem,
        lambda pem: pem + b"text",
        lambda pem: pem + b"\0",
        lambda pem: pem.replace(b"\n", b"\nComment: x\n", 1),
        lambda pem: pem.replace(b"CERTIFICATE", b"X509 CRL"),
        lambda pem: pem.replace(b"-----BEGIN", b"----BEGIN", 1),
        lambda pem: pem * 3,
        lambda _: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ],
    ids=["empty", "before", "after", "NUL", "header", "label", "dashes", "six", "garbage"],
)
def test_anything_else_is_refused(pem: bytes, change: Callable[[bytes], bytes]) -> None:
    with raises(SgxCode.CERTIFICATE_CHAIN_MALFORMED, match="The some chain is malformed: ") as caught:
        parse_chain(change(pem), of="some chain")
    assert caught.value.code == "certificate-chain.malformed"


def test_base64_that_says_the_same_in_another_way_is_refused(vendor: Vendor, now: datetime) -> None:
    text = ""
    while not text.endswith("="):  # the bits beside the padding are arbitrary
        certificate = vendor.root.create_signer("x", now=now).certificate
        text = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
    at = len(text.rstrip("=")) - 1
    other = text[:at] + ALPHABET[ALPHABET.index(text[at]) + 1] + text[at + 1 :]
    assert base64.b64decode(other) == base64.b64decode(text)
    lines = "\n".join(other[start : start + 64] for start in range(0, len(other), 64))
    with raises(
        SgxCode.CERTIFICATE_CHAIN_MALFORMED, match="The x is malformed: one of its certificates cannot be parsed"
    ):
        parse_chain(f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n".encode(), of="x")


def test_links_are_signatures_and_names(vendor: Vendor) -> None:
    check_links((vendor.tcb_signing.certificate, vendor.root.certificate), of="x")
    chain = parse_chain(chain_pem(vendor.tcb_signing.certificate, vendor.platform_ca.certificate).encode(), of="x")
    with raises(
        SgxCode.CERTIFICATE_CHAIN_BROKEN,
        match=r"The x is broken: 'SGX TCB Signing \(simulated\)' was not issued by the next "
        r"certificate, 'SGX PCK Platform CA \(simulated\)'",
    ) as caught:
        check_links(chain, of="x")
    assert caught.value.code == "certificate-chain.broken"


@pytest.mark.parametrize("names", [[], ["SGX TCB Signing (simulated)", "SGX TCB Signing (simulated)"]])
def test_only_one_name_is_a_name(names: list[str], now: datetime) -> None:
    key = new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each) for each in names])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now)
        .sign(key, hashes.SHA256())
    )
    assert common_name(certificate) == ""
