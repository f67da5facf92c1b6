"""What the owner's other operations rest on: the broker's database with its keystore, and the signing keys."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sealserve import deployment
from sealserve.atomic_file import PRIVATE, OutputExistsError, write_file
from sealserve.broker.database import Database
from sealserve.broker.keystore import Keystore, open_keystore
from sealserve.broker.passphrase import ASK_PASSPHRASE, LONGEST_PASSPHRASE, Passphrase
from sealserve.broker.transit import TransitKey
from sealserve.deployment import KeystoreSection
from sealserve.errors import InputError
from sealserve.owner.identity import require_first_use
from sealserve.private_file import read_private
from sealserve.regular_file import InputFileError, read_regular
from sealserve.sealing.release_index import INDEX_FILE
from sealserve.workspace import Workspace


class OwnerKeyError(InputError):
    """A key of the owner's is missing, or no Ed25519 key."""

    code = "owner-key.unreadable"


@dataclass(frozen=True, slots=True)
class Vault:
    """The broker's database, and the keystore in it."""

    database: Database
    keystore: Keystore


@contextlib.contextmanager
def open_database(workspace: Workspace) -> Iterator[Database]:
    """Open the workspace's database alone, for what needs no key, and so no passphrase; it is made on first use.

    Raises:
        IdentityLostError: There is none, and there are releases whose keys it had, or a signed head of its audit log.
    """
    workspace.create()
    path = workspace.owner.database
    former = workspace.owner.former_database
    if not path.exists() and not former.exists():
        released = workspace.owner.releases.glob(f"*/{INDEX_FILE}")
        require_first_use("The broker's database", path, (*released, workspace.owner.audit_head))
    with Database.open(path, former=former) as database:
        yield database


@contextlib.contextmanager
def open_vault(workspace: Workspace) -> Iterator[Vault]:
    """Open the workspace's database, and its keystore as ``sealserve.toml`` describes it; both are made on first use.

    Raises:
        SealserveError: What `open_keystore` raises.
    """
    with contextlib.ExitStack() as stack:
        settings = keystore_settings(workspace)
        database = stack.enter_context(open_database(workspace))
        keystore = open_keystore(
            database,
            workspace.owner.master_key,
            passphrase=passphrase_source(settings),
            service=stack.enter_context(service) if (service := transit_key(settings)) else None,
            use_service=settings.kind == "transit",
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


def index_signer(workspace: Workspace, *, replace_lost: bool = False) -> Ed25519PrivateKey:
    """Return the key that signs indexes; on first use it is made, and its public half put where the host finds it.

    Args:
        workspace: The owner's.
        replace_lost: Make a key even where there was another one: the owner becomes another owner for the hosts.

    Raises:
        IdentityLostError: There is none, and there are releases that it signed, or its public half.
    """
    path = workspace.owner.index_signing_key
    if not path.exists() and not replace_lost:
        signed = workspace.owner.releases.glob(f"*/{INDEX_FILE}")
        require_first_use("The key that signs releases", path, (*signed, workspace.host.owner_key))
    signer = _signing_key(workspace, path)
    public = signer.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if not workspace.host.owner_key.is_file() or workspace.host.owner_key.read_bytes() != public:
        write_file(workspace.host.owner_key, public)
    return signer


def index_verifier(workspace: Workspace) -> Ed25519PublicKey:
    """Return the key that verifies the owner's indexes. Unlike `index_signer`, this makes and writes nothing.

    Raises:
        OwnerKeyError: There is neither the owner's key nor its public half.
    """
    path = workspace.owner.index_signing_key
    return _load_signing_key(path).public_key() if path.exists() else read_owner_key(workspace.host.owner_key)


def host_owner_key(workspace: Workspace) -> Path:
    """Return the file with the owner's public key at the host's, made again where only the signing key is there."""
    path = workspace.host.owner_key
    if not path.is_file() and workspace.owner.index_signing_key.is_file():
        workspace.create()
        index_signer(workspace)
    return path


def audit_signer(workspace: Workspace) -> Ed25519PrivateKey:
    """Return the key that signs heads of the audit log; on first use it is made.

    It signs nothing else, since the broker has it, which faces the network.

    Raises:
        IdentityLostError: There is none, and a head is kept that it signed.
    """
    path = workspace.owner.audit_signing_key
    if not path.exists():
        require_first_use("The key that signs the audit log", path, [workspace.owner.audit_head])
    return _signing_key(workspace, workspace.owner.audit_signing_key)


def former_audit_keys(workspace: Workspace) -> Sequence[Ed25519PublicKey]:
    """Return the keys that verify heads of earlier versions: the key of indexes signed these."""
    return [index_signer(workspace).public_key()] if workspace.owner.index_signing_key.exists() else []


def _signing_key(workspace: Workspace, path: Path) -> Ed25519PrivateKey:
    if not path.exists():
        workspace.create()
        signer = Ed25519PrivateKey.generate()
        content = signer.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            write_file(path, content, mode=PRIVATE, overwrite=False)
        except OutputExistsError:
            pass  # another process was faster: its key is the key
        else:
            return signer
    return _load_signing_key(path)


def _load_signing_key(path: Path) -> Ed25519PrivateKey:
    loaded = _load(path, lambda content: serialization.load_pem_private_key(content, password=None))
    if not isinstance(loaded, Ed25519PrivateKey):
        raise OwnerKeyError(f"{path} holds no Ed25519 key.")
    return loaded


def read_owner_key(path: Path) -> Ed25519PublicKey:
    """Return the owner's public key from a PEM file.

    Raises:
        OwnerKeyError: No such file, or another kind of key.
    """
    key = _load(path, serialization.load_pem_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise OwnerKeyError(f"{path} holds no Ed25519 public key.")
    return key


def _load(path: Path, load: Callable[[bytes], object]) -> object:
    try:
        return load(read_regular(path))
    except InputFileError as error:
        raise OwnerKeyError(
            f"The key {path} cannot be read: {error.reason}.",
            hint="The owner's public key is .sealserve/host/owner.pub; give another with --owner-key.",
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a passphrase
        raise OwnerKeyError(f"{path} holds no unencrypted key in PEM.") from error
