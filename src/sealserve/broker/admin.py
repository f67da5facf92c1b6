"""The owner's operations on the broker's database, one function per command.

Each change also appends a row to the audit log, in the same transaction.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import JsonValue
from sqlalchemy import Connection, func, select

from sealserve.attestation.evidence import ReferenceValues
from sealserve.broker import audit, platforms, registration, releases
from sealserve.broker.audit import AuditRow, Head
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.audit_selection import LogPage, Selection, page, selected
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import Database
from sealserve.broker.platforms import EnrolledPlatform
from sealserve.broker.releases import PRODUCT_LABEL, Reference, Release, ReleaseAmbiguousError, ReleaseUnknownError
from sealserve.broker.standing import ReleaseState
from sealserve.broker.state_comparison import compare, fingerprint
from sealserve.broker.stored_key import RELEASE_KEYS
from sealserve.broker.tables import AUDIT, KEYS
from sealserve.errors import SealserveError
from sealserve.terms import PlatformKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who makes a change, for its audit row.

    Args:
        peer: The address and port of a remote administrator, or ``owner``.
        name: The name in the certificate of a remote administrator. `None` means the owner, at the broker's machine.
    """

    peer: str
    name: str | None = None


OWNER: Final = Actor(peer="owner")
"""The owner, at the broker's machine."""


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
        not_compared: The facts in the tables that cannot be compared, because an earlier version did not record them.
    """

    rows: int
    head: str
    signatures: bool
    not_compared: tuple[str, ...] = ()


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
    actor: Actor = OWNER,
) -> KnownRelease:
    """Permit the enclaves in ``references`` (by label) to receive the key of ``release``. See `registration.allow`.

    Repeating the call with the same values changes neither the database nor the audit log.
    """
    with database.write() as connection:
        known = releases.is_known(connection, release.release_id)
        before = releases.references_of(connection, release.release_id)
        if known and reactivate:
            _note(
                connection,
                Decision.REACTIVATED,
                release,
                now,
                detail=f"with the TCB policy {release.policy.tcb.name}",
                claims=_changeable_claims(release),
                actor=actor,
            )
            # The new policy replaces the acceptance of a product.
            for item in before:
                if item.label == PRODUCT_LABEL and PRODUCT_LABEL not in references:
                    audit.append(connection, _withdrawn_product(release, item, now, actor))
        for label, values in references.items():
            if Reference.of(label, values) not in before:
                claims = _allowed_claims(release, values)
                _note(
                    connection, Decision.ALLOWED, release, now, detail=label, values=values, claims=claims, actor=actor
                )
        # An error undoes the audit rows too.
        allowed = registration.allow(connection, release, references, reactivate=reactivate, keep_policy=keep_policy)
        return _known(connection, allowed)


def drain(
    database: Database, name_or_id: str, *, deadline: datetime, now: datetime, actor: Actor = OWNER
) -> KnownRelease:
    """Set a draining deadline for a release. See `releases.drain`."""
    with database.write() as connection:
        drained = _drain(connection, releases.find(connection, name_or_id), deadline=deadline, now=now, actor=actor)
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


def _drain(
    connection: Connection,
    release: Release,
    *,
    deadline: datetime,
    now: datetime,
    why: str = "",
    actor: Actor = OWNER,
) -> Release:
    _note(connection, Decision.DRAINING, release, now, detail=f"until {deadline.isoformat()}{why}", actor=actor)
    return releases.drain(connection, release.release_id, deadline=deadline, now=now)


def revoke(database: Database, name_or_id: str, *, now: datetime, actor: Actor = OWNER) -> KnownRelease:
    """Revoke a release permanently, and all other releases with the same key. See `releases.revoke`."""
    with database.write() as connection:
        found = releases.find(connection, name_or_id)
        _note(connection, Decision.REVOKED, found, now, actor=actor)
        revoked = releases.revoke(connection, found.release_id)
        # The key is revoked, so no other release may have it either.
        for other in releases.with_same_key(connection, revoked):
            detail = f"its key is also the key of {revoked.name}"
            _note(connection, Decision.REVOKED, other, now, detail=detail, actor=actor)
            releases.revoke(connection, other.release_id)
        return _known(connection, revoked)


def enrol_platform(
    database: Database, platform: PlatformKind, platform_id: str, *, label: str, now: datetime, actor: Actor = OWNER
) -> EnrolledPlatform:
    """Enroll a platform. Releases that require enrolled platforms then release their key to it."""
    with database.write() as connection:
        entry = Entry(time=now, peer=actor.peer, actor=actor.name, decision=Decision.ENROLLED, code="ok", detail=label,
                      platform=platform, platform_id=platform_id)  # fmt: skip
        audit.append(connection, entry)
        platforms.enrol(connection, platform, platform_id, label=label, now=now)
        return next(
            found
            for found in platforms.every(connection)
            if (found.platform, found.platform_id) == (platform, platform_id)
        )


def withdraw_platform(
    database: Database, platform: PlatformKind, platform_id: str, *, now: datetime, actor: Actor = OWNER
) -> EnrolledPlatform:
    """Remove the enrollment of a platform. Releases that require enrolled platforms then refuse it their key.

    Raises:
        InputError: `broker.platform-not-enrolled` if the platform is not enrolled.
    """
    with database.write() as connection:
        withdrawn = platforms.withdraw(connection, platform, platform_id)
        entry = Entry(time=now, peer=actor.peer, actor=actor.name, decision=Decision.WITHDRAWN, code="ok",
                      detail=withdrawn.label, platform=platform, platform_id=platform_id)  # fmt: skip
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


def log(database: Database, *, last: int | None = None, after: int = 0, limit: int | None = None) -> list[AuditRow]:
    """Return rows of the audit log, oldest first. See `audit.rows`."""
    with database.read() as connection:
        return list(audit.rows(connection, last=last, after=after, limit=limit))


def log_page(database: Database, selection: Selection, *, after: int, limit: int) -> LogPage:
    """Return a part of the rows that match ``selection``, oldest first. See `audit_selection.page`."""
    with database.read() as connection:
        return page(connection, selection, after=after, limit=limit)


def select_log(database: Database, selection: Selection) -> tuple[list[AuditRow], int]:
    """Return the rows that match ``selection``, oldest first, and the number of the last row of the whole log."""
    with database.read() as connection:
        return list(selected(connection, selection)), audit.head(connection)[0]


def newer_log(database: Database, selection: Selection, *, after: int) -> tuple[list[AuditRow], int]:
    """Return the same as `select_log`, but only rows after row ``after``. ``last`` does not count.

    Raises:
        VerificationError: `audit.truncated` if the log is shorter than it was.
    """
    with database.read() as connection:
        end, _ = audit.head(connection)
        if end < after:
            raise truncated(after, end)
        if end == after:
            return [], end
        return list(selected(connection, replace(selection, last=None), after=after)), end


def truncated(before: int, now: int) -> SealserveError:
    """Return the error for an audit log that is shorter than it was."""
    return BrokerCode.AUDIT_TRUNCATED.error(
        f"The audit log was truncated: it had {before} rows, but now has {now}.",
        hint="Run `sealserve broker log --verify`.",
    )


def verify_log(
    database: Database,
    owner_key: Ed25519PublicKey | None = None,
    *,
    former_keys: Sequence[Ed25519PublicKey] = (),
    kept: tuple[Head, ...] = (),
) -> VerifiedChain:
    """Verify the whole audit log, and compare the tables with it.

    Raises:
        VerificationError: As `audit.verify_chain`, or `audit.state` if a row differs from the log.
    """
    with database.read() as connection:
        rows, digest = audit.verify_chain(connection, owner_key, former_keys=former_keys, kept=kept)
        compared = compare(connection)
    compared.check()
    signatures = owner_key is not None
    return VerifiedChain(rows=rows, head=digest, signatures=signatures, not_compared=compared.not_compared)


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
            keys=connection.execute(select(func.count()).select_from(KEYS).where(RELEASE_KEYS)).scalar_one(),
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
    actor: Actor = OWNER,
    claims: Mapping[str, JsonValue] | None = None,
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
        mr_enclave=values.measurement.hex() if values else None,
        mr_signer=values.signer.hex() if values else None,
        claims=claims or {},
    )
    audit.append(connection, entry)


def _withdrawn_product(release: Release, product: Reference, now: datetime, actor: Actor) -> Entry:
    return Entry(
        time=now,
        peer=actor.peer,
        actor=actor.name,
        decision=Decision.WITHDRAWN,
        code="ok",
        detail=product.label,
        release_id=release.release_id,
        platform=release.platform,
        mr_enclave=product.measurement.hex(),
    )


def _changeable_claims(release: Release) -> dict[str, JsonValue]:
    """Return the facts that a reactivation can change."""
    return {"policy SHA-256": fingerprint(release.policy.to_json()), "secret_form": release.secret_form.value}


def _allowed_claims(release: Release, values: ReferenceValues) -> dict[str, JsonValue]:
    """Return the facts with which `state_comparison` compares the rows later."""
    named = {"name": release.name, "key_id": release.key_id}
    return {**named, **_changeable_claims(release), "reference SHA-256": fingerprint(values.to_json())}


def _known(connection: Connection, release: Release) -> KnownRelease:
    enclaves = releases.references_of(connection, release.release_id)
    return KnownRelease(release=release, enclaves=tuple(enclaves))
