import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.errors import raises

from sealserve.sgx.codes import SgxCode
from sealserve.sgx.report import Attributes, EnclaveReport, MrEnclave, MrSigner


def _report(**changes: object) -> EnclaveReport:
    fields: dict[str, object] = {
        "attributes": Attributes(flags=0x5, xfrm=0xE7),
        "mr_enclave": MrEnclave(bytes([1]) * 32),
        "mr_signer": MrSigner(bytes([2]) * 32),
        "isv_prod_id": 0x0102,
        "isv_svn": 3,
        "report_data": bytes(range(64)),
    }
    return EnclaveReport(**(fields | changes))  # type: ignore[arg-type]  # the fields' types are mixed here


def test_fields_stand_where_the_manual_puts_them() -> None:
    raw = _report().to_bytes()
    assert len(raw) == 384
    assert raw[48:56] == bytes([5, 0, 0, 0, 0, 0, 0, 0])
    assert raw[64:96] == bytes([1]) * 32
    assert raw[128:160] == bytes([2]) * 32
    assert raw[256:260] == bytes([2, 1, 3, 0])
    assert raw[320:] == bytes(range(64))


@given(
    flags=st.integers(0, 2**64 - 1),
    xfrm=st.integers(0, 2**64 - 1),
    mr_enclave=st.binary(min_size=32, max_size=32),
    isv_prod_id=st.integers(0, 2**16 - 1),
    config_id=st.binary(min_size=64, max_size=64),
)
def test_what_is_written_is_read_back(
    flags: int, xfrm: int, mr_enclave: bytes, isv_prod_id: int, config_id: bytes
) -> None:
    report = _report(
        attributes=Attributes(flags=flags, xfrm=xfrm),
        mr_enclave=MrEnclave(mr_enclave),
        isv_prod_id=isv_prod_id,
        misc_select=isv_prod_id << 16,
        config_id=config_id,
    )
    assert EnclaveReport.parse(report.to_bytes()) == report


def test_debug_is_bit_one_of_the_flags() -> None:
    assert Attributes(flags=0x7, xfrm=3).debug
    assert not Attributes(flags=0x5, xfrm=3).debug


@pytest.mark.parametrize("length", [0, 383, 385])
def test_another_length_is_refused(length: int) -> None:
    with raises(SgxCode.REPORT_LENGTH, match=f"expected 384 bytes, got {length}") as caught:
        EnclaveReport.parse(bytes(length))
    assert caught.value.code == "report.length"


def test_attributes_of_another_length_are_refused() -> None:
    with raises(SgxCode.REPORT_LENGTH, match="expected 16 bytes, got 15"):
        Attributes.parse(bytes(15))


@pytest.mark.parametrize("offset", [20, 31, 96, 127, 160, 191, 262, 303])
def test_a_reserved_byte_that_is_not_zero_is_refused(offset: int) -> None:
    raw = bytearray(_report().to_bytes())
    raw[offset] = 1
    with raises(SgxCode.REPORT_RESERVED, match="reserved bytes") as caught:
        EnclaveReport.parse(bytes(raw))
    assert caught.value.code == "report.reserved"


@pytest.mark.parametrize(
    "changes", [{"mr_enclave": b"short"}, {"isv_svn": -1}, {"isv_svn": 65536}, {"report_data": bytes(65)}]
)
def test_a_field_out_of_its_bounds_is_a_programming_error(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        _report(**changes)


def test_attributes_out_of_bounds_are_a_programming_error() -> None:
    with pytest.raises(ValueError, match="flags"):
        Attributes(flags=1 << 64, xfrm=0)
