import base64
import contextlib
import copy
import hashlib
import hmac
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.attestation_results import (
    AUDIENCE,
    ISSUER,
    KEY,
    KEYS,
    NONCE,
    NOW,
    claims_token,
    header,
    make_result,
    raw_token,
    verify,
)
from tests.harness.errors import raises

from sealserve.attestation.claims import TcbStatus
from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.json_web_keys import JsonWebKey, JsonWebKeySet
from sealserve.attestation.result_token import sign_result
from sealserve.attestation.strict_encoding import encode_base64url
from sealserve.attestation.trustworthiness import Tier
from sealserve.errors import VerificationError

TOKEN = sign_result(make_result(), KEY)
HEADER, PAYLOAD, SIGNATURE = TOKEN.split(".")
CLAIMS = make_result().to_claims()
OTHER = ec.derive_private_key(0xFEDCBA, ec.SECP256R1())
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def changed(*path: str, to: Any = None, remove: bool = False) -> str:
    """Return a token of the genuine key in which one claim is changed or removed."""
    claims = copy.deepcopy(CLAIMS)
    place = claims
    for name in path[:-1]:
        place = place[name]
    if remove:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return claims_token(claims)


def with_header(**changes: Any) -> str:
    return raw_token(header(**changes), json.dumps(CLAIMS).encode())


def forged_with(algorithm: str, signature: Callable[[bytes], bytes]) -> str:
    signed = f"{encode_base64url(header(alg=algorithm))}.{PAYLOAD}"
    return f"{signed}.{encode_base64url(signature(signed.encode()))}"


def public_pem() -> bytes:
    return KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def last_bits_changed(part: str) -> str:
    """Return another spelling of the same bytes: base64 decoders usually ignore the last bits."""
    return part[:-1] + ALPHABET[ALPHABET.index(part[-1]) + 1]


CODES = {code.value: code for code in AttestationCode}
ENCLAVE = ("submods", "enclave")
ATTESTER = (*ENCLAVE, "ear_attester_claims")
VERIFIER = (*ENCLAVE, "ear_verifier_claims")
NUL_SIGNATURE = encode_base64url(bytes(64))
JWK = dict(JsonWebKey(OTHER.public_key()).to_members())

