"""The keystore of a workspace, opened with the settings of ``sealserve.toml``."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final

from sealserve import deployment
from sealserve.broker.current_keystore import CurrentKeystore
from sealserve.broker.database import Database
from sealserve.broker.key_wrapper import KeyWrapper
from sealserve.broker.keystore import Keystore, open_keystore, rotation_files
from sealserve.broker.passphrase import ASK_PASSPHRASE, LONGEST_PASSPHRASE, Passphrase, no_passphrase
from sealserve.deployment import KeystoreSection
from sealserve.owner.key_services import key_services
from sealserve.private_file import read_private
from sealserve.workspace import Workspace

_KEPT: Final = 2  # the present keystore, and the former keystore, which requests may still use


@dataclass(frozen=True, slots=True)
class Vault:
    """The broker's database, the keystore in it, and the key service that encrypts new keys, if any."""

    database: Database
    keystore: Keystore
    service: KeyWrapper | None


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
    with key_services(settings) as services:
        keystore = open_keystore(
            database,
            workspace.owner.master_key,
            passphrase=passphrase_source(settings),
            services=services.by_preference,
            current=services.current,
            create=create,
        )
        yield Vault(database, keystore, services.current)


@contextlib.contextmanager
def current(workspace: Workspace, database: Database, *, create_master_key: bool = True) -> Iterator[CurrentKeystore]:
    """Yield the keystore of a broker, which follows rotations of the master key and changes of ``[keystore]``.

    A missing master key is created at the start only. The terminal is asked for a passphrase at the start only.

    Raises:
        SealserveError: As `open_keystore`.
    """
    opened: list[contextlib.ExitStack] = []
    numbers = count()

    def reopen() -> Keystore:
        first = next(numbers) == 0
        # A prompt would block the thread, and a running service cannot expect a person at the terminal.
        token = None if first else ASK_PASSPHRASE.set(no_passphrase)
        try:
            with contextlib.ExitStack() as stack:
                vault = stack.enter_context(unlocked(workspace, database, create=first and create_master_key))
                opened.append(stack.pop_all())
        finally:
            if token is not None:
                ASK_PASSPHRASE.reset(token)
        if len(opened) > _KEPT:
            opened.pop(0).close()
        return vault.keystore

    try:
        yield CurrentKeystore(
            database, reopen, files=(*rotation_files(workspace.owner.master_key), workspace.deployment_file)
        )
    finally:
        for stack in opened:
            stack.close()


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
