import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from tests.harness.workspaces import Site

from sealserve.cli.demo import found_keys
from sealserve.cli.demo.found_keys import FoundKey, keys_in
from sealserve.sealing.release import VerifiedRelease

PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
PKCS8, SEC1 = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
PLAIN = serialization.NoEncryption()
KEY = ec.derive_private_key(7, ec.SECP256R1())


@pytest.mark.parametrize(
    "content",
    [
        KEY.private_bytes(PEM, PKCS8, PLAIN),
        KEY.private_bytes(PEM, SEC1, PLAIN),
        b"chain\n" + KEY.private_bytes(PEM, PKCS8, PLAIN) + b"more\n",
        b'server_key: "' + KEY.private_bytes(PEM, PKCS8, PLAIN).replace(b"\n", b"\\n") + b'"',
        KEY.private_bytes(DER, PKCS8, PLAIN),
        b"\0" * 100 + KEY.private_bytes(DER, SEC1, PLAIN) + b"\0" * 100,
    ],
)
def test_a_key_is_found_however_it_is_written(content: bytes) -> None:
    (found,) = keys_in(content, "a file")
    assert found.public == FoundKey.of(KEY, "").public
    assert found.place == "a file"
    assert "private" not in repr(found).lower()


@pytest.mark.parametrize("key", [Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1())])
def test_keys_of_other_kinds_count(key: PrivateKeyTypes) -> None:
    (found,) = keys_in(key.private_bytes(PEM, PKCS8, PLAIN), "a file")
    assert found.public == FoundKey.of(key, "").public
    again = serialization.load_pem_private_key(found.pem(), password=None)
    assert FoundKey.of(again, "").public == found.public


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nnot a key\n-----END PRIVATE KEY-----\n",
        KEY.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"passphrase")),
        b"\x02\x01\x01\x04\x20" + bytes(32),
        b"\x02\x01\x01\x04\x20" + b"\xff" * 32,
    ],
)
def test_what_is_not_a_key_is_ignored(content: bytes) -> None:
    assert list(keys_in(content, "a file")) == []


def test_the_owners_keystore_and_the_sealed_files_are_searched_too(site: Site, released: VerifiedRelease) -> None:
    found = found_keys.search(site.workspace, [released.folder])
    places = {key.place for key in found.keys}
    assert "the owner's keystore" in places  # the private key of the issuing CA
    assert {"owner/enclave-signing-key.pem", "owner/authorities/service/ca.key"} <= places
    assert found.opened == len(released.index.files)
    assert found.files > len(places)
