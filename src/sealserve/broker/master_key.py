"""The master key in a file: it encrypts the release keys, and is the one thing of the keystore that is not in it.

The file has one of two forms, both 0600:

- *raw*: the 32 bytes of the key;
- *under a passphrase*: JSON, with the key encrypted (AES-256-GCM) under a key that scrypt makes of the passphrase.

Source: RFC 7914 (scrypt); OWASP, "Password Storage Cheat Sheet" (its parameters: N = 2^17, r = 8, p = 1).
"""

import secrets
from pathlib import Path
from typing import Annotated, Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sealserve.broker.codes import BrokerCode
from sealserve.broker.key_wrapper import TRANSIT_PREFIX, KeyUnwrapError
from sealserve.broker.passphrase import Passphrase
from sealserve.private_file import PrivateFileExposedError, PrivateFileUnreadableError, read_private_bytes
from sealserve.secret import SecretBytes

MASTER_KEY_SIZE: Final = 32

_NONCE_SIZE: Final = 12
_TAG_SIZE: Final = 16
_LARGEST_FILE: Final = 4096
_CONTEXT: Final = b"sealserve master key under a passphrase v1\0"
_SALT_SIZE: Final = 16
_COST: Final = 2**17  # 128 MiB of memory, about half a second
_BLOCK_SIZE: Final = 8
_PARALLELISM: Final = 1


class MasterKey:
    """A master key, as a `KeyWrapper`: 12 bytes nonce, then AES-256-GCM ciphertext and tag.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: SecretBytes) -> None:
        self._cipher = AESGCM(key.reveal())

    def wrap(self, secret: SecretBytes, *, context: bytes) -> bytes:
        """See `KeyWrapper`."""
        nonce = secrets.token_bytes(_NONCE_SIZE)
        return nonce + self._cipher.encrypt(nonce, secret.reveal(), context)

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        """See `KeyWrapper`."""
        try:
            return SecretBytes(self._cipher.decrypt(wrapped[:_NONCE_SIZE], wrapped[_NONCE_SIZE:], context))
        except (InvalidTag, ValueError) as error:
            raise KeyUnwrapError(
                "A stored release key does not decrypt under this master key.",
                hint="Restore the master key and the database from the same backup.",
            ) from error

    def wrapped_here(self, wrapped: bytes) -> bool:
        """See `KeyWrapper`."""
        return not wrapped.startswith(TRANSIT_PREFIX)


def _power_of_two(number: int) -> int:
    if number & (number - 1):
        raise ValueError("a power of two is expected")
    return number


class _UnderPassphrase(BaseModel):
    """The JSON of the second form. Its numbers are bounded: they say how much work a reader does."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal[1] = 1
    kdf: Literal["scrypt"] = "scrypt"
    n: Annotated[int, Field(ge=2**14, le=2**20), AfterValidator(_power_of_two)]
    r: Annotated[int, Field(ge=1, le=16)]
    p: Annotated[int, Field(ge=1, le=4)]
    salt: Annotated[str, StringConstraints(pattern=rf"^[0-9a-f]{{{2 * _SALT_SIZE}}}$")]
    wrapped: Annotated[
        str, StringConstraints(pattern=rf"^[0-9a-f]{{{2 * (_NONCE_SIZE + MASTER_KEY_SIZE + _TAG_SIZE)}}}$")
    ]


def raw(key: SecretBytes) -> bytes:
    """Return the raw form of a master key."""
    return key.reveal()


def under_passphrase(key: SecretBytes, passphrase: SecretBytes) -> bytes:
    """Return the form of a master key that needs the passphrase."""
    salt = secrets.token_bytes(_SALT_SIZE)
    cipher = MasterKey(_derive(passphrase, salt, n=_COST, r=_BLOCK_SIZE, p=_PARALLELISM))
    wrapped = cipher.wrap(key, context=_CONTEXT).hex()
    form = _UnderPassphrase(n=_COST, r=_BLOCK_SIZE, p=_PARALLELISM, salt=salt.hex(), wrapped=wrapped)
    return form.model_dump_json().encode() + b"\n"


def needs_passphrase(content: bytes) -> bool:
    """Return whether the content of a master key's file is of the form that needs a passphrase."""
    return len(content) != MASTER_KEY_SIZE and content.startswith(b"{")


def read_master_key(path: Path, *, passphrase: Passphrase) -> SecretBytes:
    """Return the master key in the file at ``path``.

    Args:
        path: The file, of either form.
        passphrase: Called if the form needs it.

    Raises:
        InputError: `keystore.master-key-exposed`: Others can read or write it.
        InputError: `keystore.master-key-length`: It does not hold 32 bytes.
        InputError: `keystore.master-key-form`: It begins like a key under a passphrase, and is none.
        UnavailableError: `keystore.master-key-unreadable`: It cannot be read.
        InputError: `keystore.passphrase-wrong`: The passphrase is not this key's.
        SealserveError: What ``passphrase`` raises.
    """
    try:
        content = read_private_bytes(path, what="master key", limit=_LARGEST_FILE)
    except PrivateFileExposedError as error:
        raise BrokerCode.KEYSTORE_MASTER_KEY_EXPOSED.error(error.message, hint=error.hint) from error
    except PrivateFileUnreadableError as error:
        raise BrokerCode.KEYSTORE_MASTER_KEY_UNREADABLE.error(error.message) from error
    return parse_master_key(content, name=str(path), passphrase=passphrase)


def parse_master_key(content: bytes, *, name: str, passphrase: Passphrase) -> SecretBytes:
    """Return the master key that a file's content holds; errors as in `read_master_key`.

    Args:
        content: Of the file.
        name: What to call it in errors.
        passphrase: Called if the form needs it.
    """
    if needs_passphrase(content):
        return _open(content, name, passphrase)
    if len(content) != MASTER_KEY_SIZE:
        found = "more" if len(content) > MASTER_KEY_SIZE else str(len(content))
        raise BrokerCode.KEYSTORE_MASTER_KEY_LENGTH.error(
            f"{name} holds {found} bytes, a master key has {MASTER_KEY_SIZE}.", hint="Restore it from your backup."
        )
    return SecretBytes(content)


def _open(content: bytes, name: str, passphrase: Passphrase) -> SecretBytes:
    try:
        form = _UnderPassphrase.model_validate_json(content)
    except ValidationError as error:
        raise BrokerCode.KEYSTORE_MASTER_KEY_FORM.error(
            f"{name} holds no master key under a passphrase: it is damaged.", hint="Restore it from your backup."
        ) from error
    with passphrase() as given:
        cipher = MasterKey(_derive(given, bytes.fromhex(form.salt), n=form.n, r=form.r, p=form.p))
    try:
        return cipher.unwrap(bytes.fromhex(form.wrapped), context=_CONTEXT)
    except KeyUnwrapError as error:
        raise BrokerCode.KEYSTORE_PASSPHRASE_WRONG.error(
            f"The passphrase does not open {name}.", hint="Or the file was changed: compare it with your backup."
        ) from error


def _derive(passphrase: SecretBytes, salt: bytes, *, n: int, r: int, p: int) -> SecretBytes:
    return SecretBytes(Scrypt(salt=salt, length=MASTER_KEY_SIZE, n=n, r=r, p=p).derive(passphrase.reveal()))
