"""The owner's operations on approvals: list the platforms that wait, approve a platform, and withdraw an approval.

A request is not stored separately. The audit row of the refusal with `policy.approval-pending` is the request, so the
limits on audit rows also bound the requests.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

from pydantic import JsonValue
from sqlalchemy import Connection, Select, and_, func, select

from sealserve.broker import approvals, audit, platforms, releases, row_authentication
from sealserve.broker.admin import OWNER, Actor
from sealserve.broker.approvals import Approval
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.limiter import network_of
from sealserve.broker.releases import Release, ReleaseId
from sealserve.broker.standing import ReleaseState
from sealserve.broker.stored_time import to_text
from sealserve.broker.tables import AUDIT
from sealserve.terms import PlatformKind

MOST: Final = 1000
"""The maximum number of pairs in the result of `pending`."""
SHORTEST: Final = timedelta(minutes=1)
LONGEST: Final = timedelta(days=3650)
DEFAULT: Final = timedelta(days=30)
"""The validity of an approval, unless the owner chooses another."""

_APPROVAL_CHANGES: Final = (Decision.APPROVED, Decision.APPROVAL_REMOVED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A platform that requested the key of a release, and waits for an approval.

    Args:
        release_id: The release.
        release: The release's name.
        platform: The kind of the platform.
        platform_id: The platform's id, from evidence that satisfied the policy.
        tcb_status: The TCB status of the platform at its newest request.
        first: The time of the first recorded request since the last change of the approval.
        last: The time of the newest recorded request.
        count: The number of recorded requests since the last change of the approval.
        network: The network of the newest request.
    """

    release_id: ReleaseId
    release: str
    platform: PlatformKind
    platform_id: str
    tcb_status: str
    first: datetime
    last: datetime
    count: int
    network: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Approved:
    """An approval, with facts of its release.

    Args:
        release_id: The release.
        release: The release's name.
        required: Whether the release requires approvals. Otherwise the approval has no effect.
        platform: The kind of the platform.
        platform_id: The platform's id.
        approved: The time of the approval.
        until: The end of the approval.
    """

    release_id: ReleaseId
    release: str
    required: bool
    platform: PlatformKind
    platform_id: str
    approved: datetime
    until: datetime

    @classmethod
    def of(cls, approval: Approval, release: Release) -> Self:
        """Return an approval with the facts of its release."""
        return cls(
            release_id=release.release_id,
            release=release.name,
            required=release.policy.manual_approval,
            platform=release.platform,
            platform_id=approval.platform_id,
            approved=approval.approved,
            until=approval.until,
        )


def pending(database: Database, *, now: datetime) -> list[Pending]:
    """Return the platforms that wait for an approval, newest request first, at most `MOST`.

    Raises:
        VerificationError: `audit.chain` or `broker.database-authentication` if another program changed a request.
    """
    with database.read() as connection:
        # 1. Releases that can still release their key, and require approvals.
        waiting = {release.release_id: release for release in releases.every(connection) if _can_wait(release, now=now)}
        # 2. One group for each pair: its refusals after the newest change of its approval.
        found = connection.execute(_groups(sorted(waiting))).all() if waiting else []
        # 3. A refusal that was decided before an approval can be recorded after it.
        found = [group for group in found if not _is_approved(connection, group.release_id, group.platform_id, now)]
        # 4. The columns found the rows. Only their content is authentic, so the result contains only facts from it.
        wanted = sorted({seq for group in found for seq in (group.first, group.last)})
        entries = row_authentication.audit_entries(connection, wanted)
    for group in found:
        for seq in (group.first, group.last):
            _check_request(seq, entries.get(seq), group.release_id, group.platform_id)
    return [
        Pending(
            release_id=ReleaseId(group.release_id),
            release=waiting[group.release_id].name,
            platform=waiting[group.release_id].platform,
            platform_id=group.platform_id,
            tcb_status=newest.tcb_status or "",
            first=entries[group.first].time,
            last=newest.time,
            count=group.requests,
            network=network_of(newest.peer),
        )
        for group in found
        for newest in (entries[group.last],)
    ]


