"""Replace the master key, its passphrase, or both by a key management service."""

from collections.abc import Callable
from dataclasses import dataclass

from sealserve.broker import keystore
from sealserve.broker.master_key import needs_passphrase, raw, under_passphrase
from sealserve.broker.passphrase import Passphrase
from sealserve.owner.codes import OwnerCode
from sealserve.owner.owner import Owner
from sealserve.owner.vault import keystore_settings, passphrase_source, transit_key
from sealserve.secret import SecretBytes
from sealserve.workspace import Workspace

SHORTEST_PASSPHRASE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatedMasterKey:
    """The new master key.

    Args:
        place: The master key file, or the key of a key management service.
        under_passphrase: Whether the file needs a passphrase.
        keys: Number of release keys that it encrypts.
    """

    place: str
    under_passphrase: bool
    keys: int


def rotate(
    workspace: Workspace, *, new_passphrase: Passphrase | None = None, without_passphrase: bool = False
) -> RotatedMasterKey:
    """Encrypt all release keys again: under a new master key, or by the key management service in ``sealserve.toml``.

    Args:
        workspace: The owner's workspace.
        new_passphrase: Source of the new passphrase. None means the former passphrase, if there was one.
        without_passphrase: Store the new master key without a passphrase.

    Raises:
        InputError: `keystore.passphrase-short`: The new passphrase has fewer than 12 bytes.
        KeyUnwrapError: A stored key cannot be decrypted. Nothing was changed.
        SealserveError: As `Owner.vault`.
    """
    settings = keystore_settings(workspace)
    path = workspace.owner.master_key
    with Owner.open(workspace).vault(create=True) as vault:
        # With a key management service, the service encrypts the release keys, and no key file is written.
        if settings.kind == "transit" and (service := transit_key(settings)) is not None:
            with service:
                count = keystore.rewrap(vault.database, vault.keystore, service)
            return RotatedMasterKey(place=repr(service), under_passphrase=False, keys=count)
        # The new file needs a passphrase if the caller gives one, or if the old file needs one.
        had_one = path.exists() and needs_passphrase(path.read_bytes())
        source = None if without_passphrase else new_passphrase or (passphrase_source(settings) if had_one else None)
        form: Callable[[SecretBytes], bytes] = raw
        if source is not None:
            passphrase = source()
            if len(passphrase) < SHORTEST_PASSPHRASE:
                raise OwnerCode.KEYSTORE_PASSPHRASE_SHORT.error(
                    f"The new passphrase is too short: expected at least {SHORTEST_PASSPHRASE} bytes, got "
                    f"{len(passphrase)}.",
                    hint="Choose a longer passphrase.",
                )

            def form(key: SecretBytes) -> bytes:
                with passphrase:
                    return under_passphrase(key, passphrase)

        # Write the new file beside the old one, encrypt every key again, then replace the old file.
        count = keystore.rotate_master_key(vault.database, vault.keystore, path, form=form)
    return RotatedMasterKey(place=str(path), under_passphrase=source is not None, keys=count)


def complete_rotation(workspace: Workspace) -> None:
    """Complete an interrupted rotation of the master key, if there was one.

    Raises:
        SealserveError: As `Owner.vault`.
    """
    if keystore.is_rotation_unfinished(workspace.owner.master_key):
        with Owner.open(workspace).vault():  # opening the keystore completes the rotation
            pass
