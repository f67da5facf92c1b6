"""The owner of a workspace. `Owner.create` creates the signing keys; `Owner.open` only reads them."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sealserve.atomic_file import write_file
from sealserve.broker.database import Database
from sealserve.enclave.measurement import SIGSTRUCT_SUFFIX
from sealserve.owner.identity import require_first_use
from sealserve.owner.keys import create_signer, public_pem, read_owner_key, read_signer
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
        """Create the folders, and the keys that sign releases and the audit log, if they do not exist.

        Raises:
            IdentityLostError: A key is missing, but a file that it signed exists.
        """
        owner = cls(workspace)
        owner.create_index_key()
        owner.create_audit_key()
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
    def database(self, *, create: bool = False) -> Iterator[Database]:
        """Open only the broker's database, for operations that do not need the keystore and its passphrase.

        Args:
            create: Create the database if it does not exist. Otherwise, a database that was never created is opened as
                an empty read-only database in memory.

        Raises:
            IdentityLostError: The database is missing, but releases whose keys it contained, or a signed head of its
                log, exist.
        """
        path, former = self.workspace.owner.database, self.workspace.owner.former_database
        if not path.exists() and not former.exists():
            released = self.workspace.owner.releases.glob(f"*/{INDEX_FILE}")
            require_first_use("The broker's database", path, (*released, self.workspace.owner.audit_head))
            if not create:
                with Database.empty(str(path)) as database:
                    yield database
                return
            _LOG.info("creating the broker's database %s", path)
        if not path.exists():
            self.workspace.create()  # a workspace of an earlier version does not have the database's folder
        with Database.open(path, former=former) as database:
            yield database

    @contextlib.contextmanager
    def vault(self, *, create: bool = False) -> Iterator[Vault]:
        """Open the broker's database, and its keystore with the settings of ``sealserve.toml``.

        Args:
            create: Create the database and the master key if they do not exist.

        Raises:
            SealserveError: As `database` and `open_keystore`.
        """
        with self.database(create=create) as database, unlocked(self.workspace, database, create=create) as vault:
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
