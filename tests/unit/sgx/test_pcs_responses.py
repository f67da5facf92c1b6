import json
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealserve.errors import VerificationError
from sealserve.sgx.pck import PckCa
from sealserve.sgx.pcs_responses import read_pck_crl, read_qe_identity, read_root_crl, read_tcb_info
from sealserve.sgx.simulated.vendor import Vendor

CHAIN = "-----BEGIN CERTIFICATE-----\nAA+/\n-----END CERTIFICATE-----\n"
HEADERS = {"TCB-Info-Issuer-Chain": quote(CHAIN, safe="")}
TCB_INFO = {
    "id": "SGX",
    "version": 3,
    "issueDate": "2026-01-01T00:00:00Z",
    "nextUpdate": "2026-01-31T00:00:00Z",
    "fmspc": "5EA15E000000",
    "pceId": "0000",
    "tcbType": 0,
    "tcbEvaluationDataNumber": 17,
}


def _body(text: str) -> bytes:
    return b'{"tcbInfo":' + text.encode() + b',"signature":"00ff"}'


@given(
    indent=st.sampled_from([None, 1, 4]),
    before=st.sampled_from(["", " ", "\n\t"]),
    extra=st.dictionaries(st.text(max_size=5), st.text(max_size=9) | st.integers() | st.none(), max_size=3),
    first=st.booleans(),
)
def test_the_text_is_kept_as_it_came(indent: int | None, before: str, extra: dict[str, object], *, first: bool) -> None:
    text = json.dumps(TCB_INFO | {f"x{name}": value for name, value in extra.items()}, indent=indent)
    member = f'{before}"tcbInfo"{before}:{before}{text}{before}'
    signature = f'{before}"signature":{before}"00ff"'
    body = "{" + (f"{member},{signature}" if first else f"{signature},{member}") + "}" + before
    read = read_tcb_info(body.encode(), HEADERS)
    assert read.text == text
    assert read.signature == b"\x00\xff"
    assert read.chain == CHAIN
    assert read.next_update == datetime(2026, 1, 31, tzinfo=UTC)


def test_the_header_of_version_3_does_too() -> None:
    read = read_tcb_info(_body(json.dumps(TCB_INFO)), {"SGX-TCB-Info-Issuer-Chain": CHAIN})
    assert read.chain == CHAIN


@pytest.mark.parametrize(
    ("body", "headers", "code", "message"),
    [
        (b"\xff", HEADERS, "collateral.malformed", "The reply with tcbInfo is malformed: it is not UTF-8"),
        (b"<html>", HEADERS, "collateral.malformed", "tcbInfo is malformed: it is not JSON"),
        (b"{}", HEADERS, "collateral.malformed", "it lacks the object tcbInfo"),
        (b'{"tcbInfo":1,"signature":""}', HEADERS, "collateral.malformed", "it lacks the object tcbInfo"),
        (b'{"tcbInfo":{}}', HEADERS, "collateral.malformed", "it lacks a hexadecimal signature"),
        (b'{"tcbInfo":{},"signature":"zz"}', HEADERS, "collateral.malformed", "it lacks a hexadecimal signature"),
        (b'{"tcbInfo":{},"signature":1}', HEADERS, "collateral.malformed", "it lacks a hexadecimal signature"),
        (b'{"tcbInfo":{},"tcbInfo":{},"signature":""}', HEADERS, "collateral.duplicate-key", "'tcbInfo' occurs twice"),
        (_body("{}"), HEADERS, "collateral.malformed", "TCB info is malformed: issueDate: Field required"),
        (_body(json.dumps(TCB_INFO)), {}, "collateral.malformed", "lacks the header TCB-Info-Issuer-Chain"),
        (
            _body(json.dumps(TCB_INFO)),
            {"TCB-Info-Issuer-Chain": "%ff"},
            "collateral.malformed",
            "TCB-Info-Issuer-Chain is not percent-encoded text",
        ),
    ],
)
def test_what_is_no_tcb_info_is_refused(body: bytes, headers: dict[str, str], code: str, message: str) -> None:
    with pytest.raises(VerificationError, match=message) as caught:
        read_tcb_info(body, headers)
    assert caught.value.code == code


def test_what_is_no_qe_identity_is_refused() -> None:
    with pytest.raises(VerificationError, match="The reply is incomplete: it lacks the object enclaveIdentity"):
        read_qe_identity(_body(json.dumps(TCB_INFO)), {})


def test_lists_come_as_der_or_in_hexadecimal(vendor: Vendor, now: datetime) -> None:
    crl = vendor.pck_crl(PckCa.PLATFORM, now=now)
    headers = {"SGX-PCK-CRL-Issuer-Chain": quote(CHAIN)}
    assert read_pck_crl(crl, headers) == read_pck_crl(crl.hex().encode(), headers)
    assert read_root_crl(crl, {}).crl == crl


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff"])
def test_what_is_no_list_is_refused(body: bytes) -> None:
    with pytest.raises(
        VerificationError,
        match=r"The Root CRL is malformed: it is (neither DER nor hexadecimal|not a certificate revocation list)",
    ) as caught:
        read_root_crl(body, {})
    assert caught.value.code == "collateral.malformed"
