"""The keystore of a workspace, as ``sealserve.toml`` describes it."""

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
        workspace: Whose settings and master key open the keystore.
        database: Holds the encrypted keys.
        create: Whether to create a master key if none exists and no stored key needs one.

    Raises:
        SealserveError: What `open_keystore` raises.
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
    """Return the settings of the keystore: those of ``sealserve.toml``, if there is one."""
    path = workspace.deployment_file
    return deployment.read(path).keystore if path.is_file() else KeystoreSection()


def passphrase_source(settings: KeystoreSection) -> Passphrase:
    """Return what gives the master key's passphrase: a file, the person at the terminal, or nobody."""
    path = settings.passphrase_file
    if path is not None:
        return lambda: read_private(path, what="passphrase", limit=LONGEST_PASSPHRASE)
    return ASK_PASSPHRASE.get()


def transit_key(settings: KeystoreSection) -> TransitKey | None:
    """Return the key of the key management service that the settings name, if they name one."""
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
