"""What the owner does with the broker's database: one function for each verb, with results that are ready for JSON.

Each change is a row of the audit log as well, in the same transaction.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Connection, func, select

from sealserve.broker import audit, platforms, releases
from sealserve.broker.audit import AuditRow, Decision, Entry, Head
from sealserve.broker.database import AUDIT, KEYS, Database
from sealserve.broker.platforms import EnrolledPlatform
from sealserve.broker.policy import ReferenceValues, ReleaseState
from sealserve.broker.releases import Reference, Release, ReleaseAmbiguousError, ReleaseUnknownError
from sealserve.terms import PlatformKind

OWNER: Final = "owner"
"""The peer of the audit rows of the owner's own changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveSummary:
    """One enclave of a release."""

    label: str
    mr_enclave: str
    mr_signer: str
    isv_prod_id: int
    isv_svn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSummary:
    """A release as `sealserve broker releases` shows it."""

    release_id: str
    name: str
    platform: str
    state: str
    deadline: str | None
    tcb_policy: str
    enrolled_platforms_only: bool
    key_id: str
    created: str
    enclaves: list[EnclaveSummary]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """An audit row as `sealserve broker log` shows it."""

    seq: int
    time: str
    peer: str
    decision: str
    code: str
    detail: str
    release_id: str | None
    platform: str | None
    mr_enclave: str | None
    mr_signer: str | None
    platform_id: str | None
    tcb_status: str | None
    advisories: str | None
    quote_digest: str | None
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSummary:
    """A verified audit log: how many rows, the last one's hash, and whether signed heads were checked as well."""

    rows: int
    head: str
    signatures: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSummary:
    """A signed head, to be kept on another machine."""

    seq: int
    hash: str
    time: str
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformSummary:
    """An enrolled platform."""

    platform: str
    platform_id: str
    label: str
    enrolled: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the broker holds and has done."""

    database: str
    keys: int
    releases: dict[str, int]
    decisions: dict[str, int]
    refusals: dict[str, int]
    evaluation_floor: dict[str, int]
    audit_rows: int
    audit_head: str


def allow(
    database: Database,
    release: Release,
    references: Mapping[str, ReferenceValues],
    *,
    now: datetime,
    reactivate: bool = False,
    keep_policy: bool = False,
) -> ReleaseSummary:
    """Let the enclaves described by ``references`` (by label) have the key of ``release``; see `releases.allow`.

    What was allowed already is no change: neither the log nor the database tells of it again.
    """
    with database.write() as connection:
        known = releases.is_known(connection, release.release_id)
        before = releases.references_of(connection, release.release_id)
        allowed = releases.allow(connection, release, references, reactivate=reactivate, keep_policy=keep_policy)
        if known and reactivate:
            _note(connection, Decision.REACTIVATED, allowed, now, detail=f"with the TCB policy {allowed.tcb.name}")
        for label, values in references.items():
            if Reference(label=label, values=values) not in before:
                _note(connection, Decision.ALLOWED, allowed, now, detail=label, values=values)
        return _summary(connection, allowed)


def drain(database: Database, name_or_id: str, *, deadline: datetime, now: datetime) -> ReleaseSummary:
    """Let a release end at ``deadline``; see `releases.drain`."""
    with database.write() as connection:
        return _drain(connection, releases.find(connection, name_or_id), deadline=deadline, now=now)


def retire(
    database: Database, replaced: Iterable[str], *, by: str, deadline: datetime, now: datetime
) -> list[ReleaseSummary]:
    """Let releases end at ``deadline`` that another one has replaced, if they and it are active.

    Args:
        database: The broker's.
        replaced: The names of the old ones; those that the broker does not know are left out.
        by: The name or id of the new one. If it ends itself, they stay: nothing else would be left.
        deadline: As for `releases.drain`.
        now: The time on the owner's clock.

    Returns:
        Those that are draining because of this.

    Raises:
        ReleaseUnknownError: The broker does not know the new one.
    """
    with database.write() as connection:
        new = releases.find(connection, by)
        if new.state is not ReleaseState.ACTIVE:
            return []
        retired = []
        for name in replaced:
            try:
                found = releases.find(connection, name)
            except (ReleaseUnknownError, ReleaseAmbiguousError):
                continue
            if found.release_id != new.release_id and found.state is ReleaseState.ACTIVE:
                why = f", replaced by {new.name}"
                retired.append(_drain(connection, found, deadline=deadline, now=now, why=why))
        return retired


def _drain(
    connection: Connection, release: Release, *, deadline: datetime, now: datetime, why: str = ""
) -> ReleaseSummary:
    drained = releases.drain(connection, release.release_id, deadline=deadline, now=now)
    _note(connection, Decision.DRAINING, drained, now, detail=f"until {deadline.isoformat()}{why}")
    return _summary(connection, drained)


def revoke(database: Database, name_or_id: str, *, now: datetime) -> ReleaseSummary:
    """End a release for good; see `releases.revoke`."""
    with database.write() as connection:
        found = releases.find(connection, name_or_id)
        revoked = releases.revoke(connection, found.release_id)
        _note(connection, Decision.REVOKED, revoked, now)
        return _summary(connection, revoked)


def enrol_platform(
    database: Database, platform: PlatformKind, platform_id: str, *, label: str, now: datetime
) -> PlatformSummary:
    """Enrol a platform: releases for enrolled platforms only then give it their key."""
    with database.write() as connection:
        platforms.enrol(connection, platform, platform_id, label=label, now=now)
        entry = Entry(time=now, peer=OWNER, decision=Decision.ENROLLED, code="ok", detail=label, platform=platform,
                      platform_id=platform_id)  # fmt: skip
        audit.append(connection, entry)
        return next(
            _platform(found)
            for found in platforms.every(connection)
            if (found.platform, found.platform_id) == (platform, platform_id)
        )


def withdraw_platform(
    database: Database, platform: PlatformKind, platform_id: str, *, now: datetime
) -> PlatformSummary:
    """Take back a platform's enrolment: from now on it gets no key of a release for enrolled platforms only.

    Raises:
        PlatformNotEnrolledError: It is not enrolled.
    """
    with database.write() as connection:
        withdrawn = platforms.withdraw(connection, platform, platform_id)
        entry = Entry(time=now, peer=OWNER, decision=Decision.WITHDRAWN, code="ok", detail=withdrawn.label,
                      platform=platform, platform_id=platform_id)  # fmt: skip
        audit.append(connection, entry)
        return _platform(withdrawn)


def every_platform(database: Database) -> list[PlatformSummary]:
    """Return the enrolled platforms, oldest first."""
    with database.read() as connection:
        return [_platform(found) for found in platforms.every(connection)]


def every_release(database: Database) -> list[ReleaseSummary]:
    """Return all releases, oldest first."""
    with database.read() as connection:
        return [_summary(connection, release) for release in releases.every(connection)]


def find_release(database: Database, name_or_id: str) -> ReleaseSummary:
    """Return one release; see `releases.find`."""
    with database.read() as connection:
        return _summary(connection, releases.find(connection, name_or_id))


def log(database: Database, *, last: int | None = None) -> list[LogLine]:
    """Return the audit log, or its ``last`` rows, oldest first."""
    with database.read() as connection:
        return [_line(row) for row in audit.rows(connection, last=last)]


def verify_log(
    database: Database,
    owner_key: Ed25519PublicKey | None = None,
    *,
    former_keys: Sequence[Ed25519PublicKey] = (),
    kept: tuple[HeadSummary, ...] = (),
) -> ChainSummary:
    """Check the whole audit log; see `audit.verify_chain`."""
    heads = tuple(audit.parse_head(head.seq, head.hash, head.time, head.signature) for head in kept)
    with database.read() as connection:
        rows, digest = audit.verify_chain(connection, owner_key, former_keys=former_keys, kept=heads)
    return ChainSummary(rows=rows, head=digest, signatures=owner_key is not None)


def sign_log(database: Database, signer: Ed25519PrivateKey, *, now: datetime) -> HeadSummary:
    """Sign the end of the audit log, and return the signed head."""
    with database.write() as connection:
        return head_summary(audit.sign_head(connection, signer, now=now))


def head_summary(head: Head) -> HeadSummary:
    """Return a signed head as it is shown and kept."""
    return HeadSummary(seq=head.seq, hash=head.hash, time=head.time.isoformat(), signature=head.signature.hex())


def status(database: Database) -> Status:
    """Return what the broker holds and has done."""
    with database.read() as connection:
        rows, head = audit.head(connection)
        states: dict[str, int] = {}
        for release in releases.every(connection):
            states[release.state] = states.get(release.state, 0) + 1
        return Status(
            database=database.name,
            keys=connection.execute(select(func.count()).select_from(KEYS)).scalar_one(),
            releases=states,
            decisions=_counts(connection, "decision"),
            refusals=_counts(connection, "code", only=Decision.REFUSED),
            evaluation_floor=platforms.evaluation_floors(connection),
            audit_rows=rows,
            audit_head=head,
        )


def _counts(connection: Connection, column: str, *, only: Decision | None = None) -> dict[str, int]:
    query = select(AUDIT.c[column], func.count()).group_by(AUDIT.c[column]).order_by(AUDIT.c[column])
    if only is not None:
        query = query.where(AUDIT.c.decision == only)
    return {row[0]: row[1] for row in connection.execute(query)}


def _note(
    connection: Connection,
    decision: Decision,
    release: Release,
    now: datetime,
    *,
    detail: str = "",
    values: ReferenceValues | None = None,
) -> None:
    entry = Entry(
        time=now,
        peer=OWNER,
        decision=decision,
        code="ok",
        detail=detail,
        release_id=release.release_id,
        platform=release.platform,
        mr_enclave=values.mr_enclave.hex() if values else None,
        mr_signer=values.mr_signer.hex() if values else None,
    )
    audit.append(connection, entry)


def _summary(connection: Connection, release: Release) -> ReleaseSummary:
    return ReleaseSummary(
        release_id=release.release_id,
        name=release.name,
        platform=str(release.platform),
        state=str(release.state),
        deadline=release.deadline.isoformat() if release.deadline else None,
        tcb_policy=release.tcb.name,
        enrolled_platforms_only=release.enrolled_platforms_only,
        key_id=release.key_id,
        created=release.created.isoformat(),
        enclaves=[_enclave(reference) for reference in releases.references_of(connection, release.release_id)],
    )


def _enclave(reference: Reference) -> EnclaveSummary:
    return EnclaveSummary(
        label=reference.label,
        mr_enclave=reference.values.mr_enclave.hex(),
        mr_signer=reference.values.mr_signer.hex(),
        isv_prod_id=reference.values.isv_prod_id,
        isv_svn=reference.values.isv_svn,
    )


def _platform(found: EnrolledPlatform) -> PlatformSummary:
    return PlatformSummary(
        platform=str(found.platform),
        platform_id=found.platform_id,
        label=found.label,
        enrolled=found.enrolled.isoformat(),
    )


def _line(row: AuditRow) -> LogLine:
    entry = row.entry
    return LogLine(
        seq=row.seq,
        time=entry.time.isoformat(),
        peer=entry.peer,
        decision=str(entry.decision),
        code=entry.code,
        detail=entry.detail,
        release_id=entry.release_id,
        platform=entry.platform,
        mr_enclave=entry.mr_enclave,
        mr_signer=entry.mr_signer,
        platform_id=entry.platform_id,
        tcb_status=entry.tcb_status,
        advisories=entry.advisories,
        quote_digest=entry.quote_digest,
        hash=row.hash,
    )
