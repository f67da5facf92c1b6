"""The workspace: ``.sealserve/`` beside ``sealserve.toml``, one folder for each machine.

``owner/`` never leaves the owner's machine; ``host/`` and ``user/`` are what is copied to the other two. ``vendor/``
exists only in simulation: it stands for the processor's vendor, whom all three trust to tell a genuine processor.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from sealserve.errors import InputError
from sealserve.held_tree import held

FOLDER = ".sealserve"
DEPLOYMENT_FILE = "sealserve.toml"


class WorkspaceMissingError(InputError):
    """There is no workspace here."""

    code = "workspace.missing"


@dataclass(frozen=True, slots=True)
class OwnerFolder:
    """The owner's folder: keys, certificate authorities, the broker's database, releases as built."""

    root: Path

    @property
    def master_key(self) -> Path:
        """The key that encrypts the stored release keys, 32 bytes."""
        return self.root / "master.key"

    @property
    def database(self) -> Path:
        """The broker's SQLite database. Its folder holds nothing else: the broker's container mounts it."""
        return self.root / "database" / "broker.sqlite"

    @property
    def former_database(self) -> Path:
        """Where earlier versions kept the broker's database."""
        return self.root / "broker.sqlite"

    @property
    def audit_head(self) -> Path:
        """The newest signed head of the audit log, outside of the database. Its folder holds nothing else."""
        return self.root / "audit" / "head.json"

    @property
    def audit_signing_key(self) -> Path:
        """Ed25519, PEM: signs heads of the audit log, and nothing else."""
        return self.root / "audit-signing-key.pem"

    @property
    def authorities(self) -> Path:
        """One folder for each certificate authority: ``broker``, ``service``, ``users``."""
        return self.root / "authorities"

    @property
    def users(self) -> Path:
        """The register of users, and a folder with the certificate and key of each."""
        return self.root / "users"

    @property
    def broker_tls(self) -> Path:
        """The broker's own certificate and key."""
        return self.root / "broker-tls"

    @property
    def enclave_signing_key(self) -> Path:
        """RSA-3072 with exponent 3, PEM: signs SIGSTRUCTs."""
        return self.root / "enclave-signing-key.pem"

    @property
    def index_signing_key(self) -> Path:
        """Ed25519, PEM: signs release and bundle indexes."""
        return self.root / "index-signing-key.pem"

    @property
    def models(self) -> Path:
        """Plaintext models as SavedModels: ``NAME/VERSION/saved_model.pb``."""
        return self.root / "models"

    @property
    def releases(self) -> Path:
        """Releases as built, one folder each."""
        return self.root / "releases"

    @property
    def provenance(self) -> Path:
        """What releases and converted models were made from: ``releases/NAME.json``, ``models/NAME/VERSION.json``."""
        return self.root / "provenance"

    @property
    def trust(self) -> Path:
        """The root certificates that quotes are verified against, DER: ``simulated-root.der``."""
        return self.root / "trust"

    @property
    def images(self) -> Path:
        """What is known of the container images: bills of materials, inventories, digests."""
        return self.root / "images"

    @property
    def logs(self) -> Path:
        """The broker's log."""
        return self.root / "logs"


@dataclass(frozen=True, slots=True)
class HostFolder:
    """The host's folder: nothing in it is secret from the host, so nothing secret is in it."""

    root: Path

    @property
    def releases(self) -> Path:
        """Releases as shipped, each with its ``enclave/`` folder."""
        return self.root / "releases"

    @property
    def platform(self) -> Path:
        """The simulated processor and quoting enclave. On an SGX machine this is hardware."""
        return self.root / "platform"

    @property
    def run(self) -> Path:
        """Sockets, NGINX's configuration, and the record of what runs."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        """One log for each process of the host."""
        return self.root / "logs"

    @property
    def owner_key(self) -> Path:
        """The owner's Ed25519 public key (PEM): verifies release and bundle indexes."""
        return self.root / "owner.pub"


@dataclass(frozen=True, slots=True)
class UserFolder:
    """The user's folder: what a client needs."""

    root: Path

    @property
    def service_ca(self) -> Path:
        """The certificate of the authority that signs the service's certificates, PEM."""
        return self.root / "service-ca.pem"

    @property
    def certificate(self) -> Path:
        """The user's certificate chain for two-way TLS, PEM."""
        return self.root / "client.pem"

    @property
    def key(self) -> Path:
        """The user's private key for two-way TLS, PEM, 0600."""
        return self.root / "client.key"


@dataclass(frozen=True, slots=True)
class VendorFolder:
    """The simulated processor vendor: its certificate authorities and what its service publishes."""

    root: Path


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace and the deployment file beside it.

    Args:
        directory: The folder that holds ``sealserve.toml`` and ``.sealserve/``.
    """

    directory: Path

    @property
    def root(self) -> Path:
        """``.sealserve/``."""
        return self.directory / FOLDER

    @property
    def deployment_file(self) -> Path:
        """``sealserve.toml``."""
        return self.directory / DEPLOYMENT_FILE

    @property
    def owner(self) -> OwnerFolder:
        """What stays on the owner's machine."""
        return OwnerFolder(self.root / "owner")

    @property
    def host(self) -> HostFolder:
        """What goes to the host."""
        return HostFolder(self.root / "host")

    @property
    def user(self) -> UserFolder:
        """What goes to the user."""
        return UserFolder(self.root / "user")

    @property
    def vendor(self) -> VendorFolder:
        """The simulated vendor."""
        return VendorFolder(self.root / "vendor")

    def create(self) -> None:
        """Make the folders that are missing. Those of the owner, the user and the vendor are for their owner only."""
        make_folders(self.root)


def make_folders(root: Path) -> None:
    """Make the folders of a workspace that are missing in ``root``, which is or becomes its ``.sealserve/``."""
    owner, host, user, vendor = (
        OwnerFolder(root / "owner"),
        HostFolder(root / "host"),
        UserFolder(root / "user"),
        VendorFolder(root / "vendor"),
    )
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    for private in (owner.root, user.root, vendor.root):
        _make_private(private)
    for folder in (owner.authorities, owner.models, owner.releases, owner.trust, owner.logs, owner.database.parent,
                   owner.audit_head.parent, host.releases, host.logs):  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
    _make_private(host.run)
    if not (marker := root / ".gitignore").exists():
        marker.write_text("# keys and releases never belong in a repository\n*\n")


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    for found in held(folder):
        if found.is_folder:
            found.change_mode(0o700)


def find(start: Path) -> Workspace:
    """Return the workspace of ``start`` or of the nearest folder above it.

    Raises:
        WorkspaceMissingError: No ``sealserve.toml`` in ``start`` or above.
    """
    here = Path(os.path.abspath(start))  # noqa: PTH100  # links stay as the user wrote them
    for folder in (here, *here.parents):
        if (folder / DEPLOYMENT_FILE).is_file():
            return Workspace(folder)
    raise WorkspaceMissingError(
        f"No {DEPLOYMENT_FILE} in {here} or a folder above it.",
        hint="Run `sealserve init` to write one, or give the folder with --directory.",
    )
