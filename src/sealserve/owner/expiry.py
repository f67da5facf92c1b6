"""When the certificates of a deployment end."""

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sealserve.errors import SealserveError
from sealserve.owner import users
from sealserve.owner.certificates import show_certificates
from sealserve.owner.users import UserState
from sealserve.pki import expiry
from sealserve.regular_file import read_regular
from sealserve.sealing.release_index import INDEX_FILE, parse_index
from sealserve.terms import DEFAULT_USER, LEAF_DAYS
from sealserve.workspace import Workspace


def certificate_ends(workspace: Workspace, release: Path | None) -> Mapping[str, datetime]:
    """Return when each certificate ends that this machine knows of, by what it is for. Nothing is verified.

    Args:
        workspace: The owner's, the host's or the user's folders.
        release: The folder of the release whose service certificate counts; None for no release.
    """
    ends: dict[str, datetime] = {}
    with contextlib.suppress(SealserveError):  # an unreadable certificate is the business of the verb that uses it
        for named in show_certificates(workspace):
            ends[named.role] = named.info.not_after
    with contextlib.suppress(SealserveError):  # likewise a damaged register
        ends |= _named_users(workspace)
    if release is not None and (end := service_certificate_end(release, ends)) is not None:
        ends[expiry.SERVICE] = end
    return ends


def _named_users(workspace: Workspace) -> Mapping[str, datetime]:
    """Return when the newest certificate of each named user ends whom new releases accept, or would if it had not."""
    return {
        f"{expiry.NAMED_USER}{user.name}": user.not_after
        for user in users.list_users(workspace, now=datetime.now(UTC))
        if user.name != DEFAULT_USER and user.state in {UserState.ACTIVE, UserState.EXPIRED}
    }


def service_certificate_end(release: Path, ends: Mapping[str, datetime]) -> datetime | None:
    """Return when the certificate of the service in a release ends, or None if the release cannot be read.

    The certificate is sealed with its key. It was issued when the release was built, which the public index tells, and
    it does not outlive its authority.

    Args:
        release: The release's folder.
        ends: When other certificates end; with that of the service's authority where it is known.
    """
    try:
        built = parse_index(read_regular(release / INDEX_FILE)).created_at
    except SealserveError:
        return None
    authority = ends.get(f"{expiry.SERVICE}{expiry.AUTHORITY}", datetime.max.replace(tzinfo=UTC))
    return min(built + timedelta(days=LEAF_DAYS), authority)
