"""The owner's operations on the broker's database, one function per command.

Each change also appends a row to the audit log, in the same transaction.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Connection, func, select

from sealserve.attestation.evidence import ReferenceValues
from sealserve.broker import audit, platforms, releases
from sealserve.broker.audit import AuditRow, Decision, Entry, Head
from sealserve.broker.database import AUDIT, KEYS, Database
from sealserve.broker.platforms import EnrolledPlatform
from sealserve.broker.releases import Reference, Release, ReleaseAmbiguousError, ReleaseUnknownError
from sealserve.broker.standing import ReleaseState
from sealserve.terms import PlatformKind

OWNER: Final = "owner"
"""The ``peer`` value of audit rows that record the owner's own changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRelease:
    """A registered release and the enclaves that may receive its key."""

    release: Release
    enclaves: tuple[Reference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedChain:
    """A verified audit log.

    Args:
        rows: The number of rows.
        head: The hash of the last row, as hex.
        signatures: Whether the signed heads were verified too.
    """

    rows: int
    head: str
    signatures: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A summary of the broker's database: keys, releases, decisions and the audit log."""

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
) -> KnownRelease:
    """Permit the enclaves in ``references`` (by label) to receive the key of ``release``. See `releases.allow`.

    Repeating the call with the same values changes neither the database nor the audit log.
    """
    with database.write() as connection:
        known = releases.is_known(connection, release.release_id)
        before = releases.references_of(connection, release.release_id)
        allowed = releases.allow(connection, release, references, reactivate=reactivate, keep_policy=keep_policy)
        if known and reactivate:
            _note(
                connection, Decision.REACTIVATED, allowed, now, detail=f"with the TCB policy {allowed.policy.tcb.name}"
            )
        for label, values in references.items():
            if Reference.of(label, values) not in before:
                _note(connection, Decision.ALLOWED, allowed, now, detail=label, values=values)
        return _known(connection, allowed)


def drain(database: Database, name_or_id: str, *, deadline: datetime, now: datetime) -> KnownRelease:
    """Set a draining deadline for a release. See `releases.drain`."""
    with database.write() as connection:
        drained = _drain(connection, releases.find(connection, name_or_id), deadline=deadline, now=now)
        return _known(connection, drained)


def retire(database: Database, replaced: Iterable[str], *, by: str, deadline: datetime, now: datetime) -> list[Release]:
    """Drain the releases that a new release replaces, if both the old and the new release are active.

    Args:
        database: The broker's database.
        replaced: The names of the old releases. Names that the broker has not registered are skipped.
        by: The name or id of the new release. If the new release is not active, the old releases stay active:
            otherwise no active release would remain.
        deadline: The draining deadline, as in `releases.drain`.
        now: The time on the owner's clock.

    Returns:
        The releases that this call set to draining.

    Raises:
        ReleaseUnknownError: The new release is not registered.
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


def _drain(connection: Connection, release: Release, *, deadline: datetime, now: datetime, why: str = "") -> Release:
    drained = releases.drain(connection, release.release_id, deadline=deadline, now=now)
    _note(connection, Decision.DRAINING, drained, now, detail=f"until {deadline.isoformat()}{why}")
    return drained


def revoke(database: Database, name_or_id: str, *, now: datetime) -> KnownRelease:
    """Revoke a release permanently. See `releases.revoke`."""
    with database.write() as connection:
        found = releases.find(connection, name_or_id)
        revoked = releases.revoke(connection, found.release_id)
        _note(connection, Decision.REVOKED, revoked, now)
        return _known(connection, revoked)


def enrol_platform(
    database: Database, platform: PlatformKind, platform_id: str, *, label: str, now: datetime
) -> EnrolledPlatform:
    """Enroll a platform. Releases that require enrolled platforms then release their key to it."""
    with database.write() as connection:
        platforms.enrol(connection, platform, platform_id, label=label, now=now)
        entry = Entry(time=now, peer=OWNER, decision=Decision.ENROLLED, code="ok", detail=label, platform=platform,
                      platform_id=platform_id)  # fmt: skip
        audit.append(connection, entry)
        return next(
            found
            for found in platforms.every(connection)
            if (found.platform, found.platform_id) == (platform, platform_id)
        )


def withdraw_platform(
    database: Database, platform: PlatformKind, platform_id: str, *, now: datetime
) -> EnrolledPlatform:
    """Remove the enrolment of a platform. Releases that require enrolled platforms then refuse it their key.

    Raises:
        InputError: `broker.platform-not-enrolled` if the platform is not enrolled.
    """
    with database.write() as connection:
        withdrawn = platforms.withdraw(connection, platform, platform_id)
        entry = Entry(time=now, peer=OWNER, decision=Decision.WITHDRAWN, code="ok", detail=withdrawn.label,
                      platform=platform, platform_id=platform_id)  # fmt: skip
        audit.append(connection, entry)
        return withdrawn


def every_platform(database: Database) -> list[EnrolledPlatform]:
    """Return the enrolled platforms, oldest first."""
    with database.read() as connection:
        return platforms.every(connection)


def every_release(database: Database) -> list[KnownRelease]:
    """Return all releases, oldest first."""
    with database.read() as connection:
        return [_known(connection, release) for release in releases.every(connection)]


def find_release(database: Database, name_or_id: str) -> KnownRelease:
    """Return one release with its enclaves. See `releases.find`."""
    with database.read() as connection:
        return _known(connection, releases.find(connection, name_or_id))


def log(database: Database, *, last: int | None = None) -> list[AuditRow]:
    """Return the rows of the audit log, oldest first: the ``last`` rows, or all rows if ``last`` is `None`."""
    with database.read() as connection:
        return list(audit.rows(connection, last=last))


def verify_log(
    database: Database,
    owner_key: Ed25519PublicKey | None = None,
    *,
    former_keys: Sequence[Ed25519PublicKey] = (),
    kept: tuple[Head, ...] = (),
) -> VerifiedChain:
    """Verify the whole audit log. See `audit.verify_chain`."""
    with database.read() as connection:
        rows, digest = audit.verify_chain(connection, owner_key, former_keys=former_keys, kept=kept)
    return VerifiedChain(rows=rows, head=digest, signatures=owner_key is not None)


def sign_log(database: Database, signer: Ed25519PrivateKey, *, now: datetime) -> Head:
    """Sign the current end of the audit log and return the signed head."""
    with database.write() as connection:
        return audit.sign_head(connection, signer, now=now)


def status(database: Database) -> Status:
    """Return a summary of the broker's database."""
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
        mr_enclave=values.measurement.hex() if values else None,
        mr_signer=values.signer.hex() if values else None,
    )
    audit.append(connection, entry)


def _known(connection: Connection, release: Release) -> KnownRelease:
    enclaves = releases.references_of(connection, release.release_id)
    return KnownRelease(release=release, enclaves=tuple(enclaves))
