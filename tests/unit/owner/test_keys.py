import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.harness.workspaces import Site

from sealserve.owner import keys as owner
from sealserve.owner.identity import IdentityLostError
from sealserve.owner.keys import OwnerKeyError

PKCS8 = serialization.PrivateFormat.PKCS8
PEM = serialization.Encoding.PEM


def private_pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(PEM, PKCS8, protection)


def public_pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_the_signing_key_is_made_once_and_its_public_half_is_the_hosts(site: Site) -> None:
    first = owner.index_signer(site.workspace)
    path = site.workspace.owner.index_signing_key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    site.workspace.host.owner_key.unlink()
    second = owner.index_signer(site.workspace)
    assert first.private_bytes_raw() == second.private_bytes_raw()
    assert owner.read_owner_key(site.workspace.host.owner_key) == first.public_key()
    assert b"PRIVATE" not in site.workspace.host.owner_key.read_bytes()


@pytest.mark.parametrize("evidence", ["host/owner.pub", "owner/releases/m-0123456789ab/release.json"])
def test_a_signing_key_that_was_lost_is_not_replaced(site: Site, evidence: str) -> None:
    """Another key would be another owner: no host would take what it signs."""
    site.workspace.create()
    path = site.workspace.root / evidence
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"what it signed")
    with pytest.raises(IdentityLostError, match="The key that signs releases is missing") as caught:
        owner.index_signer(site.workspace)
    assert (caught.value.code, caught.value.exit_status) == ("owner.identity-lost", 4)
    assert "`sealserve restore`" in str(caught.value.hint)
    assert not site.workspace.owner.index_signing_key.exists()
    assert path.read_bytes() == b"what it signed"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: b"no key", "holds no unencrypted key in PEM"),
        (lambda: private_pem(ec.generate_private_key(ec.SECP256R1())), "holds no Ed25519 key"),
        (lambda: private_pem(Ed25519PrivateKey.generate(), b"passphrase"), "holds no unencrypted key in PEM"),
    ],
    ids=["no key", "another kind", "encrypted"],
)
def test_a_signing_key_that_cannot_be_used(site: Site, content: Callable[[], bytes], message: str) -> None:
    site.workspace.owner.index_signing_key.write_bytes(content())
    with pytest.raises(OwnerKeyError, match=message) as caught:
        owner.index_signer(site.workspace)
    assert caught.value.code == "owner-key.unreadable"
    assert str(site.workspace.owner.index_signing_key) in caught.value.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: b"-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n", "holds no unencrypted key in PEM"),
        (lambda: public_pem(ec.generate_private_key(ec.SECP256R1())), "holds no Ed25519 public key"),
    ],
    ids=["damaged", "another kind"],
)
def test_an_owners_key_that_cannot_be_used(tmp_path: Path, content: Callable[[], bytes], message: str) -> None:
    path = tmp_path / "owner.pub"
    path.write_bytes(content())
    with pytest.raises(OwnerKeyError, match=message):
        owner.read_owner_key(path)


def test_an_owners_key_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OwnerKeyError, match=r"owner\.pub cannot be read: No such file") as caught:
        owner.read_owner_key(tmp_path / "owner.pub")
    assert "--owner-key" in (caught.value.hint or "")


def test_the_vault_is_made_on_first_use_and_private(site: Site) -> None:
    with owner.open_vault(site.workspace) as vault, vault.database.write() as connection:
        created = vault.keystore.create(connection, now=site.now)
    with owner.open_vault(site.workspace) as vault, vault.database.read() as connection:
        assert vault.keystore.load(connection, created.key_id) == created.key
    for path in (site.workspace.owner.master_key, site.workspace.owner.database):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert created.key.reveal() not in site.workspace.owner.database.read_bytes()
