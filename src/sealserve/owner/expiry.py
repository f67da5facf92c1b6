"""The expiry times of a deployment's certificates."""

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sealserve.errors import SealserveError
from sealserve.owner import administrators, users
from sealserve.owner.certificates import certificate_files
from sealserve.owner.release_facts import contains_tls_key
from sealserve.owner.users import UserState
from sealserve.pki import expiry
from sealserve.pki.certificate import describe
from sealserve.regular_file import read_regular
from sealserve.sealing.release_index import INDEX_FILE, parse_index
from sealserve.terms import DEFAULT_USER, LEAF_DAYS
from sealserve.workspace import Workspace


def certificate_ends(
    workspace: Workspace, release: Path | None, *, given: Path | None = None
) -> Mapping[str, datetime]:
    """Return the expiry time of each certificate on this machine, by its purpose. Nothing is verified.

    Args:
        workspace: A workspace with the owner's, the host's or the user's folders.
        release: Folder of the release whose service certificate is included, or None.
        given: The file of a service certificate of another CA (``service.tls_certificate_file``), or None.
    """
    ends: dict[str, datetime] = {}
    for role, path in certificate_files(workspace).items():
        with contextlib.suppress(SealserveError):  # the verb that uses an unreadable certificate reports it
            if path.is_file():
                ends[role] = describe(read_regular(path), source=str(path))[0].not_after
    with contextlib.suppress(SealserveError):  # the verb that uses a damaged register reports it
        ends |= _named_users(workspace)
    with contextlib.suppress(SealserveError):  # as above
        ends |= administrators.certificate_ends(workspace)
    if release is not None and (end := service_certificate_end(release, ends)) is not None:
        ends[expiry.SERVICE] = end
        with contextlib.suppress(SealserveError):  # `release build` reports it
            if given is not None:
                ends[expiry.SERVICE] = describe(read_regular(given), source=str(given))[0].not_after
    return ends


def _named_users(workspace: Workspace) -> Mapping[str, datetime]:
    """Return the expiry time of each named user's newest certificate.

    Revoked users, and certificates of a replaced authority, are left out: new releases do not accept them.
    """
    return {
        f"{expiry.NAMED_USER}{user.name}": user.not_after
        for user in users.list_users(workspace, now=datetime.now(UTC))
        if user.name != DEFAULT_USER and user.state in {UserState.ACTIVE, UserState.EXPIRED}
    }


def service_certificate_end(release: Path, ends: Mapping[str, datetime]) -> datetime | None:
    """Return the expiry time of the service's certificate in a release, or None if it has none or cannot be read.

    A release for attested serving has none, because the enclaves get their certificates from the broker. Otherwise, the
    certificate itself is sealed. It was issued at the build time in the public index, and it never expires after
    its authority.

    Args:
        release: The release's folder.
        ends: Expiry times of other certificates, if possible including the service authority's.
    """
    try:
        index = parse_index(read_regular(release / INDEX_FILE))
    except SealserveError:
        return None
    if not contains_tls_key(index):
        return None
    built = index.created_at
    authority = ends.get(f"{expiry.SERVICE}{expiry.AUTHORITY}", datetime.max.replace(tzinfo=UTC))
    return min(built + timedelta(days=LEAF_DAYS), authority)