HOSTILE: dict[str, tuple[str, str]] = {
    # the size and the form
    "empty": ("", "token.size"),
    "too large": (TOKEN + "A" * 16384, "token.size"),
    "one part": (HEADER, "token.form"),
    "no signature part": (f"{HEADER}.{PAYLOAD}", "token.form"),
    "four parts": (f"{TOKEN}.AAAA", "token.form"),
    "five parts, as in JWE": (f"{TOKEN}.AAAA.AAAA", "token.form"),
    "JSON serialization": (json.dumps({"payload": PAYLOAD, "signatures": []}), "token.form"),
    "padding": (f"{HEADER}.{PAYLOAD}.{SIGNATURE}==", "token.encoding"),
    "standard base64": (f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-1]}+", "token.encoding"),
    "new line at the end": (TOKEN + "\n", "token.encoding"),
    "space inside": (f"{HEADER} .{PAYLOAD}.{SIGNATURE}", "token.encoding"),
    "letter outside of ASCII": (f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-1]}é", "token.encoding"),
    "fullwidth digit": (f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-1]}\uff11", "token.encoding"),
    "impossible length": (f"{HEADER}.{PAYLOAD}.{SIGNATURE}A" if len(SIGNATURE) % 4 == 0 else f"{HEADER}.{PAYLOAD}.A",
                          "token.encoding"),
    "second spelling of the signature": (f"{HEADER}.{PAYLOAD}.{last_bits_changed(SIGNATURE)}", "token.encoding"),
    "empty header": (f".{PAYLOAD}.{SIGNATURE}", "token.json"),
    # the header
    "header is a list": (raw_token(b"[]", b"{}"), "token.json"),
    "header is not UTF-8": (raw_token(b'{"alg":"\xff"}', b"{}"), "token.json"),
    "header with a byte order mark": (raw_token(b"\xef\xbb\xbf" + header(), b"{}"), "token.json"),
    "header with NaN": (raw_token(b'{"alg":NaN}', b"{}"), "token.json"),
    "header with a name twice": (raw_token(header()[:-1] + b',"alg":"none"}', b"{}"), "token.json"),
    "header nested deeply": (raw_token(b'{"a":' * 2000 + b"1" + b"}" * 2000, b"{}"), "token.json"),
    "header with bytes after it": (raw_token(header() + b"{}", b"{}"), "token.json"),
    "crit": (with_header(crit=["exp"]), "token.critical"),
    "empty crit": (with_header(crit=[]), "token.critical"),
    "unencoded payload (RFC 7797)": (with_header(b64=False, crit=["b64"]), "token.critical"),
    "own key": (raw_token(header(jwk=JWK, kid=JWK["kid"]), json.dumps(CLAIMS).encode(), OTHER), "token.header"),
    "address of a key set": (with_header(jku="https://attacker.example/jwks.json"), "token.header"),
    "address of a certificate": (with_header(x5u="https://attacker.example/cert.pem"), "token.header"),
    "own certificate": (with_header(x5c=["AAAA"]), "token.header"),
    "compression": (with_header(zip="DEF"), "token.header"),
    "no kid": (with_header(kid=None), "token.header"),
    "no typ": (with_header(typ=None), "token.header"),
    "no alg": (with_header(alg=None), "token.header"),
    "another type": (with_header(typ="JWT"), "token.type"),
    "type in upper case": (with_header(typ="EAT+JWT"), "token.type"),
    "unknown key": (with_header(kid="A" * 43), "token.key-unknown"),
    "kid is a path": (with_header(kid="../../dev/null"), "token.key-unknown"),
    "kid is a list": (with_header(kid=[KEYS.keys[0].key_id]), "token.key-unknown"),
    "kid is a lone surrogate": (with_header(kid="\ud800"), "token.key-unknown"),
    "alg none without a signature": (f"{encode_base64url(header(alg='none'))}.{PAYLOAD}.", "token.algorithm"),
    "alg None with a signature": (with_header(alg="None"), "token.algorithm"),
    "MAC with the public key": (
        forged_with("HS256", lambda signed: hmac.digest(public_pem(), signed, "sha256")), "token.algorithm"),
    "MAC with the key set": (
        forged_with("HS256", lambda signed: hmac.digest(KEYS.to_bytes(), signed, "sha256")), "token.algorithm"),
    "RSA algorithm": (with_header(alg="RS256"), "token.algorithm"),
    "EdDSA": (with_header(alg="EdDSA"), "token.algorithm"),
    "alg is a list": (with_header(alg=["ES256"]), "token.algorithm"),
    # the signature
    "no signature": (f"{HEADER}.{PAYLOAD}.", "token.signature"),
    "signature of zeros (CVE-2022-21449)": (f"{HEADER}.{PAYLOAD}.{NUL_SIGNATURE}", "token.signature"),
    "signature of ones": (f"{HEADER}.{PAYLOAD}.{encode_base64url(bytes([255]) * 64)}", "token.signature"),
    "signature of another key": (raw_token(header(), json.dumps(CLAIMS).encode(), OTHER), "token.signature"),
    "signature in DER": (f"{HEADER}.{PAYLOAD}.{encode_base64url(bytes.fromhex('3006020101020101'))}",
                         "token.signature"),
    "signature with a byte more": (f"{HEADER}.{PAYLOAD}.{encode_base64url(bytes(65))}", "token.signature"),
    "signature of another token": (f"{HEADER}.{claims_token({}).split('.')[1]}.{SIGNATURE}", "token.signature"),
    # the payload
    "payload is a string": (raw_token(header(), b'"x"'), "token.json"),
    "payload with a claim twice": (
        raw_token(header(), json.dumps(CLAIMS).encode()[:-1] + b',"aud":"other"}'), "token.json"),
    "payload with a nested claim twice": (
        raw_token(header(), json.dumps(CLAIMS).encode().replace(b'"simulated": ', b'"simulated": true, "simulated": ')),
        "token.json"),
    "payload with Infinity": (raw_token(header(), b'{"exp":Infinity}'), "token.json"),
    "payload with a number of 5000 digits": (raw_token(header(), b'{"exp":1' + b"0" * 5000 + b"}"), "token.json"),
    "no claims": (claims_token({}), "token.profile"),
    "profile of an earlier draft": (changed("eat_profile", to="tag:github.com,2023:veraison/ear"), "token.profile"),
    "profile in a list": (changed("eat_profile", to=[CLAIMS["eat_profile"]]), "token.profile"),
    "another profile of the enclave": (changed(*ENCLAVE, "eat_profile", to="urn:uuid:0"), "token.profile"),
    "no submodules": (changed("submods", to={}), "token.profile"),
    "two submodules": (changed("submods", "other", to=CLAIMS["submods"]["enclave"]), "token.claims"),
    "no expiry": (changed("exp", remove=True), "token.claims"),
    "no time of issue": (changed("iat", remove=True), "token.claims"),
    "expiry is a fraction": (changed("exp", to=float(CLAIMS["exp"])), "token.claims"),
    "expiry is text": (changed("exp", to=str(CLAIMS["exp"])), "token.claims"),
    "expiry is true": (changed("exp", to=True), "token.claims"),
    "expiry beyond the year 9999": (changed("exp", to=10**15), "token.claims"),
    "negative time of issue": (changed("iat", to=-1), "token.claims"),
    "not-before is null-like text": (changed("nbf", to="0"), "token.claims"),
    "several audiences": (changed("aud", to=[AUDIENCE, "other"]), "token.claims"),
    "no audience": (changed("aud", remove=True), "token.claims"),
    "no issuer": (changed("iss", remove=True), "token.claims"),
    "short nonce": (changed("eat_nonce", to="AAAA"), "token.claims"),
    "nonce with padding": (changed("eat_nonce", to="AAAAAAAAAAA="), "token.claims"),
    "several nonces": (changed("eat_nonce", to=[CLAIMS["eat_nonce"]]), "token.claims"),
    "no simulated flag": (changed(*ATTESTER, "simulated", remove=True), "token.claims"),
    "simulated flag is 0": (changed(*ATTESTER, "simulated", to=0), "token.claims"),
    "short measurement": (changed(*ATTESTER, "measurement", to="01" * 31), "token.claims"),
    "measurement in upper case": (changed(*ATTESTER, "measurement", to="AB" * 32), "token.claims"),
    "measurement with a new line": (changed(*ATTESTER, "measurement", to="01" * 32 + "\n"), "token.claims"),
    "unknown TCB status": (changed(*VERIFIER, "tcb_status", to="Fine"), "token.claims"),
    "unknown freshness": (changed(*VERIFIER, "freshness", to="nonce"), "token.claims"),
    "no release": (changed(*VERIFIER, "release_id", remove=True), "token.claims"),
    "two policies": (changed(*ENCLAVE, "ear_appraisal_policy_ids", to=CLAIMS["submods"]["enclave"]
                             ["ear_appraisal_policy_ids"] * 2), "token.claims"),
    "policy digest with bits that no byte contains": (
        changed(*ENCLAVE, "ear_appraisal_policy_ids", to=["ni:///sha-256;" + "A" * 42 + "B"]), "token.claims"),
    "policy digest of 31 bytes": (
        changed(*ENCLAVE, "ear_appraisal_policy_ids", to=["ni:///sha-256;" + "A" * 42]), "token.claims"),
    "policy by another hash": (
        changed(*ENCLAVE, "ear_appraisal_policy_ids", to=["ni:///sha-512;" + "A" * 43]), "token.claims"),
    "empty vector": (changed(*ENCLAVE, "ear_trustworthiness_vector", to={}), "token.claims"),
    "vector out of range": (changed(*ENCLAVE, "ear_trustworthiness_vector", to={"hardware": 258}), "token.claims"),
    "unknown status": (changed("ear_status", to="good"), "token.claims"),
    # the judgment
    "two statuses": (changed(*ENCLAVE, "ear_status", to="warning"), "token.status"),
    "status better than the vector": (
        changed(*ENCLAVE, "ear_trustworthiness_vector", to={"hardware": 32}), "token.status"),
    "status better than a private value": (
        changed(*ENCLAVE, "ear_trustworthiness_vector", to={"hardware": -33}), "token.status"),
    "simulated with a good status": (changed(*ATTESTER, "simulated", to=True), "token.status"),
    "contraindicated": (sign_result(make_result(tcb_status=TcbStatus.REVOKED), KEY), "token.status"),
    "no statement": (sign_result(make_result(status=Tier.NONE, vector={"hardware": 0}), KEY), "token.status"),
    "debug": (changed(*ATTESTER, "dbgstat", to="enabled"), "token.debug"),
    "debug was possible": (changed(*ATTESTER, "dbgstat", to="disabled"), "token.debug"),
    "simulated": (sign_result(make_result(simulated=True), KEY), "token.simulated"),
    "another audience": (changed("aud", to="other"), "token.audience"),
    "another issuer": (changed("iss", to="other"), "token.issuer"),
    "another nonce": (changed("eat_nonce", to=encode_base64url(bytes(32))), "token.nonce"),
    "nonce with zeros after it": (changed("eat_nonce", to=encode_base64url(NONCE + b"\0")), "token.nonce"),
    "no nonce": (changed("eat_nonce", remove=True), "token.nonce"),
    "expired": (changed("exp", to=CLAIMS["iat"] + 60), "token.expired"),
    "issued in the future": (changed("iat", to=CLAIMS["iat"] + 361), "token.not-yet-valid"),
    "not valid yet": (changed("nbf", to=CLAIMS["iat"] + 361), "token.not-yet-valid"),
    "valid for too long": (changed("exp", to=CLAIMS["iat"] + 7 * 86400 + 1), "token.lifetime"),
    "expires before its issue": (changed("iat", to=CLAIMS["exp"] + 1), "token.not-yet-valid"),
}  # fmt: skip


