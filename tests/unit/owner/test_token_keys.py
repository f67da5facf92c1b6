import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.harness.errors import raises
from tests.harness.workspaces import Site

from sealserve.attestation.codes import AttestationCode
from sealserve.attestation.json_web_keys import JsonWebKey, JsonWebKeySet
from sealserve.owner import broker_files
from sealserve.owner.codes import OwnerCode
from sealserve.owner.identity import IdentityLostError
from sealserve.owner.owner import Owner
from sealserve.owner.token_keys import create_token_key, published_keys, rotate_token_key, token_signer


def test_the_key_is_created_once_and_published(site: Site) -> None:
    Owner.create(site.workspace)
    path = site.workspace.owner.token_signing_key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = path.read_bytes()
    create_token_key(site.workspace)
    assert path.read_bytes() == first
    assert b"PRIVATE" not in site.workspace.owner.token_keys.read_bytes()
    (published,) = published_keys(site.workspace).keys
    assert published.key_id == JsonWebKey(token_signer(site.workspace).public_key()).key_id


def test_an_earlier_workspace_gets_the_key_for_a_broker_that_runs_elsewhere(site: Site) -> None:
    Owner.create(site.workspace)
    site.workspace.owner.token_signing_key.unlink()
    site.workspace.owner.token_keys.unlink()
    with raises(OwnerCode.OWNER_KEY_UNREADABLE, match="does not exist"):
        token_signer(site.workspace)
    with Owner.open(site.workspace).vault(create=True):
        broker_files.make_ready(site.workspace)
    assert token_signer(site.workspace)


def test_a_lost_key_is_not_replaced(site: Site) -> None:
    Owner.create(site.workspace)
    site.workspace.owner.token_signing_key.unlink()
    with raises(IdentityLostError, match="The key that signs attestation results is missing"):
        create_token_key(site.workspace)


def test_a_rotation_keeps_the_former_key_published(site: Site) -> None:
    Owner.create(site.workspace)
    (old,) = published_keys(site.workspace).keys
    current, former = rotate_token_key(site.workspace).keys
    assert former.key_id == old.key_id
    assert current.key_id == JsonWebKey(token_signer(site.workspace).public_key()).key_id != old.key_id
    assert stat.S_IMODE(site.workspace.owner.token_signing_key.stat().st_mode) == 0o600
    for _ in range(40):
        rotate_token_key(site.workspace)
    assert len(published_keys(site.workspace).keys) == 32


def test_a_stolen_key_is_removed_with_all_former_keys(site: Site) -> None:
    Owner.create(site.workspace)
    rotate_token_key(site.workspace)
    stolen = {key.key_id for key in published_keys(site.workspace).keys}
    (current,) = rotate_token_key(site.workspace, compromised=True).keys
    assert current.key_id not in stolen


def test_an_interrupted_rotation_leaves_every_key_published(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    Owner.create(site.workspace)
    (old,) = published_keys(site.workspace).keys
    path = site.workspace.owner.token_signing_key
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("sealserve.owner.token_keys._pem", fail)
        with pytest.raises(KeyboardInterrupt):
            rotate_token_key(site.workspace)
    assert path.read_bytes() == before
    assert published_keys(site.workspace).keys[0].key_id == old.key_id
    current, *former = rotate_token_key(site.workspace).keys
    assert old.key_id in {key.key_id for key in former}
    assert current.key_id not in {key.key_id for key in former}


@pytest.mark.parametrize("key", [Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())])
def test_another_kind_of_key_is_rejected(site: Site, key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
    Owner.create(site.workspace)
    site.workspace.owner.token_signing_key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with raises(OwnerCode.OWNER_KEY_UNREADABLE, match="expected a P-256 private key"):
        token_signer(site.workspace)


def test_a_changed_key_set_is_rejected(site: Site) -> None:
    Owner.create(site.workspace)
    site.workspace.owner.token_keys.write_bytes(b'{"keys":[]}')
    with raises(AttestationCode.JWKS_FORM):
        published_keys(site.workspace)
    other = JsonWebKeySet([JsonWebKey(ec.generate_private_key(ec.SECP256R1()).public_key())])
    site.workspace.owner.token_keys.write_bytes(other.to_bytes().replace(b"P-256", b"P-384"))
    with raises(AttestationCode.JWKS_KEY):
        published_keys(site.workspace)
