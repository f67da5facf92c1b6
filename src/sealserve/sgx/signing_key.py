"""The key that signs enclaves: RSA with 3072 bits and exponent 3, as EINIT demands. It stays with the owner.

Source: Intel SDM volume 3D, "Enclave Signature Structure (SIGSTRUCT)", MODULUS, EXPONENT and SIGNATURE.
"""

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sealserve.atomic_file import PRIVATE, write_file
from sealserve.regular_file import InputFileMissingError, read_regular
from sealserve.sgx.codes import SgxCode

KEY_BITS: Final = 3072
KEY_EXPONENT: Final = 3


def create_signing_key(path: Path) -> rsa.RSAPrivateKey:
    """Make an enclave signing key, and write it to ``path`` (PEM, PKCS#8, 0600).

    Raises:
        OutputExistsError: ``path`` exists: a signing key is never replaced.
    """
    key = rsa.generate_private_key(public_exponent=KEY_EXPONENT, key_size=KEY_BITS)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_file(path, pem, mode=PRIVATE, overwrite=False)
    return key


def load_signing_key(path: Path) -> rsa.RSAPrivateKey:
    """Read an enclave signing key.

    Raises:
        InputError: `signing-key.missing`: There is no such file.
        InputError: `signing-key.invalid`: The file holds something else.
    """
    try:
        key = serialization.load_pem_private_key(read_regular(path), password=None)
    except InputFileMissingError as error:
        raise SgxCode.SIGNING_KEY_MISSING.error(
            f"There is no enclave signing key at {path}.",
            hint="Restore it from your backup; with a new one, the broker must allow the enclaves anew.",
        ) from error
    except (ValueError, TypeError) as error:
        raise SgxCode.SIGNING_KEY_INVALID.error(f"{path} holds no unencrypted private key in PEM form.") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise SgxCode.SIGNING_KEY_INVALID.error(
            f"{path}: an enclave signing key is RSA, and this is another kind of key."
        )
    check_signing_key(key, what=str(path))
    return key


def check_signing_key(key: rsa.RSAPrivateKey, *, what: str = "the enclave signing key") -> None:
    """Refuse a key that the processor would refuse.

    Raises:
        InputError: `signing-key.invalid`: Not 3072 bits, or another exponent than 3.
    """
    exponent = key.public_key().public_numbers().e
    if key.key_size != KEY_BITS or exponent != KEY_EXPONENT:
        raise SgxCode.SIGNING_KEY_INVALID.error(
            f"{what}: SGX takes RSA with {KEY_BITS} bits and exponent {KEY_EXPONENT} only, got {key.key_size} bits "
            f"and exponent {exponent}."
        )
