"""The broker's data about platforms: the enrolled platforms, and the newest collateral seen so far.

A genuine processor may still be in the hands of an attacker: a server with a bus interposer produces valid, up-to-date
quotes (interposer attacks of 2025). Therefore a release can require enrolled platforms. A host that controls its PCCS
could also serve older TCB info that is still within its dates. Therefore the broker stores the highest evaluation
number seen, and rejects lower numbers.

The caller appends the audit row of a change first, because the tag of the changed row names it
(`sealserve.broker.row_authentication`).
"""

import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydantic import JsonValue
from sqlalchemy import Connection, bindparam, delete, select

from sealserve.broker import audit, prepared, row_authentication
from sealserve.broker.audit_entry import Decision, Entry
from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import reading
from sealserve.broker.prepared import Prepared
from sealserve.broker.stored_time import from_text, to_text
from sealserve.broker.tables import EVALUATION_FLOOR, PLATFORMS
from sealserve.broker.wanted_row import check_wanted
from sealserve.terms import PlatformKind

_PLATFORM_ID: Final = re.compile(r"[0-9a-f]{32}")
_MAX_LABEL: Final = 64

# Built once, because each key release executes these statements.
_ENROLLED: Final = Prepared(select(PLATFORMS).where(PLATFORMS.c.platform == bindparam("platform")))
_FLOORS: Final = Prepared(select(EVALUATION_FLOOR))
_FLOOR: Final = Prepared(select(EVALUATION_FLOOR).where(EVALUATION_FLOOR.c.anchor == bindparam("anchor")))


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledPlatform:
    """A platform that the owner enrolled."""

    platform: PlatformKind
    platform_id: str
    label: str
    enrolled: datetime


def check_id(platform_id: str) -> None:
    """Check the form of a platform id.

    Raises:
        InputError: `broker.platform-id` if it is not 32 lower-case hex digits.
    """
    if not _PLATFORM_ID.fullmatch(platform_id):
        raise BrokerCode.PLATFORM_ID.error(
            f"The platform id is invalid: expected 32 lower-case hex digits, got {platform_id!r:.80}.",
            hint="Run `sealserve broker pending`, `sealserve broker log --json` or `sealserve quote verify` to see "
            "platform ids.",
        )


def enrol(connection: Connection, platform: PlatformKind, platform_id: str, *, label: str, now: datetime) -> None:
    """Enroll a platform, or change the label of an enrolled platform.

    Raises:
        InputError: `broker.platform-id` if ``platform_id`` is malformed, or ``label`` has more than 64 characters or a
            control character.
    """
    check_id(platform_id)
    if not label.isprintable():
        raise BrokerCode.PLATFORM_ID.error(
            f"The platform label is invalid: expected printable characters, got {label!a:.80}."
        )
    if len(label) > _MAX_LABEL:
        raise BrokerCode.PLATFORM_ID.error(
            f"The platform label is too long: expected at most {_MAX_LABEL} characters, got {len(label)}."
        )
    query = select(PLATFORMS).where(PLATFORMS.c.platform == platform, PLATFORMS.c.platform_id == platform_id)
    known = prepared.first(connection, query)
    if known is not None:
        check_wanted(PLATFORMS, known, platform=platform, platform_id=platform_id)
    enrolled_at = to_text(now) if known is None else known["enrolled"]
    row = {"platform": platform, "platform_id": platform_id, "label": label, "enrolled": enrolled_at}
    row_authentication.put(connection, PLATFORMS, row)


def withdraw(connection: Connection, platform: PlatformKind, platform_id: str) -> EnrolledPlatform:
    """Remove the enrollment of a platform and return the former enrollment.

    Raises:
        InputError: `broker.platform-not-enrolled` if the platform is not enrolled.
    """
    for found in every(connection):
        if (found.platform, found.platform_id) == (platform, platform_id):
            where = (PLATFORMS.c.platform == platform) & (PLATFORMS.c.platform_id == platform_id)
            connection.execute(delete(PLATFORMS).where(where))
            return found
    raise BrokerCode.PLATFORM_NOT_ENROLLED.error(
        f"Platform {platform_id!r} of the kind {platform} is not enrolled.",
        hint="Run `sealserve broker platform list` to see the enrolled platforms.",
    )


def every(connection: Connection) -> list[EnrolledPlatform]:
    """Return the enrolled platforms, oldest first."""
    query = select(PLATFORMS).order_by(PLATFORMS.c.enrolled, PLATFORMS.c.platform_id)
    rows = prepared.rows(connection, query)
    for row in rows:
        row_authentication.verify(connection, PLATFORMS, row)
    with reading("platforms"):
        return [
            EnrolledPlatform(
                platform=PlatformKind(row["platform"]),
                platform_id=row["platform_id"],
                label=row["label"],
                enrolled=from_text(row["enrolled"]),
            )
            for row in rows
        ]


