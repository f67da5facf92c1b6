from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.errors import raises
from tests.harness.keys import signing_key

from sealserve.errors import VerificationError
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.report import Attributes, MrEnclave
from sealserve.sgx.sigstruct import Sigstruct, mr_signer

KEY = signing_key()
SIGNED = Sigstruct.sign(
    mr_enclave=MrEnclave(bytes(range(32))), key=KEY, signed_on=date(2026, 11, 23), isv_prod_id=7, isv_svn=3
)


def test_what_is_signed_verifies_and_survives_the_bytes() -> None:
    assert SIGNED.verify() == mr_signer(KEY.public_key()) == SIGNED.mr_signer
    assert Sigstruct.parse(SIGNED.to_bytes()) == SIGNED
    assert SIGNED.signed_on == date(2026, 11, 23)
    assert not SIGNED.attributes.debug


def test_debug_changes_the_signature_but_not_the_measurement() -> None:
    debug = Sigstruct.sign(
        mr_enclave=SIGNED.mr_enclave,
        key=KEY,
        signed_on=SIGNED.signed_on,
        isv_prod_id=7,
        isv_svn=3,
        attributes=Attributes(flags=6, xfrm=3),
    )

    debug.verify()
    assert debug.attributes.debug
    assert debug.mr_enclave == SIGNED.mr_enclave
    assert debug.signature != SIGNED.signature


@given(name=st.sampled_from(["isv_prod_id", "isv_svn", "misc_select", "sw_defined"]), value=st.integers(100, 65535))
def test_no_field_can_be_changed_after_signing(name: str, value: int) -> None:
    fields: dict[str, Any] = {name: value}
    changed = replace(SIGNED, **fields)

    assert Sigstruct.parse(changed.to_bytes()) == changed
    with raises(
        SgxCode.SIGSTRUCT_SIGNATURE,
        match=r"The SIGSTRUCT's signature is invalid: MRENCLAVE [0-9a-f]{64} is not signed by the key "
        r"with MRSIGNER [0-9a-f]{64}",
    ):
        changed.verify()


@given(st.integers(0, 1807), st.integers(0, 7))
def test_every_bit_counts(offset: int, bit: int) -> None:
    raw = bytearray(SIGNED.to_bytes())
    raw[offset] ^= 1 << bit

    with pytest.raises(VerificationError) as caught:
        Sigstruct.parse(bytes(raw)).verify()

    assert caught.value.code.startswith("sigstruct.")
    assert "SIGSTRUCT" in str(caught.value)


@pytest.mark.parametrize(("bits", "exponent"), [(2048, 3), (3072, 65537)])
def test_a_key_that_the_processor_refuses_is_refused(bits: int, exponent: int) -> None:
    key = (
        signing_key(exponent=exponent)
        if bits == 3072
        else rsa.generate_private_key(public_exponent=exponent, key_size=bits)
    )

    with raises(SgxCode.SIGNING_KEY_INVALID, match=f"got {bits} bits and exponent {exponent}"):
        Sigstruct.sign(mr_enclave=SIGNED.mr_enclave, key=key, signed_on=date(2026, 1, 1), isv_prod_id=0, isv_svn=0)


def test_einit_sets_init_and_leaves_the_open_bits_to_the_platform() -> None:
    launched = SIGNED.launch_attributes(0xE7)

    assert launched == Attributes(flags=5, xfrm=0xE7)
    assert SIGNED.launch_attributes(0x3) == Attributes(flags=5, xfrm=0x3)
    assert SIGNED.launch_attributes(0xFF).xfrm == 0xE7, "MPX is masked: the platform cannot add it"
