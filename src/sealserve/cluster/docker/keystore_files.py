"""The files that the broker's container needs to open the keystore. Each file that a setting names is mounted."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sealserve.addresses import is_loopback
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.docker.parts import Mount
from sealserve.deployment import KeystoreSection
from sealserve.private_file import read_private_bytes
from sealserve.regular_file import read_regular
from sealserve.workspace import Workspace

FIELDS: Final = ("passphrase_file", "transit_token_file", "transit_ca_file")
_PLACE: Final = "/keystore"
_LARGEST: Final = 64 * 2**10


def place(name: str) -> str:
    """Return the path of a setting's file in the broker's container."""
    return f"{_PLACE}/{name}"


def mounts(settings: KeystoreSection) -> Iterator[Mount]:
    """Yield the mounts of the files that the settings name."""
    for name in FIELDS:
        path: Path | None = getattr(settings, name)
        if path is not None:
            yield Mount(source=path.resolve(), target=place(name))


def version(settings: KeystoreSection) -> str:
    """Return a text that changes when a file that the settings name is replaced; see `versions`."""
    return versions(mount.source for mount in mounts(settings))


def versions(files: Iterable[Path]) -> str:
    """Return a text that changes when one of ``files`` is replaced, since a mount would still show the old file.

    The text is not a digest of the content, which would reveal information about a secret.
    """
    found = [path.stat() for path in files]
    return " ".join(f"{status.st_ino}:{status.st_mtime_ns}" for status in found)


def leads_outside(settings: KeystoreSection) -> bool:
    """Return whether the broker must reach a key management service."""
    return settings.transit_url is not None


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
    for mount in mounts(settings):
        if mount.target == place("transit_ca_file"):
            read_regular(mount.source)
            continue
        read_private_bytes(mount.source, what="keystore's secret", limit=_LARGEST)
        if mount.source.stat().st_uid != uid:
            raise ClusterCode.TARGET_UNSUPPORTED.error(
                f"The broker's container runs as user {uid}, which cannot read {mount.source}.",
                hint=f"Run `chown {uid} {mount.source}`. The mode stays 0600, and root can still read the file.",
            )
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