class Enrolled(AbstractSet[str]):
    """The ids of the enrolled platforms of one kind. Asking for an id verifies the row of that platform.

    Only the row that decides is verified, so that the time of a decision does not depend on the number of platforms.

    Args:
        connection: The transaction that read the rows. It may have ended.
        rows: The rows by platform id.
    """

    def __init__(self, connection: Connection, rows: Mapping[str, Mapping[str, Any]]) -> None:
        self._connection = connection
        self._rows = rows

    def __contains__(self, platform_id: object) -> bool:
        if not isinstance(platform_id, str) or (row := self._rows.get(platform_id)) is None:
            return False
        row_authentication.verify(self._connection, PLATFORMS, row)
        return True

    def __iter__(self) -> Iterator[str]:
        return (platform_id for platform_id in self._rows if platform_id in self)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        """The rows that the transaction read, without verification."""
        return self._rows


def enrolled(connection: Connection, platform: PlatformKind) -> Enrolled:
    """Return the ids of the enrolled platforms of one kind."""
    if (session := row_authentication.of(connection)) is not None:
        session.place(connection)  # read the log in this transaction, because the rows are verified later
    rows = prepared.rows(connection, _ENROLLED, platform=platform)
    for row in rows:
        check_wanted(PLATFORMS, row, platform=platform)
    return Enrolled(connection, {row["platform_id"]: row for row in rows})


class Floors:
    """The highest ``tcbEvaluationDataNumber`` of verified collateral by series. Asking for a series verifies its row.

    Args:
        connection: The transaction that read the rows. It may have ended.
        rows: The rows by series.
    """

    def __init__(self, connection: Connection, rows: Mapping[str, Mapping[str, Any]]) -> None:
        self._connection = connection
        self._rows = rows

    def of(self, series: str) -> int:
        """Return the floor of a series, or 0 if no collateral of the series was seen.

        Raises:
            VerificationError: `broker.database-authentication` if the row was changed or deleted.
        """
        if (row := self._rows.get(series)) is None:
            row_authentication.verify_absence(self._connection, EVALUATION_FLOOR, {"anchor": series})
            return 0
        row_authentication.verify(self._connection, EVALUATION_FLOOR, row)
        number: int = row["number"]
        return number

    @property
    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        """The rows that the transaction read, without verification."""
        return self._rows


def floors(connection: Connection) -> Floors:
    """Return the floors of all series, see `evaluation_floor`."""
    if (session := row_authentication.of(connection)) is not None:
        session.place(connection)  # as in `enrolled`
    return Floors(connection, {row["anchor"]: row for row in prepared.rows(connection, _FLOORS)})


def evaluation_floor(connection: Connection, series: str) -> int:
    """Return the highest ``tcbEvaluationDataNumber`` of verified collateral of a series, or 0 if none was seen.

    Args:
        connection: A transaction.
        series: The series of collateral, from `sealserve.attestation.evidence.ScreenedEvidence.series`.
    """
    row = prepared.first(connection, _FLOOR, anchor=series)
    if row is not None:
        check_wanted(EVALUATION_FLOOR, row, anchor=series)
    return Floors(connection, {} if row is None else {series: row}).of(series)


def raise_evaluation_floor(
    connection: Connection, series: str, platform: PlatformKind, number: int, *, now: datetime, peer: str = "owner"
) -> None:
    """Store ``number`` if it exceeds the floor of the series, and append the audit row.

    Args:
        connection: A writing transaction.
        series: The series of collateral. It belongs to this kind of platform.
        platform: The kind of platform.
        number: The ``tcbEvaluationDataNumber`` of verified collateral.
        now: The time on the owner's clock.
        peer: The peer whose request led to the collateral.
    """
    if number <= evaluation_floor(connection, series):
        return
    audit.append(connection, floor_entry(series, platform, number, now=now, peer=peer))
    row = {"anchor": series, "platform": platform, "number": number, "seen": to_text(now)}
    row_authentication.put(connection, EVALUATION_FLOOR, row)


def floor_entry(series: str, platform: str, number: int, *, now: datetime, peer: str = "owner") -> Entry:
    """Return the audit row of a floor."""
    detail = f"the TCB evaluation data number of collateral is at least {number} from now on"
    claims: dict[str, JsonValue] = {"series": series, "number": number}
    return Entry(time=now, peer=peer, decision=Decision.FLOOR_RAISED, code="ok", detail=detail, platform=platform,
                 claims=claims)  # fmt: skip


def evaluation_floors(connection: Connection) -> dict[str, int]:
    """Return the highest floor of each kind of platform, and of each update channel: ``sgx``, ``sgx-early``."""
    floors: dict[str, int] = {}
    for row in prepared.rows(connection, select(EVALUATION_FLOOR)):
        row_authentication.verify(connection, EVALUATION_FLOOR, row)
        channel = str(row["anchor"]).rpartition(":")[0]
        name = f"{row['platform']}-{channel}" if channel else str(row["platform"])
        floors[name] = max(row["number"], floors.get(name, 0))
    return floors
