"""Put another master key in the place of the present one, or another passphrase, or a key management service."""

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
    """What encrypts the release keys now.

    Args:
        place: The file, or the key of a service.
        under_passphrase: Whether the file needs a passphrase.
        keys: How many release keys there are.
    """

    place: str
    under_passphrase: bool
    keys: int


def rotate(
    workspace: Workspace, *, new_passphrase: Passphrase | None = None, without_passphrase: bool = False
) -> RotatedMasterKey:
    """Encrypt all release keys again: under a fresh master key, or by the service that ``sealserve.toml`` names.

    Args:
        workspace: The owner's.
        new_passphrase: Gives the passphrase that the file needs from now on; by default that of before, if any.
        without_passphrase: The file is to need none.

    Raises:
        InputError: `keystore.passphrase-short`: The new passphrase has less than 12 bytes.
        KeyUnwrapError: A stored key does not decrypt. Nothing has changed.
        SealserveError: What `Owner.vault` raises.
    """
    settings = keystore_settings(workspace)
    path = workspace.owner.master_key
    with Owner.open(workspace).vault(create=True) as vault:
        # A key management service keeps its key to itself: it encrypts the release keys, and no file is written.
        if settings.kind == "transit" and (service := transit_key(settings)) is not None:
            with service:
                count = keystore.rewrap(vault.database, vault.keystore, service)
            return RotatedMasterKey(place=repr(service), under_passphrase=False, keys=count)
        # The new file needs a passphrase if one is given, or if the old file needs one.
        had_one = path.exists() and needs_passphrase(path.read_bytes())
        source = None if without_passphrase else new_passphrase or (passphrase_source(settings) if had_one else None)
        form: Callable[[SecretBytes], bytes] = raw
        if source is not None:
            passphrase = source()
            if len(passphrase) < SHORTEST_PASSPHRASE:
                raise OwnerCode.KEYSTORE_PASSPHRASE_SHORT.error(
                    f"A passphrase needs at least {SHORTEST_PASSPHRASE} bytes."
                )

            def form(key: SecretBytes) -> bytes:
                with passphrase:
                    return under_passphrase(key, passphrase)

        # Put the new file beside the old one, encrypt every key again, then replace the old file.
        count = keystore.rotate_master_key(vault.database, vault.keystore, path, form=form)
    return RotatedMasterKey(place=str(path), under_passphrase=source is not None, keys=count)


def complete_rotation(workspace: Workspace) -> None:
    """Complete a rotation of the master key that was interrupted, if there is one.

    Raises:
        SealserveError: What `Owner.vault` raises.
    """
    if keystore.is_rotation_unfinished(workspace.owner.master_key):
        with Owner.open(workspace).vault():  # opening the keystore completes it
            pass
