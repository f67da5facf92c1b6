"""The enclave's signer of receipts writes exactly what the general encoder writes, and nothing that a user rejects."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripts.attested_example import Example

from sealserve.attested.receipt import sign_receipt
from sealserve.attested.receipt_signer import ReceiptSigner
from sealserve.names import NAME_PATTERN

DIGEST = st.binary(min_size=32, max_size=32)
NAME = st.from_regex(NAME_PATTERN, fullmatch=True)
ZEROS = "0" * 64


def version(example: Example, **changes: str) -> dict[str, str]:
    return {
        "model": example.model.name,
        "model_version": example.model.version,
        "model_sha256": example.model.sha256,
    } | changes


@given(
    model=NAME | st.just("0" * 63),
    model_version=st.integers(0, 2**63 - 1).map(str),
    model_sha256=DIGEST.map(bytes.hex) | st.just(ZEROS),
    request=DIGEST | st.just(bytes(32)),
    response=DIGEST | st.just(bytes(32)),
    sequence=st.integers(0, 2**53 - 1),
)
def test_a_receipt_has_the_bytes_of_the_documents_canonical_form(
    example: Example,
    *,
    model: str,
    model_version: str,
    model_sha256: str,
    request: bytes,
    response: bytes,
    sequence: int,
) -> None:
    claims = example.receipt_claims(
        model=model,
        model_version=model_version,
        model_sha256=model_sha256,
        request_sha256=request.hex(),
        response_sha256=response.hex(),
        sequence=sequence,
    )
    signer = ReceiptSigner(example.keyset, example.identity)
    signer._sequence = itertools.count(sequence)
    sign = signer.for_version(model=model, model_version=model_version, model_sha256=model_sha256)
    assert sign(request, response) == sign_receipt(claims, example.identity)


def test_each_receipt_has_the_next_number_whatever_version_it_is_for(example: Example) -> None:
    signer = ReceiptSigner(example.keyset, example.identity)
    signers = [signer.for_version(**version(example, model_version=number)) for number in "12"]
    for sequence in range(6):
        number = sequence % 2
        claims = example.receipt_claims(
            model_version="12"[number], request_sha256=ZEROS, response_sha256=ZEROS, sequence=sequence
        )
        assert signers[number](bytes(32), bytes(32)) == sign_receipt(claims, example.identity)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": ""},
        {"model": 'a"b'},
        {"model": "\u00e9"},
        {"model_version": "01"},
        {"model_version": "-1"},
        {"model_sha256": "AB" * 32},
        {"model_sha256": f"{ZEROS}\n"},
    ],
)
def test_a_version_that_a_verifier_would_reject_has_no_signer(example: Example, changes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        ReceiptSigner(example.keyset, example.identity).for_version(**version(example, **changes))


@pytest.mark.parametrize("sizes", [(0, 32), (31, 32), (33, 32), (32, 0), (32, 31), (32, 64), (31, 33)])
def test_a_digest_of_another_size_is_not_signed(example: Example, sizes: tuple[int, int]) -> None:
    signer = ReceiptSigner(example.keyset, example.identity)
    sign = signer.for_version(**version(example))
    with pytest.raises(ValueError, match="expected two digests of 32 bytes"):
        sign(bytes(sizes[0]), bytes(sizes[1]))
    claims = example.receipt_claims(request_sha256=ZEROS, response_sha256=ZEROS, sequence=0)
    assert sign(bytes(32), bytes(32)) == sign_receipt(claims, example.identity)  # the error used no number
