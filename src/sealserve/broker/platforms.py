"""The broker's data about platforms: the enrolled platforms, and the newest collateral seen so far.

A genuine processor may still be in the hands of an attacker: a server with a bus interposer produces valid, up-to-date
quotes (interposer attacks of 2025). Therefore a release can require enrolled platforms. A host that controls its PCCS
could also serve older TCB info that is still within its dates. Therefore the broker stores the highest evaluation
number seen, and rejects lower numbers.
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
    """A platform that the owner enrolled."""

    platform: PlatformKind
    platform_id: str
    label: str
    enrolled: datetime


def enrol(connection: Connection, platform: PlatformKind, platform_id: str, *, label: str, now: datetime) -> None:
    """Enroll a platform, or change the label of an enrolled platform.

    Raises:
        InputError: `broker.platform-id` if ``platform_id`` is malformed or ``label`` has more than 64 characters.
    """
    if not _PLATFORM_ID.fullmatch(platform_id):
        raise BrokerCode.PLATFORM_ID.error(
            f"The platform id is invalid: expected 32 lower-case hex digits, got {platform_id!r}.",
            hint="Run `sealserve quote verify` or `sealserve broker log` to see the id of a platform.",
        )
    if len(label) > _MAX_LABEL:
        raise BrokerCode.PLATFORM_ID.error(
            f"The platform label is too long: expected at most {_MAX_LABEL} characters, got {len(label)}."
        )
    where = (PLATFORMS.c.platform == platform) & (PLATFORMS.c.platform_id == platform_id)
    if connection.execute(update(PLATFORMS).where(where).values(label=label)).rowcount == 0:
        row = {"platform": platform, "platform_id": platform_id, "label": label, "enrolled": to_text(now)}
        connection.execute(insert(PLATFORMS).values(row))


def withdraw(connection: Connection, platform: PlatformKind, platform_id: str) -> EnrolledPlatform:
    """Remove the enrolment of a platform and return the former enrolment.

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
    """Return the ids of the enrolled platforms of one kind."""
    query = select(PLATFORMS.c.platform_id).where(PLATFORMS.c.platform == platform)
    return frozenset(connection.execute(query).scalars())


def evaluation_floor(connection: Connection, root: str) -> int:
    """Return the highest ``tcbEvaluationDataNumber`` of verified collateral under a root, or 0 if none was seen.

    Args:
        connection: A transaction.
        root: SHA-256 of the root certificate, as hex.
    """
    query = select(EVALUATION_FLOOR.c.number).where(EVALUATION_FLOOR.c.anchor == root)
    return connection.execute(query).scalar() or 0


def raise_evaluation_floor(
    connection: Connection, root: str, platform: PlatformKind, number: int, *, now: datetime
) -> None:
    """Store ``number`` if it exceeds the floor of the root. The root is the trust anchor of this kind of platform."""
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
