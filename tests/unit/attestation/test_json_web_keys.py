import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.attestation_results import KEY, KEYS
from tests.harness.errors import raises

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.json_web_keys import JsonWebKey, JsonWebKeySet
from sealserve.errors import InputError

MEMBERS = dict(KEYS.keys[0].to_members())


def key_set(**changes: Any) -> bytes:
    members = {name: value for name, value in (MEMBERS | changes).items() if value is not None}
    return json.dumps({"keys": [members]}).encode()


def test_a_set_is_read_as_it_was_written() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    written = JsonWebKeySet([JsonWebKey(KEY.public_key()), JsonWebKey(other.public_key()), *KEYS.keys])
    read = JsonWebKeySet.parse(written.to_bytes())
    assert [key.key_id for key in read.keys] == [key.key_id for key in written.keys]
    assert len(read.keys) == 2
    assert read.find(MEMBERS["kid"]) is not None
    assert b'"d"' not in written.to_bytes()


def test_a_key_with_leading_zeros_keeps_them() -> None:
    for secret in range(1, 600):
        public = ec.derive_private_key(secret, ec.SECP256R1()).public_key()
        if public.public_numbers().x >> 248 == 0:
            key = JsonWebKey(public)
            assert len(key.to_members()["x"]) == 43
            assert JsonWebKeySet.parse(JsonWebKeySet([key]).to_bytes()).keys[0].key_id == key.key_id
            return
    raise AssertionError("no such key in the range")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "expected a JSON object"),
        (b"[]", "expected a JSON object"),
        (b'{"keys":[],"keys":[]}', "expected a JSON object"),
        (b'{"keys":[]}', "a list of 1 to 32 keys"),
        (b'{"keys":{}}', "a list of 1 to 32 keys"),
        (b'{"keys":[1]}', "expected objects"),
        (b'{"keys":[],"x":1}', "only the member keys"),
        (json.dumps({"keys": [MEMBERS, MEMBERS]}).encode(), "contains a key twice"),
        (json.dumps({"keys": [MEMBERS] * 33}).encode(), "a list of 1 to 32 keys"),
        (b" " * 70_000, "at most 65536 bytes"),
    ],
)
def test_a_malformed_set_is_rejected(content: bytes, match: str) -> None:
    with raises(AttestationCode.JWKS_FORM, match=match):
        JsonWebKeySet.parse(content)


@pytest.mark.parametrize(
    "changes",
    [
        {"kty": "RSA"},
        {"kty": "oct"},
        {"crv": "P-384"},
        {"alg": "HS256"},
        {"alg": "none"},
        {"alg": None},
        {"use": "enc"},
        {"use": None},
        {"kid": None},
        {"kid": "A" * 43},
        {"kid": 1},
        {"x": MEMBERS["y"]},
        {"x": MEMBERS["x"] + "="},
        {"x": MEMBERS["x"][:-4]},
        {"x": "A" * 43, "y": "A" * 43},
        {"x5u": "https://attacker.example"},
        {"x5c": ["AAAA"]},
        {"key_ops": ["verify"]},
    ],
)
def test_a_key_of_another_kind_is_rejected(changes: dict[str, Any]) -> None:
    with raises(AttestationCode.JWKS_KEY, match="A key of the JWK set is invalid"):
        JsonWebKeySet.parse(key_set(**changes))


@pytest.mark.parametrize("changes", [{"d": "AAAA"}, {"k": "AAAA", "kty": "oct"}])
def test_a_private_key_is_rejected(changes: dict[str, Any]) -> None:
    with raises(AttestationCode.JWKS_PRIVATE, match="contains a private key"):
        JsonWebKeySet.parse(key_set(**changes))


@given(st.binary(max_size=300))
def test_any_bytes_are_rejected_with_a_code(content: bytes) -> None:
    with pytest.raises(InputError):
        JsonWebKeySet.parse(content)
