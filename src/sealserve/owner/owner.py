"""The owner of a workspace. `Owner.create` creates the signing keys; `Owner.open` only reads them."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sealserve.atomic_file import write_file
from sealserve.broker import audit
from sealserve.broker.database import Database
from sealserve.broker.head_file import keep_head
from sealserve.enclave.measurement import SIGSTRUCT_SUFFIX
from sealserve.errors import SealserveError
from sealserve.owner.broker_database import is_shared, open_database
from sealserve.owner.identity import require_first_use
from sealserve.owner.keys import create_signer, public_pem, read_owner_key, read_signer
from sealserve.owner.row_key import authenticate
from sealserve.owner.token_keys import create_token_key
from sealserve.owner.vault import Vault, unlocked
from sealserve.sealing.release_index import ENCLAVE_FOLDER, INDEX_FILE
from sealserve.sgx.signing_key import create_signing_key
from sealserve.workspace import Workspace

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner's keys and the broker's database in a workspace.

    A method creates something only if its name or its argument ``create`` states this. A secret is checked only when it
    is used: for example, reading the audit log does not need a signing key.
    """

    workspace: Workspace

    @classmethod
    def create(cls, workspace: Workspace) -> Self:
        """Create the folders, and the keys that sign releases, the audit log and attestation results, if missing.

        Raises:
            IdentityLostError: A key is missing, but a file that it signed exists.
        """
        owner = cls(workspace)
        owner.create_index_key()
        owner.create_audit_key()
        create_token_key(workspace)
        return owner

    @classmethod
    def open(cls, workspace: Workspace) -> Self:
        """Return the owner of a workspace. Neither this method nor a method that only reads creates files."""
        return cls(workspace)

    def create_index_key(self, *, replace_lost: bool = False) -> None:
        """Create the key that signs releases, if it does not exist, and publish its public half.

        Args:
            replace_lost: Create a new key even if a former key was lost. Hosts then see another owner, and need the new
                public key.

        Raises:
            IdentityLostError: The key is missing, but its public key or releases that it signed exist.
        """
        self.workspace.create()
        if not replace_lost:
            self._check_index_key()
        if not self.workspace.owner.index_signing_key.exists():
            create_signer(self.workspace.owner.index_signing_key)
        self.publish_key()

    def publish_key(self) -> None:
        """Write the public key to the host's folder, if the file is missing or different. Without a key, do nothing."""
        if self.workspace.owner.index_signing_key.is_file():
            public, path = public_pem(self.index_signer().public_key()), self.workspace.host.owner_key
            if not path.is_file() or path.read_bytes() != public:
                write_file(path, public)

    def create_audit_key(self) -> None:
        """Create the key that signs the audit log, if it does not exist. Earlier versions did not have this key.

        Raises:
            IdentityLostError: The key is missing, but a stored head that it signed exists.
        """
        self.workspace.create()
        self._check_audit_key()
        if not self.workspace.owner.audit_signing_key.exists():
            create_signer(self.workspace.owner.audit_signing_key)

    def create_enclave_key(self, *, replace_lost: bool = False) -> Path:
        """Create the key that signs enclaves, if it does not exist, and return its file.

        Args:
            replace_lost: Create a new key even if a former key was lost.

        Raises:
            IdentityLostError: The key is missing, but enclaves that it signed exist.
        """
        path = self.workspace.owner.enclave_signing_key
        if not path.exists():
            signed = self.workspace.owner.releases.glob(f"*/{ENCLAVE_FOLDER}/*{SIGSTRUCT_SUFFIX}")
            require_first_use("The key that signs enclaves", path, () if replace_lost else signed)
            create_signing_key(path)
            _LOG.info("created the signing key %s", path)
        return path

    def index_signer(self) -> Ed25519PrivateKey:
        """Return the key that signs the indexes of releases and enclaves.

        Raises:
            IdentityLostError: The key is missing, but its public key or releases that it signed exist.
            InputError: `owner-key.unreadable`: The key was never created, or is another kind of key.
        """
        self._check_index_key()
        return read_signer(self.workspace.owner.index_signing_key)

    def public_key(self) -> Ed25519PublicKey:
        """Return the public key that verifies the signatures of `index_signer`.

        On the owner's machine, the key is derived from the signing key. A program that can write to the host's folder
        therefore cannot replace the owner's key. A machine that is only the host reads the key from the host's folder.

        Raises:
            InputError: `owner-key.unreadable`: Neither the signing key nor the public key exists.
        """
        if self.workspace.owner.index_signing_key.is_file():
            return self.index_signer().public_key()
        return read_owner_key(self.workspace.host.owner_key)

    def audit_signer(self) -> Ed25519PrivateKey:
        """Return the key that signs heads of the audit log.

        The key is used for nothing else, because the broker, which is exposed to the network, has access to it.

        Raises:
            IdentityLostError: The key is missing, but a stored head that it signed exists.
            InputError: `owner-key.unreadable`: The key was never created, or is another kind of key.
        """
        self._check_audit_key()
        return read_signer(self.workspace.owner.audit_signing_key)

    def audit_keys(self) -> Sequence[Ed25519PublicKey]:
        """Return the keys that verify heads of the audit log: the current key first, then the key of earlier versions.

        Raises:
            IdentityLostError: The current key is missing, but a stored head that it signed exists.
        """
        self._check_audit_key()
        folder = self.workspace.owner
        signers = [read_signer(path) for path in (folder.audit_signing_key, folder.index_signing_key) if path.exists()]
        # Without any key, every signature in the database is invalid: a new, unused key rejects all of them.
        return [signer.public_key() for signer in signers or [Ed25519PrivateKey.generate()]]

    @contextlib.contextmanager
    def database(self, *, create: bool = False, create_row_key: bool = True) -> Iterator[Database]:
        """Open only the broker's database, for operations that do not need the keystore and its passphrase.

        Args:
            create: Create the database if it does not exist. Otherwise, a database that was never created is opened as
                an empty read-only database in memory.
            create_row_key: Create the key that authenticates rows, if it never existed.

        Raises:
            SealserveError: As `open_database` and `authenticate`.
        """
        with open_database(self.workspace, create=create) as database:
            if database.exists:
                shared = is_shared(self.workspace)
                authenticate(self.workspace, database, shared=shared, create=create_row_key)
            yield database
            self.keep_head(database)

    def keep_head(self, database: Database) -> None:
        """Store the end of the audit log outside of the database, so that a later rollback of a change is detected.

        Nothing is stored if this process has changed nothing since the last call. A failure is logged.
        """
        if database.history is None or not database.history.changed:
            return
        database.history.changed = False
        try:
            self.create_audit_key()
            with database.write() as connection:
                head = audit.sign_head(connection, self.audit_signer(), now=datetime.now(UTC))
            keep_head(self.workspace.owner.audit_head, database, head)
        except SealserveError as error:  # the change itself is committed
            _LOG.error("the head of the audit log could not be stored outside of the database: %s", error.message)

    @contextlib.contextmanager
    def vault(self, *, create: bool = False, create_master_key: bool | None = None) -> Iterator[Vault]:
        """Open the broker's database, and its keystore with the settings of ``sealserve.toml``.

        Args:
            create: Create the database and the master key if they do not exist.
            create_master_key: The same for the master key alone. None means the value of ``create``.

        Raises:
            SealserveError: As `database` and `open_keystore`.
        """
        new_key = create if create_master_key is None else create_master_key
        with self.database(create=create) as database, unlocked(self.workspace, database, create=new_key) as vault:
            yield vault

    def _check_index_key(self) -> None:
        path = self.workspace.owner.index_signing_key
        if not path.exists():
            signed = self.workspace.owner.releases.glob(f"*/{INDEX_FILE}")
            require_first_use("The key that signs releases", path, (*signed, self.workspace.host.owner_key))

    def _check_audit_key(self) -> None:
        path = self.workspace.owner.audit_signing_key
        if not path.exists():
            require_first_use("The key that signs the audit log", path, [self.workspace.owner.audit_head])
