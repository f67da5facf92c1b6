"""What the broker's container needs to open the keystore: the files that ``sealserve.toml`` names, each one mounted."""

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
    """Return where the broker's container has the file of a setting."""
    return f"{_PLACE}/{name}"


def mounts(settings: KeystoreSection) -> Iterator[Mount]:
    """Yield the mounts of the files that the settings name."""
    for name in FIELDS:
        path: Path | None = getattr(settings, name)
        if path is not None:
            yield Mount(source=path.resolve(), target=place(name))


def version(settings: KeystoreSection) -> str:
    """Return what changes when one of the files that the settings name is replaced; see `versions`."""
    return versions(mount.source for mount in mounts(settings))


def versions(files: Iterable[Path]) -> str:
    """Return what changes when one of ``files`` is replaced: a mount continues to show the old file.

    It is not a digest, which would tell something of a secret.
    """
    found = [path.stat() for path in files]
    return " ".join(f"{status.st_ino}:{status.st_mtime_ns}" for status in found)


def leads_outside(settings: KeystoreSection) -> bool:
    """Return whether the broker must reach a key management service."""
    return settings.transit_url is not None


def check(workspace: Workspace, settings: KeystoreSection, *, user: str, needs_passphrase: bool) -> None:
    """Check that the broker's container can open the keystore, before it starts.

    Args:
        workspace: The owner's.
        settings: How the keystore is opened.
        user: Whom the container runs as, ``UID:GID``.
        needs_passphrase: Whether the file of the master key is encrypted under a passphrase.

    Raises:
        InputError: `target.unsupported`: It cannot; the message says what to change.
        SealserveError: A file with a secret cannot be read, or others can read it.
    """
    uid = int(user.partition(":")[0])
    for mount in mounts(settings):
        if mount.target == place("transit_ca_file"):
            read_regular(mount.source)
            continue
        read_private_bytes(mount.source, what="keystore's secret", limit=_LARGEST)
        if mount.source.stat().st_uid != uid:
            raise ClusterCode.TARGET_UNSUPPORTED.error(
                f"The broker's container runs as user {uid}, who cannot read {mount.source}.",
                hint=f"chown {uid} {mount.source}: it stays 0600, and root still reads it.",
            )
    if settings.transit_url is not None and is_loopback(urlsplit(settings.transit_url).hostname or ""):
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"keystore.transit_url is {settings.transit_url}: in the broker's container, that is the container itself.",
            hint="Give the address or name at which other machines reach Vault or OpenBao, with https.",
        )
    if settings.passphrase_file is None and needs_passphrase:
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"{workspace.owner.master_key} needs a passphrase, and nobody can type it into the broker's container.",
            hint="Name a file (0600) that has it: keystore.passphrase_file in sealserve.toml.",
        )
