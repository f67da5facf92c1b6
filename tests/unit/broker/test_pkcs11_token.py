"""What tokens do that SoftHSM cannot: they lock a PIN, choose the initialization vector, and fail in various ways."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

pkcs11 = pytest.importorskip("pkcs11", reason="python-pkcs11 is missing: `make setup` installs it")

from pkcs11 import Attribute, KeyType, Mechanism, TokenFlag  # noqa: E402

from sealserve.broker.pkcs11_protocol import Failure, TokenFailedError  # noqa: E402
from sealserve.broker.pkcs11_token import TokenKey  # noqa: E402

SAFE = {
    Attribute.KEY_TYPE: KeyType.AES, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True,
    Attribute.ENCRYPT: True, Attribute.DECRYPT: True, Attribute.ALWAYS_SENSITIVE: True,
    Attribute.NEVER_EXTRACTABLE: True,
}  # fmt: skip


@dataclass
class Key:
    """An AES key, and the exception that the token reports for a wrong tag."""

    attributes: dict[Any, Any] = field(default_factory=lambda: dict(SAFE))
    wrong_tag: type[Exception] = pkcs11.EncryptedDataInvalid
    broken: type[Exception] | None = None
    own_iv: bytes | None = None
    cipher: AESGCM = field(default_factory=lambda: AESGCM(bytes(32)))

    def __getitem__(self, attribute: Any) -> Any:
        if attribute not in self.attributes:
            raise pkcs11.AttributeTypeInvalid
        return self.attributes[attribute]

    def encrypt(self, data: bytes, *, mechanism: Any, mechanism_param: Any) -> bytes:
        assert mechanism is Mechanism.AES_GCM
        if self.broken:
            raise self.broken
        if self.own_iv is not None:
            mechanism_param.nonce = self.own_iv
        return self.cipher.encrypt(mechanism_param.nonce, data, mechanism_param.aad)

    def decrypt(self, data: bytes, *, mechanism: Any, mechanism_param: Any) -> bytes:
        assert mechanism is Mechanism.AES_GCM
        if self.broken:
            raise self.broken
        try:
            return self.cipher.decrypt(mechanism_param.nonce, data, mechanism_param.aad)
        except InvalidTag:
            raise self.wrong_tag from None


@dataclass
class Token:
    """A token with one key. It counts logins."""

    key: Key = field(default_factory=Key)
    label: str = "owner"
    serial: bytes = b"0001"
    flags: TokenFlag = TokenFlag.LOGIN_REQUIRED
    mechanisms: frozenset[Any] = frozenset({Mechanism.AES_GCM})
    refuses: type[Exception] | None = None
    logins: int = 0

    @property
    def slot(self) -> "Token":
        return self

    def get_mechanisms(self) -> frozenset[Any]:
        return self.mechanisms

    def open(self, *, user_pin: str) -> "Token":
        assert user_pin == "1234"
        self.logins += 1
        if self.refuses:
            raise self.refuses
        return self

    def get_objects(self, _wanted: Any) -> list[Key]:
        return [self.key]


@dataclass
class Library:
    """A module with some tokens."""

    tokens: list[Token]

    def get_tokens(self, token_label: str | None = None) -> Iterator[Any]:
        return iter([token for token in self.tokens if token_label in (None, token.label)])


def opened(*tokens: Token, serial: str = "") -> TokenKey:
    return TokenKey(Library(list(tokens)), label="owner", serial=serial, key="sealserve", pin="1234")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (TokenFlag.USER_PIN_LOCKED, "The PIN of the token 'owner' is locked"),
        (TokenFlag.USER_PIN_FINAL_TRY, "The next wrong PIN would lock the token 'owner', so the PIN was not used"),
    ],
)
def test_the_last_attempt_of_a_pin_is_never_used(flag: TokenFlag, message: str) -> None:
    token = Token(flags=TokenFlag.LOGIN_REQUIRED | flag)
    with pytest.raises(TokenFailedError, match=message) as caught:
        opened(token)
    assert caught.value.failure is Failure.PIN_LOCKED
    assert token.logins == 0


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (pkcs11.PinIncorrect, Failure.PIN_WRONG),
        (pkcs11.PinLenRange, Failure.PIN_WRONG),
        (pkcs11.PinLocked, Failure.PIN_LOCKED),
        (pkcs11.PinExpired, Failure.PIN_LOCKED),
        (pkcs11.UserPinNotInitialized, Failure.PIN_LOCKED),
        (pkcs11.DeviceRemoved, Failure.FAILED),
        (pkcs11.SessionCount, Failure.FAILED),
    ],
)
def test_a_login_happens_once(error: type[Exception], failure: Failure) -> None:
    token = Token(refuses=error)
    with pytest.raises(TokenFailedError) as caught:
        opened(token)
    assert caught.value.failure is failure
    assert "1234" not in caught.value.message
    assert token.logins == 1


def test_a_serial_number_selects_one_of_several_tokens() -> None:
    first, second = Token(), Token(serial=b"0002\0\0")
    opened(first, second, serial="0002")
    assert (first.logins, second.logins) == (0, 1)
    with pytest.raises(TokenFailedError, match="got several tokens"):
        opened(first, second)


def test_a_token_without_the_mechanism_is_refused_before_the_login() -> None:
    token = Token(mechanisms=frozenset({Mechanism.AES_CBC}))
    with pytest.raises(TokenFailedError, match=r"does not support AES-GCM \(CKM_AES_GCM\)") as caught:
        opened(token)
    assert (caught.value.failure, token.logins) == (Failure.ATTRIBUTES, 0)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        (Attribute.SENSITIVE, False),
        (Attribute.EXTRACTABLE, True),
        (Attribute.PRIVATE, False),
        (Attribute.ENCRYPT, False),
        (Attribute.DECRYPT, False),
        (Attribute.KEY_TYPE, KeyType.DES3),
    ],
)
def test_each_unsafe_attribute_is_refused(attribute: Any, value: Any) -> None:
    with pytest.raises(TokenFailedError) as caught:
        opened(Token(key=Key(attributes={**SAFE, attribute: value})))
    assert caught.value.failure is Failure.ATTRIBUTES


@pytest.mark.parametrize("attribute", [Attribute.SENSITIVE, Attribute.EXTRACTABLE])
def test_a_token_that_does_not_state_an_attribute_is_refused(attribute: Any) -> None:
    with pytest.raises(TokenFailedError, match="The token cannot be used: AttributeTypeInvalid"):
        opened(Token(key=Key(attributes={name: value for name, value in SAFE.items() if name != attribute})))


def test_a_key_that_was_imported_has_a_warning() -> None:
    assert opened(Token()).warning == ""
    imported = Token(key=Key(attributes={**SAFE, Attribute.NEVER_EXTRACTABLE: False}))
    assert "was imported or could be exported earlier" in opened(imported).warning
    silent = {name: value for name, value in SAFE.items() if name != Attribute.NEVER_EXTRACTABLE}
    assert opened(Token(key=Key(attributes=silent))).warning == ""


@pytest.mark.parametrize("error", [pkcs11.EncryptedDataInvalid, pkcs11.GeneralError, pkcs11.FunctionFailed])
def test_a_wrong_tag_is_recognized_whatever_the_token_reports(error: type[Exception]) -> None:
    key = opened(Token(key=Key(wrong_tag=error)))
    wrapped = key.encrypt(b"secret", b"one")
    with pytest.raises(TokenFailedError, match=f"the token returned {error.__name__}") as caught:
        key.decrypt(wrapped, b"another")
    assert caught.value.failure is Failure.DATA
    assert key.decrypt(wrapped, b"one") == b"secret"


@pytest.mark.parametrize("error", [pkcs11.GeneralError, pkcs11.SessionHandleInvalid, pkcs11.DeviceRemoved])
def test_a_failed_token_is_not_mistaken_for_a_changed_ciphertext(error: type[Exception]) -> None:
    token = Token()
    key = opened(token)
    wrapped = key.encrypt(b"secret", b"")
    token.key.broken = error
    with pytest.raises(TokenFailedError, match=f"The token cannot decrypt: {error.__name__}") as caught:
        key.decrypt(wrapped, b"")
    assert caught.value.failure is Failure.FAILED
    with pytest.raises(TokenFailedError, match=f"The token cannot encrypt: {error.__name__}"):
        key.encrypt(b"secret", b"")


def test_an_initialization_vector_of_the_token_is_stored() -> None:
    key = opened(Token(key=Key(own_iv=b"chosen by it")))
    wrapped = key.encrypt(b"secret", b"context")
    assert wrapped.startswith(b"chosen by it")
    assert key.decrypt(wrapped, b"context") == b"secret"
