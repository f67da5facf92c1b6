"""The master key in a file. It encrypts the release keys and is the only part of the keystore outside the database.

The file has mode 0600 and one of two forms:

- *raw*: the 32 bytes of the key;
- *passphrase-encrypted*: JSON with the key encrypted (AES-256-GCM) with a key that scrypt derives from the passphrase.

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
from sealserve.broker.key_wrapper import FILE, KeyUnwrapError, WrapperId
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
    """A `KeyWrapper` with a master key. A ciphertext is a nonce of 12 bytes, the AES-256-GCM ciphertext and the tag.

    Args:
        key: The master key, 32 bytes.
    """

    def __init__(self, key: SecretBytes) -> None:
        self._cipher = AESGCM(key.reveal())

    @property
    def wrapper_id(self) -> WrapperId:
        """The id of each master key file. The ids of its earlier and later keys are the same."""
        return FILE

    def wrap(self, secret: SecretBytes, *, context: bytes) -> bytes:
        """Encrypt a secret. See `KeyWrapper.wrap`."""
        nonce = secrets.token_bytes(_NONCE_SIZE)
        return nonce + self._cipher.encrypt(nonce, secret.reveal(), context)

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        """Decrypt a secret. See `KeyWrapper.unwrap`."""
        try:
            return SecretBytes(self._cipher.decrypt(wrapped[:_NONCE_SIZE], wrapped[_NONCE_SIZE:], context))
        except (InvalidTag, ValueError) as error:
            raise KeyUnwrapError(
                "A stored release key cannot be decrypted: the master key is wrong, or the stored key was changed.",
                hint="Restore the master key and the database from the same backup.",
            ) from error


def _power_of_two(number: int) -> int:
    if number & (number - 1):
        raise ValueError("a power of two is expected")
    return number


class _UnderPassphrase(BaseModel):
    """The JSON of the passphrase-encrypted form. Its numbers are bounded: they determine the work of a reader."""

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
    """Return the content of a master key file in the raw form."""
    return key.reveal()


def under_passphrase(key: SecretBytes, passphrase: SecretBytes) -> bytes:
    """Return the content of a master key file in the passphrase-encrypted form."""
    salt = secrets.token_bytes(_SALT_SIZE)
    cipher = MasterKey(_derive(passphrase, salt, n=_COST, r=_BLOCK_SIZE, p=_PARALLELISM))
    wrapped = cipher.wrap(key, context=_CONTEXT).hex()
    form = _UnderPassphrase(n=_COST, r=_BLOCK_SIZE, p=_PARALLELISM, salt=salt.hex(), wrapped=wrapped)
    return form.model_dump_json().encode() + b"\n"


def needs_passphrase(content: bytes) -> bool:
    """Return whether a master key file with this content requires a passphrase."""
    return len(content) != MASTER_KEY_SIZE and content.startswith(b"{")


def read_master_key(path: Path, *, passphrase: Passphrase) -> SecretBytes:
    """Return the master key in the file at ``path``.

    Args:
        path: The file, in either form.
        passphrase: Called if the file is encrypted with a passphrase.

    Raises:
        InputError: `keystore.master-key-exposed` if other users can read or write the file.
        InputError: `keystore.master-key-length` if the file does not contain exactly 32 bytes.
        InputError: `keystore.master-key-form` if the file starts like the passphrase-encrypted form but is not valid.
        UnavailableError: `keystore.master-key-unreadable` if the file cannot be read.
        InputError: `keystore.passphrase-wrong` if the passphrase does not decrypt the key.
        SealserveError: An error that ``passphrase`` raises.
    """
    try:
        content = read_private_bytes(path, what="master key", limit=_LARGEST_FILE)
    except PrivateFileExposedError as error:
        raise BrokerCode.KEYSTORE_MASTER_KEY_EXPOSED.error(error.message, hint=error.hint) from error
    except PrivateFileUnreadableError as error:
        raise BrokerCode.KEYSTORE_MASTER_KEY_UNREADABLE.error(error.message, hint=error.hint) from error
    return parse_master_key(content, name=str(path), passphrase=passphrase)


def parse_master_key(content: bytes, *, name: str, passphrase: Passphrase) -> SecretBytes:
    """Return the master key from the content of its file. Raises the same errors as `read_master_key`.

    Args:
        content: The content of the file.
        name: The file's name in messages.
        passphrase: Called if the content is encrypted with a passphrase.
    """
    if needs_passphrase(content):
        return _open(content, name, passphrase)
    if len(content) != MASTER_KEY_SIZE:
        found = "more" if len(content) > MASTER_KEY_SIZE else str(len(content))
        raise BrokerCode.KEYSTORE_MASTER_KEY_LENGTH.error(
            f"{name} is not a valid master key file: expected {MASTER_KEY_SIZE} bytes, got {found}.",
            hint="Restore the file from a backup.",
        )
    return SecretBytes(content)


def _open(content: bytes, name: str, passphrase: Passphrase) -> SecretBytes:
    try:
        form = _UnderPassphrase.model_validate_json(content)
    except ValidationError as error:
        raise BrokerCode.KEYSTORE_MASTER_KEY_FORM.error(
            f"{name} does not contain a valid passphrase-encrypted master key: the file is damaged.",
            hint="Restore the file from a backup.",
        ) from error
    with passphrase() as given:
        cipher = MasterKey(_derive(given, bytes.fromhex(form.salt), n=form.n, r=form.r, p=form.p))
    try:
        return cipher.unwrap(bytes.fromhex(form.wrapped), context=_CONTEXT)
    except KeyUnwrapError as error:
        raise BrokerCode.KEYSTORE_PASSPHRASE_WRONG.error(
            f"The passphrase does not decrypt the master key in {name}: it is wrong, or the file was changed.",
            hint="Enter the passphrase again. If it is correct, compare the file with a backup.",
        ) from error


def _derive(passphrase: SecretBytes, salt: bytes, *, n: int, r: int, p: int) -> SecretBytes:
    return SecretBytes(Scrypt(salt=salt, length=MASTER_KEY_SIZE, n=n, r=r, p=p).derive(passphrase.reveal()))
