"""JSON web signatures in compact form: exactly the subset that attestation results use, and nothing else.

A token is ``BASE64URL(header) . BASE64URL(payload) . BASE64URL(signature)``. The header has exactly three parameters:
``alg``, ``typ`` and ``kid``. The algorithm is ES256 (ECDSA with P-256 and SHA-256), and the key decides it, not the
header. The header therefore cannot select another algorithm, bring its own key, or name an address to fetch it from.

Source: RFC 7515 (JWS) sections 4, 5.2 and 7.1; RFC 7518 section 3.4 (ES256); RFC 8725 (best practices) sections 3.1,
3.10 and 3.11; RFC 6979 (deterministic signatures).
"""

from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.json_web_keys import ALGORITHM, JsonWebKey, JsonWebKeySet
from sealserve.attestation.strict_encoding import decode_base64url, encode_base64url, parse_object
from sealserve.canonical_document import canonical_json

SPEC_VERSION: Final = "RFC 7515, RFC 7518"
MAXIMUM_TOKEN: Final = 16 * 2**10
"""Maximum size in bytes of a token."""

_PARAMETERS: Final = frozenset({"alg", "typ", "kid"})
_PARTS: Final = 3
_INTEGER_SIZE: Final = 32


def sign(payload: bytes, key: ec.EllipticCurvePrivateKey, *, kind: str) -> str:
    """Return a token with ``payload``.

    The signature is deterministic, so that a bad random number generator cannot reveal the key.

    Args:
        payload: The content.
        key: A P-256 key.
        kind: The ``typ`` of the token.
    """
    header = {"alg": ALGORITHM, "kid": JsonWebKey(key.public_key()).key_id, "typ": kind}
    signed = f"{encode_base64url(canonical_json(header))}.{encode_base64url(payload)}"
    der = key.sign(signed.encode(), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    signature = b"".join(number.to_bytes(_INTEGER_SIZE, "big") for number in decode_dss_signature(der))
    return f"{signed}.{encode_base64url(signature)}"


def verify(token: str, keys: JsonWebKeySet, *, kind: str) -> dict[str, Any]:
    """Verify a token and return its payload, a JSON object.

    1. The size is limited before anything is decoded.
    2. The token has three parts in canonical base64url, so that a token has one spelling.
    3. The header is a JSON object with unique names. It has no ``crit``, because no extension is supported.
    4. It has exactly the parameters ``alg``, ``typ`` and ``kid``. A header with ``jwk``, ``jku``, ``x5c`` or ``x5u``
       would bring its own key.
    5. ``typ`` is ``kind``, so that a token for another purpose is not accepted.
    6. ``kid`` names a key of the JWK set.
    7. ``alg`` is the algorithm of this key. Neither ``none`` nor a MAC with the public key is possible.
    8. The signature verifies.
    9. Only then is the payload parsed: a JSON object with unique names.

    Args:
        token: The token, without surrounding white space.
        keys: The trusted keys.
        kind: The expected ``typ``.

    Raises:
        VerificationError: A step fails. Each cause has its own code: `token.size` (1), `token.form` and
            `token.encoding` (2), `token.json` and `token.critical` (3), `token.header` (4), `token.type` (5),
            `token.key-unknown` (6), `token.algorithm` (7), `token.signature` (8), `token.json` (9).
    """
    if not 0 < len(token) <= MAXIMUM_TOKEN:  # (1)
        raise AttestationCode.TOKEN_SIZE.error(
            f"The token has an invalid size: expected 1 to {MAXIMUM_TOKEN} characters, got {len(token)}."
        )
    parts = token.split(".")  # (2)
    if len(parts) != _PARTS:
        raise AttestationCode.TOKEN_FORM.error(
            f"The token is malformed: expected three parts separated by dots, got {len(parts)}."
        )
    header_bytes, payload, signature = (
        _decode(text, part) for text, part in zip(parts, ("header", "payload", "signature"), strict=True)
    )
    header = _parse(header_bytes, "header")  # (3)
    if "crit" in header:
        raise AttestationCode.TOKEN_CRITICAL.error(
            "The header of the token requires an extension (crit), which is not supported."
        )
    if header.keys() != _PARAMETERS:  # (4)
        names = ", ".join(f"{name!r:.24}" for name in sorted(header)[:8])
        raise AttestationCode.TOKEN_HEADER.error(
            f"The header of the token has unexpected parameters: expected 'alg', 'kid' and 'typ', got {names}."
        )
    if header["typ"] != kind:  # (5)
        raise AttestationCode.TOKEN_TYPE.error(
            f"The token has another type: expected {kind!r}, got {header['typ']!r:.40}."
        )
    key = keys.find(header["kid"]) if isinstance(header["kid"], str) else None  # (6)
    if key is None:
        raise AttestationCode.TOKEN_KEY_UNKNOWN.error(
            f"The key of the token is unknown: {header['kid']!r:.60} is not in the JWK set.",
            hint="Ask the owner for the current output of `sealserve broker token keys`. If the key is still missing, "
            "treat the token as forged.",
        )
    if header["alg"] != ALGORITHM:  # (7)
        raise AttestationCode.TOKEN_ALGORITHM.error(
            f"The token has another algorithm than its key: expected {ALGORITHM}, got {header['alg']!r:.40}."
        )
    _check_signature(signature, token.rpartition(".")[0].encode(), key)  # (8)
    return _parse(payload, "payload")  # (9)


def _check_signature(signature: bytes, signed: bytes, key: JsonWebKey) -> None:
    if len(signature) != 2 * _INTEGER_SIZE:
        raise AttestationCode.TOKEN_SIGNATURE.error(
            f"The signature of the token is invalid: expected {2 * _INTEGER_SIZE} bytes, got {len(signature)}."
        )
    r, s = (int.from_bytes(part) for part in (signature[:_INTEGER_SIZE], signature[_INTEGER_SIZE:]))
    try:
        key.public_key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise AttestationCode.TOKEN_SIGNATURE.error(
            f"The signature of the token is invalid: it does not verify with the key {key.key_id}."
        ) from error


def _decode(text: str, part: str) -> bytes:
    try:
        return decode_base64url(text)
    except ValueError as error:
        raise AttestationCode.TOKEN_ENCODING.error(
            f"The {part} of the token is not base64url without padding: {error}."
        ) from error


def _parse(content: bytes, part: str) -> dict[str, Any]:
    try:
        return parse_object(content)
    except ValueError as error:
        raise AttestationCode.TOKEN_JSON.error(
            f"The {part} of the token is not a JSON object with unique names."
        ) from error
