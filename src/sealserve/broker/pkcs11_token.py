"""A key in a PKCS#11 token: find it, check it, and use it with AES-GCM. Only `pkcs11_worker` uses this module.

The functions of a PKCS#11 module are called by one thread. python-pkcs11 initializes modules without locks
(``C_Initialize(NULL)``), so that a module may assume a single thread.

Source: OASIS, "PKCS #11 Cryptographic Token Interface Base Specification Version 2.40" (sections 4.10, 5.6: attributes,
login) and "Current Mechanisms Specification Version 2.40" (section 2.12.3: AES-GCM); NIST SP 800-38D, section 8.2.2
(random initialization vectors of 96 bits).
"""

import contextlib
import secrets
from collections.abc import Iterator
from typing import Final, Protocol, cast

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, TokenFlag

from sealserve.broker.pkcs11_protocol import Failure, TokenFailedError

_IV_SIZE: Final = 12
_TAG_SIZE: Final = 16
_PROBE: Final = b"sealserve probe\0"
_WRONG_PIN: Final = (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange)
_LOCKED_PIN: Final = (pkcs11.PinLocked, pkcs11.PinExpired, pkcs11.UserPinNotInitialized)
# Tokens report a wrong authentication tag with different errors. SoftHSM returns CKR_GENERAL_ERROR, which it also uses
# for other failures. `_works` distinguishes the two cases.
_PERHAPS_DATA: Final = (
    pkcs11.EncryptedDataInvalid, pkcs11.EncryptedDataLenRange, pkcs11.DataInvalid, pkcs11.DataLenRange,
    pkcs11.SignatureInvalid, pkcs11.GeneralError, pkcs11.FunctionFailed, pkcs11.ArgumentsBad,
)  # fmt: skip


class _Library(Protocol):
    def get_tokens(self, token_label: str | None = None) -> Iterator[pkcs11.Token]: ...


class _Key(Protocol):
    def __getitem__(self, attribute: Attribute) -> object: ...
    def encrypt(self, data: bytes, *, mechanism: Mechanism, mechanism_param: object) -> bytes: ...
    def decrypt(self, data: bytes, *, mechanism: Mechanism, mechanism_param: object) -> bytes: ...


class TokenKey:
    """An AES key in a token, and the session that uses it.

    A ciphertext is the initialization vector of 12 bytes, the AES-GCM ciphertext and the tag of 16 bytes.

    Args:
        library: The loaded module.
        label: The token's label.
        serial: The token's serial number, or "" for any.
        key: The key's label.
        pin: The PIN of the token's user.

    Raises:
        TokenFailedError: The key cannot be used.
    """

    def __init__(self, library: _Library, *, label: str, serial: str, key: str, pin: str) -> None:
        with _failing("The token cannot be used"):
            token = _find_token(library, label, serial)
            _check_mechanism(token)
            self._session = _log_in(token, pin)
            self._key = _find_key(self._session, key, label)
            self.warning = _check_attributes(self._key, key)
            """A property of the key that its owner should know, or ""."""

    def encrypt(self, plaintext: bytes, context: bytes) -> bytes:
        """Return ``plaintext`` encrypted with ``context`` as associated data."""
        with _failing("The token cannot encrypt"):
            return self._encrypt(plaintext, context)

    def decrypt(self, ciphertext: bytes, context: bytes) -> bytes:
        """Return the plaintext of a ciphertext that `encrypt` returned for the same ``context``.

        Raises:
            TokenFailedError: `Failure.DATA` if the ciphertext was changed, or belongs to another key or context.
        """
        if len(ciphertext) <= _IV_SIZE + _TAG_SIZE:
            raise TokenFailedError(Failure.DATA, "the ciphertext is too short")
        with _failing("The token cannot decrypt"):
            try:
                return self._decrypt(ciphertext, context)
            except _PERHAPS_DATA as error:
                if self._works():
                    raise TokenFailedError(Failure.DATA, f"the token returned {type(error).__name__}") from error
                raise

    def _encrypt(self, plaintext: bytes, context: bytes) -> bytes:
        parameters = pkcs11.GCMParams(secrets.token_bytes(_IV_SIZE), context, 8 * _TAG_SIZE)
        sealed = self._key.encrypt(plaintext, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)
        # Read the initialization vector after the call: a token may have written its own into the parameters.
        return bytes(parameters.nonce) + bytes(sealed)

    def _decrypt(self, ciphertext: bytes, context: bytes) -> bytes:
        parameters = pkcs11.GCMParams(ciphertext[:_IV_SIZE], context, 8 * _TAG_SIZE)
        return bytes(self._key.decrypt(ciphertext[_IV_SIZE:], mechanism=Mechanism.AES_GCM, mechanism_param=parameters))

    def _works(self) -> bool:
        """Return whether the token encrypts and decrypts a constant. If so, the ciphertext is invalid."""
        with contextlib.suppress(pkcs11.PKCS11Error):
            return self._decrypt(self._encrypt(_PROBE, b""), b"") == _PROBE
        return False