def test_a_token_returns_the_result_that_was_signed() -> None:
    assert verify(TOKEN) == make_result()
    assert verify(TOKEN, nonce=None) == make_result()
    full = make_result(keyset_digest=b"\x09" * 32, tcb_status=TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED)
    assert verify(sign_result(full, KEY)) == full
    assert full.status is Tier.WARNING


def test_signatures_are_deterministic() -> None:
    assert sign_result(make_result(), KEY) == TOKEN


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_token_is_rejected_with_its_code(name: str) -> None:
    token, code = HOSTILE[name]
    with raises(CODES[code]):
        verify(token)


def test_each_reason_has_a_hostile_token() -> None:
    beside = {
        AttestationCode.TOKEN_REQUEST,
        AttestationCode.TOKEN_RESPONSE,
        AttestationCode.TOKEN_TRUNCATED,
    }  # tests/unit/attestation/test_result_request.py
    assert len(HOSTILE) >= 100
    assert {code for _, code in HOSTILE.values()} == {
        code for code in AttestationCode if code.startswith("token.")
    } - beside


def test_messages_state_what_was_expected() -> None:
    with raises(AttestationCode.TOKEN_AUDIENCE, match="expected 'sealserve.client', got 'other'"):
        verify(HOSTILE["another audience"][0])
    with raises(AttestationCode.TOKEN_EXPIRED, match="expired at 2026-11-29 12:01:00 UTC"):
        verify(HOSTILE["expired"][0])
    with raises(
        AttestationCode.TOKEN_CLAIMS, match=r"submods\.enclave\.ear_attester_claims\.simulated: Field required"
    ):
        verify(HOSTILE["no simulated flag"][0])
    with raises(AttestationCode.TOKEN_HEADER, match="expected 'alg', 'kid' and 'typ', got 'alg', 'jku', 'kid', 'typ'"):
        verify(HOSTILE["address of a key set"][0])
    with raises(AttestationCode.TOKEN_SIMULATED, match="protects nothing"):
        verify(HOSTILE["simulated"][0])


