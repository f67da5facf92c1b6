"""The workspace: ``.sealserve/`` beside ``sealserve.toml``, with one folder per machine.

``owner/`` never leaves the owner's machine. ``host/`` and ``user/`` are copied to the other two machines. ``vendor/``
exists only in simulation. It stands in for the processor vendor, whom all three parties trust to certify processors.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from sealserve.errors import InputError
from sealserve.held_tree import held

FOLDER = ".sealserve"
DEPLOYMENT_FILE = "sealserve.toml"


class WorkspaceMissingError(InputError):
    """The folder and its parents do not contain a workspace (a sealserve.toml file)."""

    code = "workspace.missing"


@dataclass(frozen=True, slots=True)
class OwnerFolder:
    """The owner's folder: keys, certificate authorities, the broker's database, and releases as built."""

    root: Path

    @property
    def master_key(self) -> Path:
        """The master key file. The master key, 32 bytes, encrypts the stored release keys."""
        return self.root / "master.key"

    @property
    def database(self) -> Path:
        """The broker's SQLite database. Its folder contains nothing else, because the broker's container mounts it."""
        return self.root / "database" / "broker.sqlite"

    @property
    def former_database(self) -> Path:
        """The path of the broker's database in earlier versions."""
        return self.root / "broker.sqlite"

    @property
    def audit_head(self) -> Path:
        """The newest signed head of the audit log, outside the database. Its folder contains nothing else."""
        return self.root / "audit" / "head.json"

    @property
    def collateral(self) -> Path:
        """The collateral that the broker downloaded. Each file can be downloaded again, and contains no secret."""
        return self.root / "collateral"

    @property
    def audit_signing_key(self) -> Path:
        """The key that signs only heads of the audit log: Ed25519, PEM."""
        return self.root / "audit-signing-key.pem"

    @property
    def row_key(self) -> Path:
        """The key that authenticates the rows of the broker's database, which does not contain it: 32 bytes, hex."""
        return self.root / "row-key"

    @property
    def token_signing_key(self) -> Path:
        """The key that signs only attestation results: P-256, PEM."""
        return self.root / "token-signing-key.pem"

    @property
    def token_keys(self) -> Path:
        """The published public keys that verify attestation results, as a JWK set. It contains no secret."""
        return self.root / "token-keys.json"

    @property
    def authorities(self) -> Path:
        """The folder of the certificate authorities: ``broker``, ``service``, ``users``."""
        return self.root / "authorities"

    @property
    def issuing(self) -> Path:
        """The certificate of the issuing CA, for attested serving. Its private key is in the keystore."""
        return self.root / "issuing"

    @property
    def users(self) -> Path:
        """The register of users, and one folder per user with the user's certificate and key."""
        return self.root / "users"

    @property
    def administrators_authority(self) -> Path:
        """The certificate authority of the broker's administrators, with its private key."""
        return self.root / "administrators-authority"

    @property
    def administrators(self) -> Path:
        """The register of administrators, and what the broker needs to verify them. It contains no private key."""
        return self.root / "administrators"

    @property
    def broker_tls(self) -> Path:
        """The broker's TLS certificate and private key."""
        return self.root / "broker-tls"

    @property
    def enclave_signing_key(self) -> Path:
        """The key that signs SIGSTRUCTs: RSA-3072 with exponent 3, PEM."""
        return self.root / "enclave-signing-key.pem"

    @property
    def index_signing_key(self) -> Path:
        """The key that signs release indexes and enclave indexes: Ed25519, PEM."""
        return self.root / "index-signing-key.pem"

    @property
    def models(self) -> Path:
        """The plaintext models as SavedModels: ``NAME/VERSION/saved_model.pb``."""
        return self.root / "models"

    @property
    def releases(self) -> Path:
        """The releases as built, one folder per release."""
        return self.root / "releases"

    @property
    def provenance(self) -> Path:
        """The records of the sources of releases and models: ``releases/NAME.json``, ``models/NAME/VERSION.json``."""
        return self.root / "provenance"

    @property
    def trust(self) -> Path:
        """The trusted root certificates for quotes, DER: ``simulated-root.der``."""
        return self.root / "trust"

    @property
    def images(self) -> Path:
        """The data about container images: bills of materials, inventories, digests."""
        return self.root / "images"

    @property
    def logs(self) -> Path:
        """The folder of the broker's log."""
        return self.root / "logs"