def load(module: str) -> _Library:
    """Load a PKCS#11 module into this process and initialize it.

    Raises:
        TokenFailedError: The file is not a PKCS#11 module, or its initialization failed.
    """
    try:
        return pkcs11.lib(module)
    except pkcs11.PKCS11Error as error:
        detail = str(error) or type(error).__name__
        raise TokenFailedError(Failure.SETTINGS, f"The PKCS#11 module cannot be loaded: {detail}") from error


def _find_token(library: _Library, label: str, serial: str) -> pkcs11.Token:
    tokens = [token for token in library.get_tokens(token_label=label) if serial in ("", _text(token.serial))]
    if len(tokens) == 1:
        return tokens[0]
    which = f"the label {label!r}" + (f" and the serial number {serial!r}" if serial else "")
    present = sorted({token.label for token in library.get_tokens()})
    found = "several tokens" if tokens else f"only {', '.join(map(repr, present))}" if present else "no token"
    raise TokenFailedError(Failure.TOKEN, f"The token cannot be selected: expected one token with {which}, got {found}")


def _check_mechanism(token: pkcs11.Token) -> None:
    if Mechanism.AES_GCM not in token.slot.get_mechanisms():
        raise TokenFailedError(Failure.ATTRIBUTES, f"The token {token.label!r} does not support AES-GCM (CKM_AES_GCM)")


def _log_in(token: pkcs11.Token, pin: str) -> pkcs11.Session:
    # Never lock the PIN: leave the last attempt to a person.
    if token.flags & TokenFlag.USER_PIN_LOCKED:
        raise TokenFailedError(Failure.PIN_LOCKED, f"The PIN of the token {token.label!r} is locked")
    if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
        raise TokenFailedError(
            Failure.PIN_LOCKED, f"The next wrong PIN would lock the token {token.label!r}, so the PIN was not used"
        )
    try:
        return token.open(user_pin=pin)
    except _WRONG_PIN as error:
        raise TokenFailedError(Failure.PIN_WRONG, f"The token {token.label!r} rejects the PIN") from error
    except _LOCKED_PIN as error:
        raise TokenFailedError(
            Failure.PIN_LOCKED, f"The token {token.label!r} does not accept a PIN ({type(error).__name__})"
        ) from error


def _find_key(session: pkcs11.Session, key: str, label: str) -> _Key:
    wanted = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: key}
    found = list(session.get_objects(wanted))
    if len(found) == 1:
        return cast("_Key", found[0])  # the library adds the methods that the attributes permit
    number = "several secret keys" if found else "no secret key"
    raise TokenFailedError(Failure.KEY, f"The token {label!r} is unsuitable: expected one key {key!r}, got {number}")


def _check_attributes(key: _Key, label: str) -> str:
    """Check that the key cannot leave the token. Return a warning if it did not originate there."""
    if key[Attribute.KEY_TYPE] != KeyType.AES:
        raise TokenFailedError(Failure.ATTRIBUTES, f"The key {label!r} is not an AES key")
    required = {
        "CKA_SENSITIVE": (Attribute.SENSITIVE, True),
        "CKA_EXTRACTABLE": (Attribute.EXTRACTABLE, False),
        "CKA_PRIVATE": (Attribute.PRIVATE, True),
        "CKA_ENCRYPT": (Attribute.ENCRYPT, True),
        "CKA_DECRYPT": (Attribute.DECRYPT, True),
    }
    wrong = [f"{name} must be {value}" for name, (attribute, value) in required.items() if key[attribute] != value]
    if wrong:
        raise TokenFailedError(Failure.ATTRIBUTES, f"The key {label!r} has unsafe attributes: {', '.join(wrong)}")
    with contextlib.suppress(pkcs11.AttributeTypeInvalid):
        if not (key[Attribute.ALWAYS_SENSITIVE] and key[Attribute.NEVER_EXTRACTABLE]):
            return f"the key {label!r} was imported or could be exported earlier, so copies of it can exist"
    return ""


@contextlib.contextmanager
def _failing(what: str) -> Iterator[None]:
    try:
        yield
    except pkcs11.PKCS11Error as error:
        raise TokenFailedError(Failure.FAILED, f"{what}: {type(error).__name__}") from error


def _text(serial: bytes) -> str:
    return serial.decode("ascii", "replace").strip("\0 ")
