"""The files that the broker's container needs to open the keystore. Each file that a setting names is mounted."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sealserve.addresses import is_loopback
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.container_layout import WORKSPACE_FOLDER
from sealserve.cluster.docker.parts import Mount
from sealserve.deployment import DatabaseSection, Deployment, KeystoreSection
from sealserve.deployment.sections.broker import BrokerSection, NotificationsTable
from sealserve.deployment.setting_files import SETTING_FILES
from sealserve.private_file import read_private_bytes
from sealserve.regular_file import read_regular
from sealserve.workspace import Workspace

FIELDS: Final = (*SETTING_FILES["keystore"], "pkcs11_pin_file")
DATABASE_FIELDS: Final = SETTING_FILES["database"]
_PLACE: Final = "/keystore"
_DATABASE_PLACE: Final = "/database"
COLLATERAL_CA: Final = "/collateral-ca.pem"
"""The path of ``broker.collateral_ca_file`` in the broker's container."""
NOTIFICATION_FIELDS: Final = ("secret_file", "ca_file")
_NOTIFICATION_PLACE: Final = "/notifications"
_LARGEST: Final = 64 * 2**10
_TEMPORARY: Final = "/tmp"  # noqa: S108  # the container's own folder
_OWN_PLACES: Final = (
    WORKSPACE_FOLDER, _PLACE, _DATABASE_PLACE, _NOTIFICATION_PLACE, COLLATERAL_CA, "/opt/sealserve", "/dev", "/proc",
    "/sys", "/etc/passwd", "/usr/bin", "/usr/lib/python3",
)  # fmt: skip
"""Paths of the broker's container that `keystore.pkcs11_files` must not hide."""


def place(name: str) -> str:
    """Return the path of a setting's file in the broker's container."""
    return f"{_PLACE}/{name}"


def mounts(settings: KeystoreSection) -> Iterator[Mount]:
    """Yield the mounts of the files that the settings name."""
    for name in FIELDS:
        path: Path | None = getattr(settings, name)
        if path is not None:
            yield Mount(source=path.resolve(), target=place(name))
    # The module of a PKCS#11 token, or its configuration, refers to its other files by their paths on this machine.
    for path in settings.pkcs11_files:
        yield Mount(source=path.resolve(), target=str(path))


def collateral_mounts(settings: BrokerSection) -> Iterator[Mount]:
    """Yield the mount of the CA certificate for a PCCS with a private certificate, if the settings name one."""
    if settings.collateral_ca_file is not None:
        yield Mount(source=settings.collateral_ca_file.resolve(), target=COLLATERAL_CA)


def collateral_facts(settings: BrokerSection) -> Mapping[str, str]:
    """Return the version of that CA certificate (see `versions`), as a fact of the container, or nothing."""
    files = [mount.source for mount in collateral_mounts(settings)]
    return {"collateral_ca": versions(files)} if files else {}


def database_mounts(settings: DatabaseSection) -> Iterator[Mount]:
    """Yield the mounts of the files that the settings of a database on a server name."""
    for name in DATABASE_FIELDS:
        path: Path | None = getattr(settings, name)
        if path is not None:
            yield Mount(source=path.resolve(), target=database_place(name))


def database_place(name: str) -> str:
    """Return the path of a file of the database's settings in the broker's container."""
    return f"{_DATABASE_PLACE}/{name}"


def database_facts(settings: DatabaseSection) -> Mapping[str, str]:
    """Return the version of these files (see `versions`), as a fact of the container, or nothing."""
    files = [mount.source for mount in database_mounts(settings)]
    return {"database": versions(files)} if files else {}


def notification_mounts(settings: NotificationsTable) -> Iterator[Mount]:
    """Yield the mounts of the files that the settings of the notifications name."""
    for name in NOTIFICATION_FIELDS:
        path: Path | None = getattr(settings, name)
        if settings.url is not None and path is not None:
            yield Mount(source=path.resolve(), target=notification_place(name))


def notification_place(name: str) -> str:
    """Return the path of a file of the notifications' settings in the broker's container."""
    return f"{_NOTIFICATION_PLACE}/{name}"


def notification_facts(settings: NotificationsTable) -> Mapping[str, str]:
    """Return the version of these files (see `versions`), as a fact of the container, or nothing."""
    files = [mount.source for mount in notification_mounts(settings)]
    return {"notifications": versions(files)} if files else {}


def version(settings: KeystoreSection) -> str:
    """Return a text that changes when a file that the settings name is replaced; see `versions`."""
    return versions(mount.source for mount in mounts(settings))


def versions(files: Iterable[Path]) -> str:
    """Return a text that changes when one of ``files`` is replaced, since a mount would still show the old file.

    The text is not a digest of the content, which would reveal information about a secret.
    """
    found = [path.stat() for path in files]
    return " ".join(f"{status.st_ino}:{status.st_mtime_ns}" for status in found)


def mounted(files: Iterable[Path]) -> str:
    """Return a text that changes when one of ``files`` is another file, but not when only its content was replaced.

    A mount shows the new content, so a program that watches the file needs no restart.
    """
    return " ".join(f"{path.stat().st_ino}" for path in files)


