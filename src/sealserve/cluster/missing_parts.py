"""Detection of parts that should exist but do not: `docker rm -f` leaves no trace of a container."""

from collections import Counter
from collections.abc import Sequence

from sealserve.cluster.target import BROKER, NGINX, REPLICA, PartStatus, State


def with_missing(parts: Sequence[PartStatus], expected: Sequence[str]) -> list[PartStatus]:
    """Return the parts in display order, NGINX first, with a row for each missing part.

    Args:
        parts: The existing parts.
        expected: The roles of the parts that should exist. A role with several parts occurs several times.
    """
    absent = Counter(expected) - Counter(part.role for part in parts)
    missing = [PartStatus(role=role, state=State.MISSING) for role in absent.elements()]
    return sorted([*parts, *missing], key=_place)


def _place(part: PartStatus) -> tuple[int, int, str]:
    if part.role == NGINX:
        return (0, 0, part.instance)
    if part.role.startswith(REPLICA) and (number := part.role.removeprefix(REPLICA)).isdecimal():
        return (1, int(number), part.instance)
    return (2 if part.role == BROKER else 3, 0, part.role)