def test_the_end_has_no_tolerance_and_the_start_has_five_minutes() -> None:
    end = NOW + timedelta(hours=1)
    assert verify(TOKEN, now=end - timedelta(microseconds=1))
    with raises(AttestationCode.TOKEN_EXPIRED):
        verify(TOKEN, now=end)
    assert verify(TOKEN, now=NOW - timedelta(minutes=5))
    with raises(AttestationCode.TOKEN_NOT_YET_VALID):
        verify(TOKEN, now=NOW - timedelta(minutes=5, microseconds=1))
    with pytest.raises(ValueError, match="time zone"):
        verify(TOKEN, now=NOW.replace(tzinfo=None))


def test_a_simulated_result_cannot_be_overlooked() -> None:
    """A generic EAR verifier reads only the status and the vector."""
    simulated = make_result(simulated=True)
    claims = simulated.to_claims()
    assert claims["ear_status"] == claims["submods"]["enclave"]["ear_status"] == "contraindicated"
    assert claims["submods"]["enclave"]["ear_trustworthiness_vector"]["hardware"] == 96
    assert verify(sign_result(simulated, KEY), dangerous_simulated=True) == simulated


def test_a_token_does_not_identify_the_platform() -> None:
    text = json.dumps(CLAIMS)
    assert not any(name in text for name in ("platform_id", "ueid", "ppid", "fmspc", "peer"))