def leads_outside(deployment: Deployment) -> bool:
    """Return whether the broker must reach a key service, a database server or a notified service.

    A PKCS#11 module can be the client of a token in the network.
    """
    keystore = deployment.keystore
    outside = (
        keystore.transit_url,
        keystore.pkcs11_module,
        deployment.database.url,
        deployment.broker.notifications.url,
    )
    return any(place is not None for place in outside)


def check_notifications(settings: NotificationsTable, *, user: str) -> None:
    """Check that the broker's container can send notifications, before it starts.

    Args:
        settings: The notifications' settings.
        user: The container's user, ``UID:GID``.

    Raises:
        InputError: `target.unsupported` if it cannot. The message describes the required change.
        SealserveError: A file cannot be read, or other users can read the signing secret.
    """
    if settings.url is None or settings.secret_file is None:
        return
    if is_loopback(_host(settings.url)):
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            "broker.notifications.url is a loopback address, which refers to the broker's container itself.",
            hint="Set it to an https URL at which other machines reach the receiver.",
        )
    if settings.ca_file is not None:
        read_regular(settings.ca_file)
    read_private_bytes(settings.secret_file, what="signing secret", limit=_LARGEST)
    _check_owner(settings.secret_file, int(user.partition(":")[0]))


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # the broker reports the invalid URL
        return ""


def check_database(settings: DatabaseSection, *, user: str) -> None:
    """Check that the broker's container can reach a database on a server, before it starts.

    Args:
        settings: The database's settings.
        user: The container's user, ``UID:GID``.

    Raises:
        InputError: `target.unsupported` if it cannot. The message describes the required change.
        SealserveError: The file with the password cannot be read, or other users can read it.
    """
    if (parsed := settings.parsed) is None:
        return
    if parsed.is_local:
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"database.url is {parsed}: this address refers to the broker's container itself.",
            hint="Set it to an address at which other machines reach the server.",
        )
    if files := {"passfile", "sslcert", "sslkey"} & parsed.parameters.keys():
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"The broker's container does not have the file that {min(files)} in database.url names.",
            hint="Use database.password_file to authenticate, or run the broker on target local.",
        )
    if settings.ca_file is not None:
        read_regular(settings.ca_file)
    if settings.password_file is not None:
        read_private_bytes(settings.password_file, what="database password", limit=_LARGEST)
        _check_owner(settings.password_file, int(user.partition(":")[0]))


def _check_owner(path: Path, uid: int) -> None:
    if path.stat().st_uid != uid:
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"The broker's container runs as user {uid}, which cannot read {path}.",
            hint=f"Run `chown {uid} {path}`. The mode stays 0600, and root can still read the file.",
        )


def _check_shared(workspace: Workspace, path: Path) -> None:
    """Check that a file or folder of the token's module hides nothing in the container, and shows no other secret."""
    source, root = path.resolve(), workspace.directory.resolve()
    if not source.exists():
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"keystore.pkcs11_files contains {path}, which does not exist on this machine.",
            hint="Correct the path, or remove it from the list.",
        )
    own = any(_overlap(path, Path(place)) for place in _OWN_PLACES) or str(path) == _TEMPORARY
    if own or _overlap(path, root) or _overlap(source, root):
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"keystore.pkcs11_files contains {path}, which overlaps the workspace or a folder of the broker's "
            "container.",
            hint="List only the files and folders of the token's module, and keep them outside of the workspace.",
        )


def _overlap(one: Path, other: Path) -> bool:
    return one == other or one in other.parents or other in one.parents


def check(workspace: Workspace, settings: KeystoreSection, *, user: str, needs_passphrase: bool) -> None:
    """Check that the broker's container can open the keystore, before it starts.

    Args:
        workspace: The owner's workspace.
        settings: The keystore's settings.
        user: The container's user, ``UID:GID``.
        needs_passphrase: Whether the file of the master key is encrypted under a passphrase.

    Raises:
        InputError: `target.unsupported` if it cannot. The message describes the required change.
        SealserveError: A file with a secret cannot be read, or other users can read it.
    """
    uid = int(user.partition(":")[0])
    for path in settings.pkcs11_files:
        _check_shared(workspace, path)
    for mount in mounts(settings):
        if not mount.target.startswith(f"{_PLACE}/"):
            continue
        if mount.target == place("transit_ca_file"):
            read_regular(mount.source)
            continue
        read_private_bytes(mount.source, what="keystore's secret", limit=_LARGEST)
        _check_owner(mount.source, uid)
    if settings.transit_url is not None and is_loopback(urlsplit(settings.transit_url).hostname or ""):
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"keystore.transit_url is {settings.transit_url}: this address refers to the broker's container itself.",
            hint="Set it to an https URL at which other machines reach Vault or OpenBao.",
        )
    if settings.passphrase_file is None and needs_passphrase:
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"{workspace.owner.master_key} requires a passphrase, which cannot be typed into the broker's container.",
            hint="Set keystore.passphrase_file in sealserve.toml to a file (0600) with the passphrase.",
        )
