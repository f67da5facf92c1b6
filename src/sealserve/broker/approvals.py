"""Approvals: a person decides which platforms may receive the key of a release, and until when.

A release whose policy requires manual approval releases its key only to a platform with a row in this table. A missing
row, an expired row and a deleted row have the same result: no key.

The caller appends the audit row of a change first, because the tag of the changed row names it
(`sealserve.broker.row_authentication`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, select

from sealserve.broker import prepared, row_authentication
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import reading
from sealserve.broker.prepared import Prepared
from sealserve.broker.releases import Release, ReleaseId
from sealserve.broker.stored_time import from_text, to_text
from sealserve.broker.tables import APPROVALS
from sealserve.broker.wanted_row import check_wanted

# Built once, because each key release with manual approval executes it twice.
_APPROVAL: Final = Prepared(
    select(APPROVALS).where(
        APPROVALS.c.release_id == bindparam("release_id"), APPROVALS.c.platform_id == bindparam("platform_id")
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """The approval of a platform for one release.

    Args:
        release_id: The release.
        platform_id: The platform, which is of the release's kind.
        approved: The time of the approval.
        until: The end of the approval. The platform then needs another approval before its next key.
    """

    release_id: ReleaseId
    platform_id: str
    approved: datetime
    until: datetime


def find(connection: Connection, release_id: ReleaseId, platform_id: str) -> Approval | None:
    """Return the approval of a platform for a release, which may have expired, or `None`.

    Raises:
        VerificationError: `broker.database-authentication` if another program wrote the row.
    """
    row = prepared.first(connection, _APPROVAL, release_id=release_id, platform_id=platform_id)
    if row is None:
        return None
    check_wanted(APPROVALS, row, release_id=release_id, platform_id=platform_id)
    row_authentication.verify(connection, APPROVALS, row)
    return _approval(row)


def check(connection: Connection, release: Release, platform_id: str, *, now: datetime) -> None:
    """Check that a platform is approved, if the release requires it.

    Args:
        connection: A transaction.
        release: The release.
        platform_id: The id of the verified platform.
        now: The time on the owner's clock.

    Raises:
        VerificationError: `policy.approval-pending` if the platform has no approval, or its approval has expired.
        VerificationError: `broker.database-authentication` if another program wrote the approval.
    """
    if not release.policy.manual_approval:
        return
    approval = find(connection, release.release_id, platform_id)
    if approval is not None and now < approval.until:
        return
    found = "no approval" if approval is None else f"an approval until {approval.until:%Y-%m-%d %H:%M:%S} UTC"
    raise BrokerCode.POLICY_APPROVAL_PENDING.error(
        f"The platform {platform_id} gets no key of the release {release.name} yet: expected a valid approval, got "
        f"{found}.",
        hint="Run `sealserve broker pending`, and `sealserve broker approve` if you trust the platform. The enclave "
        "gets the key at its next start.",
    )


def put(connection: Connection, approval: Approval) -> None:
    """Store an approval. It replaces an earlier approval of the same platform and release."""
    row = {
        "release_id": approval.release_id,
        "platform_id": approval.platform_id,
        "approved": to_text(approval.approved),
        "until": to_text(approval.until),
    }
    row_authentication.put(connection, APPROVALS, row)


def remove(connection: Connection, approval: Approval) -> None:
    """Delete an approval."""
    where = (APPROVALS.c.release_id == approval.release_id) & (APPROVALS.c.platform_id == approval.platform_id)
    connection.execute(delete(APPROVALS).where(where))


def _approval(row: Mapping[str, Any]) -> Approval:
    with reading("approvals"):
        return Approval(
            release_id=ReleaseId(row["release_id"]),
            platform_id=row["platform_id"],
            approved=from_text(row["approved"]),
            until=from_text(row["until"]),
        )
