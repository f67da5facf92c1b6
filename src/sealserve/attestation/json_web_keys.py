"""JSON web keys: the public keys that verify attestation results, as a JWK set (JWKS).

Only P-256 keys for ES256 are accepted. The id of a key (``kid``) is its thumbprint, so that a set cannot give an id to
another key.

Source: RFC 7517 (JWK, JWK set), RFC 7518 section 6.2 (elliptic-curve keys), RFC 7638 (thumbprint).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.strict_encoding import decode_base64url, encode_base64url, parse_object
from sealserve.canonical_document import canonical_json
from sealserve.errors import SealserveError

SPEC_VERSION: Final = "RFC 7517, RFC 7518, RFC 7638"
ALGORITHM: Final = "ES256"
MAXIMUM_KEY_SET: Final = 64 * 2**10
"""Maximum size in bytes of a JWK set."""
MAXIMUM_KEYS: Final = 32

_CURVE: Final = "P-256"
_COORDINATE_SIZE: Final = 32
_MEMBERS: Final = frozenset({"kty", "crv", "x", "y", "kid", "alg", "use"})
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_HINT: Final = "Ask the owner for the output of `sealserve broker token keys`."


@dataclass(frozen=True, slots=True)
class JsonWebKey:
    """A public key and its id.

    Args:
        public_key: A P-256 key.
    """

    public_key: ec.EllipticCurvePublicKey
    key_id: str = field(init=False)

    def __post_init__(self) -> None:
        # The thumbprint covers the required members in lexicographic order (RFC 7638 section 3.2).
        required = {name: self._coordinates()[name] for name in ("crv", "kty", "x", "y")}
        object.__setattr__(self, "key_id", encode_base64url(hashlib.sha256(canonical_json(required)).digest()))

    def to_members(self) -> Mapping[str, str]:
        """Return the members of the key in a JWK set."""
        return {**self._coordinates(), "kid": self.key_id, "alg": ALGORITHM, "use": "sig"}

    def _coordinates(self) -> dict[str, str]:
        numbers = self.public_key.public_numbers()
        x, y = (encode_base64url(number.to_bytes(_COORDINATE_SIZE, "big")) for number in (numbers.x, numbers.y))
        return {"crv": _CURVE, "kty": "EC", "x": x, "y": y}

    @classmethod
    def parse(cls, members: Mapping[str, Any]) -> Self:
        """Parse the members of a key.

        Raises:
            InputError: `jwks.private` if the key contains a private part.
            InputError: `jwks.key` if it is not a P-256 public key for ES256, or its id is not its thumbprint.
        """
        if _PRIVATE & members.keys():
            raise AttestationCode.JWKS_PRIVATE.error(
                "The JWK set contains a private key: expected only public keys.",
                hint="Replace the token signing key with `sealserve broker token rotate --compromised`.",
            )
        if members.keys() != _MEMBERS or not all(isinstance(value, str) for value in members.values()):
            raise _key_error(f"expected the members {', '.join(sorted(_MEMBERS))}")
        named = {"kty": "EC", "crv": _CURVE, "alg": ALGORITHM, "use": "sig"}
        if wrong := sorted(name for name, value in named.items() if members[name] != value):
            raise _key_error(f"expected {wrong[0]} {named[wrong[0]]!r}, got {members[wrong[0]]!r:.40}")
        try:
            x, y = (decode_base64url(members[name]) for name in ("x", "y"))
            if not len(x) == len(y) == _COORDINATE_SIZE:
                raise _key_error(f"expected coordinates of {_COORDINATE_SIZE} bytes, got {len(x)} and {len(y)}")
            numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), ec.SECP256R1())
            key = cls(numbers.public_key())
        except ValueError as error:
            raise _key_error("its coordinates are not a point of the curve in base64url") from error
        if members["kid"] != key.key_id:
            raise _key_error(f"expected its thumbprint {key.key_id} as kid, got {members['kid']!r:.60}")
        return key


class JsonWebKeySet:
    """Public keys by id, with the current key first.

    Args:
        keys: The keys. A key that occurs twice is kept once.
    """

    def __init__(self, keys: Iterable[JsonWebKey]) -> None:
        self._keys = {key.key_id: key for key in keys}

    @property
    def keys(self) -> tuple[JsonWebKey, ...]:
        """The keys in order."""
        return tuple(self._keys.values())

    def find(self, key_id: str) -> JsonWebKey | None:
        """Return the key with this id, or `None`."""
        return self._keys.get(key_id)

    def to_bytes(self) -> bytes:
        """Return the set as JSON (media type ``application/jwk-set+json``)."""
        return canonical_json({"keys": [dict(key.to_members()) for key in self.keys]}) + b"\n"

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Parse a JWK set that contains at least one key.

        Raises:
            InputError: `jwks.form` if the content is not a JWK set, has an unknown member, or has a key twice.
            InputError: `jwks.key` or `jwks.private` if a key is not accepted.
        """
        if len(content) > MAXIMUM_KEY_SET:
            raise _form_error(f"expected at most {MAXIMUM_KEY_SET} bytes, got {len(content)}")
        try:
            document = parse_object(content)
        except ValueError as error:
            raise _form_error("expected a JSON object with unique names") from error
        match document:
            case {"keys": [*listed]} if len(document) == 1 and 0 < len(listed) <= MAXIMUM_KEYS:
                pass
            case _:
                raise _form_error(f"expected only the member keys, a list of 1 to {MAXIMUM_KEYS} keys")
        if not all(isinstance(members, dict) for members in listed):
            raise _form_error("expected objects as keys")
        keys = [JsonWebKey.parse(members) for members in listed]
        if len({key.key_id for key in keys}) != len(keys):
            raise _form_error("it contains a key twice")
        return cls(keys)


def _key_error(what: str) -> SealserveError:
    return AttestationCode.JWKS_KEY.error(f"A key of the JWK set is invalid: {what}.", hint=_HINT)


def _form_error(what: str) -> SealserveError:
    return AttestationCode.JWKS_FORM.error(f"The JWK set is invalid: {what}.", hint=_HINT)
