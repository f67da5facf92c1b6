"""The owner's keys for attestation results: the broker's signing key, and the published set of public keys.

- ``owner/token-signing-key.pem`` (P-256, mode 0600) signs attestation results and nothing else. The broker reads it.
- ``owner/token-keys.json`` is the JWK set for verifiers: the current public key first, then former keys, whose tokens
  can still be valid. The broker does not read it.
"""

import logging
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sealserve.atomic_file import PRIVATE, OutputExistsError, write_file
from sealserve.attestation.json_web_keys import MAXIMUM_KEY_SET, MAXIMUM_KEYS, JsonWebKey, JsonWebKeySet
from sealserve.owner.codes import OwnerCode
from sealserve.owner.identity import require_first_use
from sealserve.owner.keys import load_key
from sealserve.regular_file import read_regular
from sealserve.workspace import Workspace

_LOG: Final = logging.getLogger(__name__)


def create_token_key(workspace: Workspace) -> None:
    """Create the token signing key and publish its public key, if the key does not exist.

    Raises:
        IdentityLostError: The key is missing, but its public key was published.
    """
    workspace.create()
    path, published = workspace.owner.token_signing_key, workspace.owner.token_keys
    if path.exists():
        return
    require_first_use("The key that signs attestation results", path, [published])
    try:
        write_file(path, _pem(ec.generate_private_key(ec.SECP256R1())), mode=PRIVATE, overwrite=False)
    except OutputExistsError:  # another process created it first
        return
    _LOG.info("created the token signing key %s", path)
    _publish(workspace, [_public(token_signer(workspace))])


def token_signer(workspace: Workspace) -> ec.EllipticCurvePrivateKey:
    """Return the token signing key.

    Raises:
        InputError: `owner-key.unreadable`: The file does not exist, or contains another kind of key.
    """
    path = workspace.owner.token_signing_key
    if not path.exists():
        raise OwnerCode.OWNER_KEY_UNREADABLE.error(
            f"The token signing key {path} does not exist.",
            hint="Copy the file from the owner's machine. If the broker's database is a file, `sealserve broker run` "
            "creates the key.",
        )
    key = load_key(path, lambda content: serialization.load_pem_private_key(content, password=None))
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise OwnerCode.OWNER_KEY_UNREADABLE.error(
            f"The token signing key {path} is of another kind: expected a P-256 private key.",
            hint="Restore the file from a backup.",
        )
    return key


def published_keys(workspace: Workspace) -> JsonWebKeySet:
    """Return the keys that verify the broker's attestation results, the current key first.

    Raises:
        InputError: `owner-key.unreadable`: The signing key does not exist.
        InputError: `jwks.form` or `jwks.key`: The file of the published keys was changed.
    """
    # The current key is derived from the signing key: an interrupted creation may not have published it.
    return JsonWebKeySet([_public(token_signer(workspace)), *_former(workspace)])


def rotate_token_key(
    workspace: Workspace, *, compromised: bool = False, record: Callable[[str], object] = lambda _: None
) -> JsonWebKeySet:
    """Replace the token signing key, and return the new set of published keys.

    Interrupting the rotation is safe: the old key is published as a former key before the new key replaces it.

    Args:
        workspace: The owner's workspace.
        compromised: Whether to remove all former keys from the published set, including the key that is replaced.
            Their tokens then no longer verify.
        record: Called with the id of the new key before a file changes. If it raises an error, no file changes.
    """
    replaced = token_signer(workspace)
    former = [] if compromised else [_public(replaced), *_former(workspace)]
    new = ec.generate_private_key(ec.SECP256R1())
    record(_public(new).key_id)
    # Publish both keys first. A published key without tokens is harmless. Tokens without their key would be rejected.
    _publish(workspace, [_public(new), *former])
    write_file(workspace.owner.token_signing_key, _pem(new), mode=PRIVATE)
    _LOG.info("replaced the token signing key %s", workspace.owner.token_signing_key)
    return published_keys(workspace)


def _former(workspace: Workspace) -> tuple[JsonWebKey, ...]:
    path = workspace.owner.token_keys
    return JsonWebKeySet.parse(read_regular(path, limit=MAXIMUM_KEY_SET)).keys if path.exists() else ()


def _publish(workspace: Workspace, keys: list[JsonWebKey]) -> None:
    newest = JsonWebKeySet(keys).keys[:MAXIMUM_KEYS]
    write_file(workspace.owner.token_keys, JsonWebKeySet(newest).to_bytes())


def _public(key: ec.EllipticCurvePrivateKey) -> JsonWebKey:
    return JsonWebKey(key.public_key())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
