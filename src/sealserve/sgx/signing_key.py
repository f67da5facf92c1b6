"""The enclave signing key: RSA with 3072 bits and exponent 3, as EINIT requires. It stays with the owner.

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
    """Generate an enclave signing key and write it to ``path`` (PEM, PKCS#8, mode 0600).

    Raises:
        OutputExistsError: ``path`` already exists. A signing key is never overwritten.
    """
    key = rsa.generate_private_key(public_exponent=KEY_EXPONENT, key_size=KEY_BITS)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_file(path, pem, mode=PRIVATE, overwrite=False)
    return key


def load_signing_key(path: Path) -> rsa.RSAPrivateKey:
    """Load an enclave signing key.

    Raises:
        InputError: `signing-key.missing` if the file does not exist.
        InputError: `signing-key.invalid` if the file has other content.
    """
    try:
        key = serialization.load_pem_private_key(read_regular(path), password=None)
    except InputFileMissingError as error:
        raise SgxCode.SIGNING_KEY_MISSING.error(
            f"The enclave signing key {path} does not exist.",
            hint="Restore it from a backup. Enclaves with a new key require `sealserve broker allow`.",
        ) from error
    except (ValueError, TypeError) as error:
        raise SgxCode.SIGNING_KEY_INVALID.error(
            f"{path} is not an enclave signing key: expected an unencrypted PEM private key."
        ) from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise SgxCode.SIGNING_KEY_INVALID.error(
            f"{path} is not an enclave signing key: expected an RSA key, got another type of key."
        )
    check_signing_key(key, what=str(path))
    return key


def check_signing_key(key: rsa.RSAPrivateKey, *, what: str = "the enclave signing key") -> None:
    """Check that the processor accepts a signing key.

    Raises:
        InputError: `signing-key.invalid` if the key does not have 3072 bits and exponent 3.
    """
    exponent = key.public_key().public_numbers().e
    if key.key_size != KEY_BITS or exponent != KEY_EXPONENT:
        raise SgxCode.SIGNING_KEY_INVALID.error(
            f"SGX does not support {what}: expected RSA with {KEY_BITS} bits and exponent {KEY_EXPONENT}, got "
            f"{key.key_size} bits and exponent {exponent}."
        )
