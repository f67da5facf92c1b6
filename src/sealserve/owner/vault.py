"""The keystore of a workspace, opened with the settings of ``sealserve.toml``."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from sealserve import deployment
from sealserve.broker.database import Database
from sealserve.broker.keystore import Keystore, open_keystore
from sealserve.broker.passphrase import ASK_PASSPHRASE, LONGEST_PASSPHRASE, Passphrase
from sealserve.broker.transit import TransitKey
from sealserve.deployment import KeystoreSection
from sealserve.private_file import read_private
from sealserve.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Vault:
    """The broker's database, and the keystore in it."""

    database: Database
    keystore: Keystore


@contextlib.contextmanager
def unlocked(workspace: Workspace, database: Database, *, create: bool) -> Iterator[Vault]:
    """Yield the keystore in a workspace's database.

    Args:
        workspace: Supplies the settings and the master key.
        database: Contains the encrypted keys.
        create: Create a master key if none exists and no stored key needs one.

    Raises:
        SealserveError: As `open_keystore`.
    """
    settings = keystore_settings(workspace)
    with contextlib.ExitStack() as stack:
        keystore = open_keystore(
            database,
            workspace.owner.master_key,
            passphrase=passphrase_source(settings),
            service=stack.enter_context(service) if (service := transit_key(settings)) else None,
            use_service=settings.kind == "transit",
            create=create,
        )
        yield Vault(database, keystore)


def keystore_settings(workspace: Workspace) -> KeystoreSection:
    """Return the keystore's settings from ``sealserve.toml``, or the defaults if the file does not exist."""
    path = workspace.deployment_file
    return deployment.read(path).keystore if path.is_file() else KeystoreSection()


def passphrase_source(settings: KeystoreSection) -> Passphrase:
    """Return the source of the master key's passphrase: a file, else a prompt at the terminal, else an error."""
    path = settings.passphrase_file
    if path is not None:
        return lambda: read_private(path, what="passphrase", limit=LONGEST_PASSPHRASE)
    return ASK_PASSPHRASE.get()


def transit_key(settings: KeystoreSection) -> TransitKey | None:
    """Return the key of the key management service in the settings, or None without such a service."""
    if settings.transit_url is None or settings.transit_token_file is None:
        return None
    return TransitKey(
        settings.transit_url,
        mount=settings.transit_mount,
        key=settings.transit_key,
        token_file=settings.transit_token_file,
        ca_file=settings.transit_ca_file,
        namespace=settings.transit_namespace,
    )
