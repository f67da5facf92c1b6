"""Receipts: an offline verification by the user, by another JWS library, and 40 wrong receipts."""

import json
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from scripts.attested_example import REQUEST, RESPONSE, Example, digest, ed25519
from tests.harness.document_faults import faults_of
from tests.harness.errors import raises

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.strict_encoding import decode_base64url, encode_base64url
from sealserve.attested.codes import AttestedCode
from sealserve.attested.receipt import MAXIMUM_RECEIPT, MEDIA_TYPE, ReceiptClaims, sign_receipt, verify_receipt
from sealserve.canonical_document import canonical_json
from sealserve.errors import ErrorCode


def receipt_of(example: Example, **changes: Any) -> str:
    return sign_receipt(example.receipt_claims(**changes), example.identity)


def verify(example: Example, receipt: str, **changes: Any) -> ReceiptClaims:
    values: dict[str, Any] = {
        "request": REQUEST,
        "response": RESPONSE,
        "keyset": example.keyset,
        "statement": example.statement(),
    }
    return verify_receipt(receipt, **(values | changes))


def signed(example: Example, payload: bytes, header: bytes | None = None) -> str:
    """Return a receipt with exactly this payload, which the identity key signed."""
    first = receipt_of(example).split(".")[0] if header is None else encode_base64url(header)
    content = f"{first}.{encode_base64url(payload)}"
    return f"{content}.{encode_base64url(example.identity.sign(content.encode()))}"


def test_a_receipt_verifies(example: Example) -> None:
    claims = verify(example, receipt_of(example, sequence=3))
    assert claims == example.receipt_claims(sequence=3)
    assert verify(example, receipt_of(example), statement=None).sequence == 0


def test_another_library_verifies_a_receipt(example: Example) -> None:
    receipt = receipt_of(example)
    assert jwt.get_unverified_header(receipt)["typ"] == MEDIA_TYPE
    payload = jwt.decode(
        receipt, example.identity.public_key(), algorithms=["EdDSA"], options={"verify_exp": False, "verify_aud": False}
    )
    assert payload == json.loads(example.receipt_claims().to_bytes())


def wrong(example: Example) -> Iterator[tuple[str, ErrorCode, str]]:
    receipt = receipt_of(example)
    header, payload, signature = receipt.split(".")
    members = json.loads(decode_base64url(header))
    other = digest("other").hex()
    yield "empty", AttestedCode.RECEIPT_SIZE, ""
    yield "too large", AttestedCode.RECEIPT_SIZE, receipt + "A" * MAXIMUM_RECEIPT
    yield "two parts", AttestedCode.RECEIPT_FORM, f"{header}.{payload}"
    yield "four parts", AttestedCode.RECEIPT_FORM, f"{receipt}."
    yield "padding", AttestedCode.RECEIPT_ENCODING, f"{receipt}="
    yield "a foreign character", AttestedCode.RECEIPT_ENCODING, f"{header}.{payload}+.{signature}"
    yield "a non-canonical end", AttestedCode.RECEIPT_ENCODING, f"{header}.{payload}.{signature[:-1]}_"
    changes: list[dict[str, Any]] = [{"alg": name} for name in ("none", "HS256", "Ed25519", "ES256")]
    changes += [{"typ": "JWT"}, {"kid": "A" * 43}, {"jwk": {}}, {"crit": ["b64"], "b64": False}]
    for change in changes:
        content = canonical_json(members | change)
        yield f"header {change}", AttestedCode.RECEIPT_HEADER, signed(example, b"{}", content)
    spaced = json.dumps(members, sort_keys=True).encode()
    yield "a header with spaces", AttestedCode.RECEIPT_HEADER, signed(example, b"{}", spaced)
    yield "no header", AttestedCode.RECEIPT_HEADER, f".{payload}.{signature}"
    attacker = sign_receipt(example.receipt_claims(), ed25519("attacker"))
    yield "another identity key", AttestedCode.RECEIPT_HEADER, attacker
    forged = f"{header}.{payload}.{attacker.split('.')[2]}"
    yield "another key's signature", AttestedCode.RECEIPT_SIGNATURE, forged
    yield "no signature", AttestedCode.RECEIPT_SIGNATURE, f"{header}.{payload}."
    yield "a signature of zeros", AttestedCode.RECEIPT_SIGNATURE, f"{header}.{payload}.{encode_base64url(bytes(64))}"
    changed = encode_base64url(example.receipt_claims(sequence=1).to_bytes())
    yield "another payload", AttestedCode.RECEIPT_SIGNATURE, f"{header}.{changed}.{signature}"
    yield "another keyset", AttestedCode.RECEIPT_ENCLAVE, receipt_of(example, keyset_sha256=other)
    yield "another release", AttestedCode.RECEIPT_ENCLAVE, receipt_of(example, release_id=other)
    yield "another request", AttestedCode.RECEIPT_REQUEST, receipt_of(example, request_sha256=other)
    yield "another response", AttestedCode.RECEIPT_RESPONSE, receipt_of(example, response_sha256=other)
    yield "another model", AttestedCode.RECEIPT_MODEL, receipt_of(example, model="other")
    yield "another version", AttestedCode.RECEIPT_MODEL, receipt_of(example, model_version="2")
    yield "another model digest", AttestedCode.RECEIPT_MODEL, receipt_of(example, model_sha256=other)
    for fault in faults_of(example.receipt_claims().to_bytes(), limit=ReceiptClaims.limit):
        if len(fault.content) < 2048:  # a larger receipt has another code
            yield fault.name, fault.code, signed(example, fault.content)


def test_each_wrong_receipt_has_its_code(example: Example) -> None:
    found = list(wrong(example))
    assert len(found) >= 60
    for name, code, receipt in found:
        with raises(code):
            verify(example, receipt)
            pytest.fail(f"accepted: {name}")


def test_a_receipt_is_for_the_users_own_request_and_response(example: Example) -> None:
    with raises(AttestedCode.RECEIPT_REQUEST):
        verify(example, receipt_of(example), request=REQUEST + b" ")
    with raises(AttestedCode.RECEIPT_RESPONSE):
        verify(example, receipt_of(example), response=b"")
    with raises(AttestationCode.DOCUMENT_SIZE):
        verify(example, signed(example, bytes(2100)))