def test_unknown_claims_are_ignored() -> None:
    assert verify(changed("later", to={"x": 1})) == make_result()
    assert verify(changed(*ATTESTER, "later", to=[1])) == make_result()


def test_a_removed_key_no_longer_verifies() -> None:
    rotated = JsonWebKeySet([JsonWebKey(OTHER.public_key()), *KEYS.keys])
    assert verify(TOKEN, keys=rotated) == make_result()
    with raises(AttestationCode.TOKEN_KEY_UNKNOWN, match="is not in the JWK set"):
        verify(TOKEN, keys=JsonWebKeySet([JsonWebKey(OTHER.public_key())]))


@given(st.integers(0, len(TOKEN) - 1), st.sampled_from(ALPHABET + ".= "))
def test_every_changed_character_is_detected(position: int, character: str) -> None:
    token = TOKEN[:position] + character + TOKEN[position + 1 :]
    if token != TOKEN:
        with pytest.raises(VerificationError):
            verify(token)


@given(st.text(max_size=200) | st.binary(max_size=200).map(encode_base64url))
def test_any_text_is_rejected_with_a_code(text: str) -> None:
    with pytest.raises(VerificationError):
        verify(text)
    with pytest.raises(VerificationError):
        verify(f"{HEADER}.{text}.{SIGNATURE}")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)),
       st.sampled_from([(name,) for name in CLAIMS] + [(*ENCLAVE, name) for name in CLAIMS["submods"]["enclave"]]
                       + [(*ATTESTER, "measurement"), (*VERIFIER, "advisories")]))  # fmt: skip
def test_any_claim_ends_in_a_result_or_an_error(value: Any, path: tuple[str, ...]) -> None:
    with contextlib.suppress(VerificationError):  # anything else, such as a TypeError, is a bug
        verify(changed(*path, to=value))


def test_an_independent_library_verifies_our_token_with_our_key_set() -> None:
    """PyJWT reads the JWK set and the token, and checks signature, expiry, audience and issuer."""
    keys = jwt.PyJWKSet.from_json(KEYS.to_bytes().decode())
    kid = jwt.get_unverified_header(TOKEN)["kid"]
    key = next(key for key in keys.keys if key.key_id == kid)
    read = jwt.decode(
        TOKEN, key, algorithms=["ES256"], audience=AUDIENCE, issuer=ISSUER,
        options={"verify_exp": False, "verify_iat": False},
    )  # fmt: skip
    assert read == CLAIMS
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(
            HOSTILE["signature of another key"][0], key, algorithms=["ES256"], audience=AUDIENCE,
            options={"verify_exp": False, "verify_iat": False},
        )  # fmt: skip


def test_our_verifier_reads_a_token_of_an_independent_library() -> None:
    token = jwt.encode(CLAIMS, KEY, algorithm="ES256", headers={"kid": KEYS.keys[0].key_id, "typ": "eat+jwt"})
    assert verify(token) == make_result()


def test_the_id_of_a_key_is_its_thumbprint() -> None:
    """RFC 7638: the required members in order, without spaces."""
    (key,) = KEYS.keys
    members = key.to_members()
    text = f'{{"crv":"P-256","kty":"EC","x":"{members["x"]}","y":"{members["y"]}"}}'
    assert base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode() == key.key_id


def test_the_verifier_needs_only_the_base_installation() -> None:
    """Users verify results with the client, which has none of the owner's packages."""
    program = """
import sys
for name in "cbor2 dcap_qvl httpx yaml sqlalchemy tomli_w aiohttp tensorflow kubernetes jwt".split():
    sys.modules[name] = None
import sealserve.attestation.result_token
assert not [name for name in sys.modules if name.startswith(("sealserve.broker", "sealserve.owner", "sealserve.sgx"))]
"""
    subprocess.run([sys.executable, "-c", program], check=True)
