"""A SIGSTRUCT from Gramine's own signer, and the rejection of changed variants."""

import json
from datetime import date
from pathlib import Path

import pytest

from sealserve.errors import VerificationError
from sealserve.sgx.sigstruct import Sigstruct

HERE = Path(__file__).parent
RAW = (HERE / "helloworld.sig").read_bytes()
FACTS = json.loads((HERE / "helloworld.json").read_text())


def test_the_vector_gives_its_facts_and_verifies() -> None:
    sigstruct = Sigstruct.parse(RAW)

    assert len(RAW) == FACTS["sig_len"]
    assert sigstruct.mr_enclave.hex() == FACTS["mrenclave"]
    assert sigstruct.isv_prod_id == FACTS["isv_prod_id"]
    assert sigstruct.isv_svn == FACTS["isv_svn"]
    assert sigstruct.attributes.flags == FACTS["attributes_flags"]
    assert not sigstruct.attributes.debug
    assert sigstruct.signed_on == date.fromisoformat(FACTS["date_hex"]) == date(2025, 6, 20)
    assert sigstruct.mr_signer.hex() == FACTS["mrsigner"]
    assert sigstruct.verify().hex() == FACTS["mrsigner"]
    assert sigstruct.to_bytes() == RAW


MUTATIONS = [
    ("empty", b"", "sigstruct.length", "expected 1808 bytes, got 0"),
    ("truncated", RAW[:-1], "sigstruct.length", "got 1807"),
    ("trailing byte", RAW + b"\0", "sigstruct.length", "got 1809"),
    ("header", b"\x07" + RAW[1:], "sigstruct.header", "expected header 06000000"),
    ("header2", RAW[:24] + b"\0" + RAW[25:], "sigstruct.header", "expected header2 0101"),
    ("vendor", RAW[:16] + b"\x01" + RAW[17:], "sigstruct.header", "expected vendor 0 or 0x8086, got 0x1"),
    ("month 13", RAW[:21] + b"\x13" + RAW[22:], "sigstruct.date", "yyyymmdd, got 20251320"),
    ("day with a letter", RAW[:20] + b"\x0a" + RAW[21:], "sigstruct.date", "got 2025060a"),
    ("reserved 44", RAW[:44] + b"\x01" + RAW[45:], "sigstruct.reserved", "bytes 44 to 127"),
    ("reserved 1039", RAW[:1039] + b"\x01" + RAW[1040:], "sigstruct.reserved", "bytes 1028 to 1039"),
    ("exponent", RAW[:512] + b"\x05" + RAW[513:], "sigstruct.key", "3072 bits and exponent 5"),
    ("short modulus", RAW[:511] + b"\0" + RAW[512:], "sigstruct.key", "3064 bits"),
    ("even modulus", RAW[:128] + bytes([RAW[128] & 0xFE]) + RAW[129:], "sigstruct.", "SIGSTRUCT"),
    (
        "other modulus",
        RAW[:130] + bytes([RAW[130] ^ 1]) + RAW[131:],
        "sigstruct.signature",
        "is not signed by the key with MRSIGNER",
    ),
    (
        "other signature",
        RAW[:516] + bytes([RAW[516] ^ 1]) + RAW[517:],
        "sigstruct.signature",
        "is not signed by the key with MRSIGNER",
    ),
    (
        "huge signature",
        RAW[:516] + b"\xff" * 384 + RAW[900:],
        "sigstruct.signature",
        "is not signed by the key with MRSIGNER",
    ),
    ("DEBUG set", RAW[:928] + b"\x06" + RAW[929:], "sigstruct.signature", "is not signed by the key with MRSIGNER"),
    ("other MRENCLAVE", RAW[:960] + b"\0" + RAW[961:], "sigstruct.signature", "MRENCLAVE 00a923fa"),
    ("higher SVN", RAW[:1026] + b"\x04" + RAW[1027:], "sigstruct.signature", "is not signed by the key with MRSIGNER"),
    (
        "software-defined",
        RAW[:40] + b"\x01" + RAW[41:],
        "sigstruct.signature",
        "is not signed by the key with MRSIGNER",
    ),
    ("q1", RAW[:1040] + bytes([RAW[1040] ^ 1]) + RAW[1041:], "sigstruct.quotient", "q1 does not match"),
    ("q2", RAW[:-1] + bytes([RAW[-1] ^ 1]), "sigstruct.quotient", "q2 does not match"),
]


@pytest.mark.parametrize(("raw", "code", "message"), [case[1:] for case in MUTATIONS], ids=[c[0] for c in MUTATIONS])
def test_a_changed_sigstruct_is_refused(raw: bytes, code: str, message: str) -> None:
    with pytest.raises(VerificationError) as caught:
        Sigstruct.parse(raw).verify()

    assert caught.value.code.startswith(code)
    assert message in str(caught.value)
