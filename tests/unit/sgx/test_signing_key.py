from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from tests.harness.errors import raises

from sealserve.atomic_file import OutputExistsError
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.signing_key import create_signing_key, load_signing_key


def pem(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_a_new_key_is_private_and_what_sgx_takes(tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"

    key = create_signing_key(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert key.key_size == 3072
    assert key.public_key().public_numbers().e == 3
    assert load_signing_key(path).public_key().public_numbers() == key.public_key().public_numbers()
    with pytest.raises(OutputExistsError, match=r"The output .*signing\.pem already exists"):
        create_signing_key(path)


def test_a_missing_key_is_said(tmp_path: Path) -> None:
    with raises(SgxCode.SIGNING_KEY_MISSING, match=r"The enclave signing key .*none\.pem does not exist") as caught:
        load_signing_key(tmp_path / "none.pem")
    assert caught.value.code == "signing-key.missing"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no key", "expected an unencrypted PEM private key"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "got another type of key"),
        (pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)), "got 2048 bits and exponent 65537"),
    ],
)
def test_another_file_is_no_signing_key(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "signing.pem"
    path.write_bytes(content)

    with raises(SgxCode.SIGNING_KEY_INVALID, match=message) as caught:
        load_signing_key(path)

    assert caught.value.code == "signing-key.invalid"
    assert str(path) in str(caught.value)