@dataclass(frozen=True, slots=True)
class HostFolder:
    """The host's folder. It contains no secrets, because the host can read its files."""

    root: Path

    @property
    def releases(self) -> Path:
        """The shipped releases, each with its ``enclave/`` folder."""
        return self.root / "releases"

    @property
    def platform(self) -> Path:
        """The simulated processor and quoting enclave. On an SGX machine, hardware has this role."""
        return self.root / "platform"

    @property
    def run(self) -> Path:
        """Sockets, NGINX's configuration, and the record of the running processes."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        """The logs, one per process of the host."""
        return self.root / "logs"

    @property
    def owner_key(self) -> Path:
        """The owner's Ed25519 public key (PEM), which verifies release indexes and enclave indexes."""
        return self.root / "owner.pub"


@dataclass(frozen=True, slots=True)
class UserFolder:
    """The user's folder: the files that a client needs."""

    root: Path

    @property
    def service_ca(self) -> Path:
        """The certificate of the CA that signs the service's certificates, PEM."""
        return self.root / "service-ca.pem"

    @property
    def certificate(self) -> Path:
        """The user's certificate chain for two-way TLS, PEM."""
        return self.root / "client.pem"

    @property
    def key(self) -> Path:
        """The user's private key for two-way TLS, PEM, mode 0600."""
        return self.root / "client.key"


@dataclass(frozen=True, slots=True)
class VendorFolder:
    """The simulated processor vendor: its certificate authorities and the data that its service publishes."""

    root: Path


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace and the deployment file beside it.

    Args:
        directory: The folder that contains ``sealserve.toml`` and ``.sealserve/``.
    """

    directory: Path

    @property
    def root(self) -> Path:
        """The folder ``.sealserve/``."""
        return self.directory / FOLDER

    @property
    def deployment_file(self) -> Path:
        """The path of ``sealserve.toml``."""
        return self.directory / DEPLOYMENT_FILE

    @property
    def owner(self) -> OwnerFolder:
        """The owner's folder, which stays on the owner's machine."""
        return OwnerFolder(self.root / "owner")

    @property
    def host(self) -> HostFolder:
        """The folder that is copied to the host."""
        return HostFolder(self.root / "host")

    @property
    def user(self) -> UserFolder:
        """The folder that is copied to the user."""
        return UserFolder(self.root / "user")

    @property
    def vendor(self) -> VendorFolder:
        """The folder of the simulated vendor."""
        return VendorFolder(self.root / "vendor")

    def create(self) -> None:
        """Create the missing folders. The folders of owner, user and vendor are accessible only to their owner."""
        make_folders(self.root)


def make_folders(root: Path) -> None:
    """Create the missing folders of a workspace in ``root``, its ``.sealserve/`` folder."""
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
                   owner.audit_head.parent, owner.collateral, host.releases, host.logs):  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
    _make_private(host.run)
    if not (marker := root / ".gitignore").exists():
        marker.write_text("# Never commit keys and releases to a repository.\n*\n")


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    for found in held(folder):
        if found.is_folder:
            found.change_mode(0o700)


def find(start: Path) -> Workspace:
    """Return the workspace of ``start`` or of its nearest parent folder that has one.

    Raises:
        WorkspaceMissingError: Neither ``start`` nor a parent folder contains ``sealserve.toml``.
    """
    here = Path(os.path.abspath(start))  # noqa: PTH100  # preserves links in the path that the user gave
    for folder in (here, *here.parents):
        if (folder / DEPLOYMENT_FILE).is_file():
            return Workspace(folder)
    raise WorkspaceMissingError(
        f"No workspace found: {here} and its parent folders do not contain {DEPLOYMENT_FILE}.",
        hint="Run `sealserve init` to create the file, or specify the folder with --directory.",
    )