def approve(
    database: Database,
    name_or_id: str,
    platform_id: str,
    *,
    validity: timedelta = DEFAULT,
    now: datetime,
    actor: Actor = OWNER,
) -> Approved:
    """Approve a platform for a release. The approval replaces an earlier approval of the same platform.

    Args:
        database: The broker's database.
        name_or_id: The release's name, id or id prefix.
        platform_id: The platform's id.
        validity: The time until the approval expires.
        now: The time on the owner's clock.
        actor: Who approves.

    Raises:
        InputError: `broker.platform-id` if the id is malformed, `broker.approval-validity` if ``validity`` is out of
            range.
        InputError: `broker.release-final` if the release is revoked.
        ReleaseUnknownError: No release matches.
    """
    platforms.check_id(platform_id)
    if not SHORTEST <= validity <= LONGEST:
        raise BrokerCode.APPROVAL_VALIDITY.error(
            f"The validity of an approval is out of range: expected 1 minute to {LONGEST.days} days, got {validity}."
        )
    with database.write() as connection:
        release = releases.find(connection, name_or_id)
        if release.state is ReleaseState.REVOKED:
            raise BrokerCode.RELEASE_FINAL.error(
                f"The release {release.name} ({release.release_id}) is revoked, so no platform can be approved for it.",
                hint="Approve the platform for another release.",
            )
        approval = Approval(release_id=release.release_id, platform_id=platform_id, approved=now, until=now + validity)
        claims: dict[str, JsonValue] = {"until": to_text(approval.until)}
        detail = f"until {approval.until:%Y-%m-%d %H:%M:%S} UTC"
        _note(connection, Decision.APPROVED, release, platform_id, now, detail=detail, claims=claims, actor=actor)
        approvals.put(connection, approval)
        return Approved.of(approval, release)


def withdraw(database: Database, name_or_id: str, platform_id: str, *, now: datetime, actor: Actor = OWNER) -> Approved:
    """Withdraw the approval of a platform for a release. The platform receives no further key of the release.

    Raises:
        InputError: `broker.platform-id` if the id is malformed, `broker.not-approved` if there is no approval.
        ReleaseUnknownError: No release matches.
    """
    platforms.check_id(platform_id)
    with database.write() as connection:
        release = releases.find(connection, name_or_id)
        if (approval := approvals.find(connection, release.release_id, platform_id)) is None:
            raise BrokerCode.NOT_APPROVED.error(
                f"The platform {platform_id} has no approval for the release {release.name}.",
                hint="Run `sealserve broker log --code ok` to see the approvals.",
            )
        _note(connection, Decision.APPROVAL_REMOVED, release, platform_id, now, actor=actor)
        approvals.remove(connection, approval)
        return Approved.of(approval, release)


def _can_wait(release: Release, *, now: datetime) -> bool:
    ended = release.state is ReleaseState.DRAINING and (release.deadline is None or now >= release.deadline)
    return release.policy.manual_approval and release.state is not ReleaseState.REVOKED and not ended


def _is_approved(connection: Connection, release_id: str, platform_id: str, now: datetime) -> bool:
    approval = approvals.find(connection, ReleaseId(release_id), platform_id)
    return approval is not None and now < approval.until


def _groups(release_ids: list[ReleaseId]) -> Select[tuple[str, str, int, int, int]]:
    changed = (
        select(AUDIT.c.release_id, AUDIT.c.platform_id, func.max(AUDIT.c.seq).label("seq"))
        .where(AUDIT.c.decision.in_(_APPROVAL_CHANGES), AUDIT.c.release_id.in_(release_ids))
        .group_by(AUDIT.c.release_id, AUDIT.c.platform_id)
        .subquery()
    )
    same = and_(changed.c.release_id == AUDIT.c.release_id, changed.c.platform_id == AUDIT.c.platform_id)
    newest = func.max(AUDIT.c.seq)
    return (
        select(
            AUDIT.c.release_id,
            AUDIT.c.platform_id,
            func.count().label("requests"),
            func.min(AUDIT.c.seq).label("first"),
            newest.label("last"),
        )
        .outerjoin(changed, same)
        .where(AUDIT.c.code == BrokerCode.POLICY_APPROVAL_PENDING, AUDIT.c.decision == Decision.REFUSED)
        .where(AUDIT.c.release_id.in_(release_ids), AUDIT.c.platform_id.is_not(None))
        .where(AUDIT.c.seq > func.coalesce(changed.c.seq, 0))
        .group_by(AUDIT.c.release_id, AUDIT.c.platform_id)
        .order_by(newest.desc())
        .limit(MOST)
    )


def _check_request(seq: int, entry: Entry | None, release_id: str, platform_id: str) -> None:
    wanted = (Decision.REFUSED, BrokerCode.POLICY_APPROVAL_PENDING, release_id, platform_id)
    if entry is None or (entry.decision, entry.code, entry.release_id, entry.platform_id) != wanted:
        raise BrokerCode.AUDIT_CHAIN.error(
            f"Row {seq} of the audit log was changed: its columns do not match its content.",
            hint="Run `sealserve broker log --verify`. Another program changed the database.",
        )


def _note(
    connection: Connection,
    decision: Decision,
    release: Release,
    platform_id: str,
    now: datetime,
    *,
    detail: str = "",
    claims: dict[str, JsonValue] | None = None,
    actor: Actor,
) -> None:
    entry = Entry(
        time=now,
        peer=actor.peer,
        actor=actor.name,
        decision=decision,
        code="ok",
        detail=detail,
        release_id=release.release_id,
        platform=release.platform,
        platform_id=platform_id,
        claims=claims or {},
    )
    audit.append(connection, entry)
