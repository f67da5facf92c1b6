"""What the broker remembers of platforms: which are enrolled, and how new the collateral was that it has seen.

A genuine processor is not yet one's own: a tapped server gives valid, up-to-date quotes (bus interposers, 2025). A
release can therefore ask for enrolled platforms. And a host that controls its PCCS could serve yesterday's TCB info,
still valid by its dates: the highest evaluation number ever seen is remembered, and a lower one refused.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, update

from sealserve.broker.codes import BrokerCode
from sealserve.broker.database import EVALUATION_FLOOR, PLATFORMS, from_text, reading, to_text
from sealserve.terms import PlatformKind

_PLATFORM_ID: Final = re.compile(r"[0-9a-f]{32}")
_MAX_LABEL: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledPlatform:
    """A machine that is one's own."""

    platform: PlatformKind
    platform_id: str
    label: str
    enrolled: datetime


def enrol(connection: Connection, platform: PlatformKind, platform_id: str, *, label: str, now: datetime) -> None:
    """Enrol a platform, or give an enrolled one another label.

    Raises:
        InputError: `broker.platform-id`: ``platform_id`` is none, or ``label`` has more than 64 characters.
    """
    if not _PLATFORM_ID.fullmatch(platform_id):
        raise BrokerCode.PLATFORM_ID.error(
            f"{platform_id!r} is no platform id: that is 32 lower-case hex digits.",
            hint="`sealserve quote verify` and the audit log show a platform's.",
        )
    if len(label) > _MAX_LABEL:
        raise BrokerCode.PLATFORM_ID.error(f"The label has {len(label)} characters, expected at most {_MAX_LABEL}.")
    where = (PLATFORMS.c.platform == platform) & (PLATFORMS.c.platform_id == platform_id)
    if connection.execute(update(PLATFORMS).where(where).values(label=label)).rowcount == 0:
        row = {"platform": platform, "platform_id": platform_id, "label": label, "enrolled": to_text(now)}
        connection.execute(insert(PLATFORMS).values(row))


def withdraw(connection: Connection, platform: PlatformKind, platform_id: str) -> EnrolledPlatform:
    """Take back the enrolment of a platform; return what it was.

    Raises:
        InputError: `broker.platform-not-enrolled`: It is not enrolled.
    """
    for found in every(connection):
        if (found.platform, found.platform_id) == (platform, platform_id):
            where = (PLATFORMS.c.platform == platform) & (PLATFORMS.c.platform_id == platform_id)
            connection.execute(delete(PLATFORMS).where(where))
            return found
    raise BrokerCode.PLATFORM_NOT_ENROLLED.error(
        f"No platform {platform_id!r} of the kind {platform} is enrolled.",
        hint="`sealserve broker platform list` shows those that are.",
    )


def every(connection: Connection) -> list[EnrolledPlatform]:
    """Return the enrolled platforms, oldest first."""
    query = select(PLATFORMS).order_by(PLATFORMS.c.enrolled, PLATFORMS.c.platform_id)
    with reading("platforms"):
        return [
            EnrolledPlatform(
                platform=PlatformKind(row.platform),
                platform_id=row.platform_id,
                label=row.label,
                enrolled=from_text(row.enrolled),
            )
            for row in connection.execute(query)
        ]


def enrolled(connection: Connection, platform: PlatformKind) -> frozenset[str]:
    """Return the ids of the enrolled platforms of a kind."""
    query = select(PLATFORMS.c.platform_id).where(PLATFORMS.c.platform == platform)
    return frozenset(connection.execute(query).scalars())


def evaluation_floor(connection: Connection, root: str) -> int:
    """Return the highest ``tcbEvaluationDataNumber`` that verified collateral below a root ever had; 0 at first.

    Args:
        connection: A transaction.
        root: SHA-256 of the root certificate, as hex.
    """
    query = select(EVALUATION_FLOOR.c.number).where(EVALUATION_FLOOR.c.anchor == root)
    return connection.execute(query).scalar() or 0


def raise_evaluation_floor(
    connection: Connection, root: str, platform: PlatformKind, number: int, *, now: datetime
) -> None:
    """Remember ``number`` if it is higher than the floor of the root, which is trusted for this kind of platform."""
    if number <= evaluation_floor(connection, root):
        return
    row = {"anchor": root, "platform": platform, "number": number, "seen": to_text(now)}
    where = EVALUATION_FLOOR.c.anchor == row["anchor"]
    if connection.execute(update(EVALUATION_FLOOR).where(where).values(row)).rowcount == 0:
        connection.execute(insert(EVALUATION_FLOOR).values(row))


def evaluation_floors(connection: Connection) -> dict[str, int]:
    """Return the highest floor of each kind of platform."""
    query = select(EVALUATION_FLOOR.c.platform, func.max(EVALUATION_FLOOR.c.number))
    return {row[0]: row[1] for row in connection.execute(query.group_by(EVALUATION_FLOOR.c.platform))}
