"""Signatures by TensorFlow's library: equal to the signatures of the package cryptography, which else signs."""

import logging
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from scripts.attested_example import Example

from sealserve.attested.receipt import sign_receipt
from sealserve.attested.receipt_signer import ReceiptSigner
from sealserve.serving.runtime import ed25519
from sealserve.serving.runtime.ed25519 import find_signer

pytestmark = pytest.mark.tensorflow


def test_the_installed_library_has_the_function(caplog: pytest.LogCaptureFixture) -> None:
    """A version of TensorFlow without the function would be slower. docs/decisions/0153 has the figures."""
    key = Ed25519PrivateKey.generate()
    assert find_signer(key) != key.sign
    assert not caplog.text


@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=2000))
def test_the_signatures_are_equal(seed: bytes, message: bytes) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    assert find_signer(key)(message) == key.sign(message)


def test_zeros_do_not_end_a_message() -> None:
    key = Ed25519PrivateKey.generate()
    sign = find_signer(key)
    for message in (b"", b"\0", b"\0" * 1000, b"a\0b", b"x" * 2**20):
        assert sign(message) == key.sign(message)


def test_many_threads_sign_with_many_keys() -> None:
    keys = [Ed25519PrivateKey.generate() for _ in range(4)]
    signers = [find_signer(key) for key in keys]

    def work(number: int) -> bool:
        message = b"%d" % number
        return signers[number % 4](message) == keys[number % 4].sign(message)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(400)))


def wrong_signature(signature: Any, *_: Any) -> int:
    signature.raw = b"x" * 64
    return 1


@pytest.mark.parametrize("function", [None, wrong_signature])
def test_without_a_usable_function_the_key_itself_signs(
    function: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    others = SimpleNamespace() if function is None else SimpleNamespace(ED25519_sign=function)
    monkeypatch.setattr(ed25519, "library", lambda: SimpleNamespace(others=others))
    key = Ed25519PrivateKey.generate()
    with caplog.at_level(logging.WARNING):
        assert find_signer(key) == key.sign
    assert "has no usable function ED25519_sign: receipts take more time" in caplog.text


def test_receipts_have_the_same_bytes(tmp_path_factory: pytest.TempPathFactory) -> None:
    example = Example(tmp_path_factory.mktemp("vendor"))
    signer = ReceiptSigner(example.keyset, example.identity, find_signer)
    model = example.model
    sign = signer.for_version(model=model.name, model_version=model.version, model_sha256=model.sha256)
    zeros = "0" * 64
    claims = example.receipt_claims(request_sha256=zeros, response_sha256=zeros, sequence=0)
    assert sign(bytes(32), bytes(32)) == sign_receipt(claims, example.identity)


def test_no_key_is_in_a_representation() -> None:
    key = Ed25519PrivateKey.generate()
    sign: Any = find_signer(key)
    shown = "".join(repr(cell.cell_contents) for cell in sign.__closure__) + repr(sign)
    assert repr(key.private_bytes_raw())[2:-1] not in shown
    assert key.private_bytes_raw().hex() not in shown
