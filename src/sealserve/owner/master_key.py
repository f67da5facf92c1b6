"""Replace the master key, its passphrase, or both by a key service."""

from collections.abc import Callable
from dataclasses import dataclass

from sealserve.broker import keystore
from sealserve.broker.master_key import needs_passphrase, raw, under_passphrase
from sealserve.broker.passphrase import Passphrase
from sealserve.owner.broker_database import is_shared
from sealserve.owner.codes import OwnerCode
from sealserve.owner.owner import Owner
from sealserve.owner.vault import keystore_settings, passphrase_source
from sealserve.secret import SecretBytes
from sealserve.workspace import Workspace

SHORTEST_PASSPHRASE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatedMasterKey:
    """The new master key.

    Args:
        place: The master key file, or the key of a key service.
        under_passphrase: Whether the file needs a passphrase.
        keys: Number of release keys that it encrypts.
        copy_to_others: Whether other machines with a broker need a copy of the new file.
    """

    place: str
    under_passphrase: bool
    keys: int
    copy_to_others: bool = False


def rotate(
    workspace: Workspace, *, new_passphrase: Passphrase | None = None, without_passphrase: bool = False
) -> RotatedMasterKey:
    """Encrypt all release keys again: under a new master key, or by the key service in ``sealserve.toml``.

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
        # With a key service, the service encrypts the release keys, and no key file is written.
        if vault.service is not None:
            count = keystore.rewrap(vault.database, vault.keystore, vault.service)
            return RotatedMasterKey(place=repr(vault.service), under_passphrase=False, keys=count)
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
    return RotatedMasterKey(
        place=str(path), under_passphrase=source is not None, keys=count, copy_to_others=is_shared(workspace)
    )


def complete_rotation(workspace: Workspace) -> None:
    """Complete an interrupted rotation of the master key, if there was one.

    Raises:
        SealserveError: As `Owner.vault`.
    """
    if keystore.is_rotation_unfinished(workspace.owner.master_key):
        with Owner.open(workspace).vault():  # opening the keystore completes the rotation
            pass
