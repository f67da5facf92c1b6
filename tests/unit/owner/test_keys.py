from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.harness.errors import raises

from sealserve.owner import keys
from sealserve.owner.codes import OwnerCode

PKCS8 = serialization.PrivateFormat.PKCS8
PEM = serialization.Encoding.PEM


def private_pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(PEM, PKCS8, protection)


def public_pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_a_signing_key_that_exists_stays(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    keys.create_signer(path)
    first = keys.read_signer(path)
    keys.create_signer(path)
    assert keys.read_signer(path).private_bytes_raw() == first.private_bytes_raw()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: b"no key", "expected a PEM file with a key without a passphrase"),
        (lambda: private_pem(ec.generate_private_key(ec.SECP256R1())), "expected an Ed25519 private key"),
        (
            lambda: private_pem(Ed25519PrivateKey.generate(), b"passphrase"),
            "expected a PEM file with a key without a passphrase",
        ),
    ],
    ids=["no key", "another kind", "encrypted"],
)
def test_a_signing_key_that_cannot_be_used(tmp_path: Path, content: Callable[[], bytes], message: str) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content())
    with raises(OwnerCode.OWNER_KEY_UNREADABLE, match=message) as caught:
        keys.read_signer(path)
    assert caught.value.code == "owner-key.unreadable"
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda: b"-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n",
            "expected a PEM file with a key without a passphrase",
        ),
        (lambda: public_pem(ec.generate_private_key(ec.SECP256R1())), "expected an Ed25519 public key"),
    ],
    ids=["damaged", "another kind"],
)
def test_an_owners_key_that_cannot_be_used(tmp_path: Path, content: Callable[[], bytes], message: str) -> None:
    path = tmp_path / "owner.pub"
    path.write_bytes(content())
    with raises(OwnerCode.OWNER_KEY_UNREADABLE, match=message):
        keys.read_owner_key(path)


def test_an_owners_key_that_is_not_there(tmp_path: Path) -> None:
    with raises(OwnerCode.OWNER_KEY_UNREADABLE, match=r"owner\.pub cannot be read: No such file") as caught:
        keys.read_owner_key(tmp_path / "owner.pub")
    assert "--owner-key" in (caught.value.hint or "")
