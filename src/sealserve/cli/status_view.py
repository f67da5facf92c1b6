"""The state of a deployment as text for terminals of any width: general facts, then a row for each part."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sealserve.cli.status_document import Part, Standing, StatusDocument
from sealserve.cluster.target import Health, State

_UNKNOWN: Final = "-"
_GAP: Final = "  "
_STANDING: Final = {Standing.WELL: "green", Standing.DEGRADED: "yellow", Standing.DOWN: "red"}
_STATES: Final = {
    State.STARTING: "yellow",
    State.REFUSED: "red",
    State.ATTESTED: "cyan",
    State.NEXT: "cyan",
    State.LEAVING: "yellow",
    State.ENDED: "red",
    State.MISSING: "red",
}
_PROTOCOLS: Final = {"grpc": "gRPC", "rest": "REST"}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text, and its rich style. An empty style means the terminal's default."""

    text: str
    style: str = ""


def lines(document: StatusDocument, width: int) -> Iterator[Line]:
    """Yield the lines of a document.

    Args:
        document: The state of the deployment.
        width: Width of the terminal in columns. Table columns that do not fit are left out; long texts are wrapped.
    """
    yield Line(f"State      {document.state}", _STANDING[document.state])
    for name, value in _facts(document):
        yield from _wrapped(f"{name:<11}", value, width)
    for problem in document.problems:
        yield from _wrapped("! ", problem, width, "red")
    for warning in document.warnings:
        yield from _wrapped("! ", warning, width, "yellow")
    if document.parts:
        yield Line("")
        yield from _table(document.parts, document.time, width)


def age(moment: datetime | None, now: datetime) -> str:
    """Return the age of a time as text, such as ``3 min ago``; empty if the time is unknown."""
    if moment is None:
        return ""
    seconds = max(0, int((now - moment).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def duration(seconds: int | None) -> str:
    """Return a duration in its two largest units, such as ``3h12m``."""
    if seconds is None:
        return _UNKNOWN
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d{hours % 24}h"
    if hours:
        return f"{hours}h{minutes % 60}m"
    return f"{minutes}m{seconds % 60}s" if minutes else f"{seconds}s"


def _facts(document: StatusDocument) -> Iterator[tuple[str, str]]:
    if not document.parts:
        return
    yield "Target", document.target
    yield "Release", document.release or "none"
    for model in document.models:
        named = {version: [label for label, of in model.labels.items() if of == version] for version in model.versions}
        versions = ", ".join(f"{version} ({', '.join(names)})" if names else str(version)
                             for version, names in named.items())  # fmt: skip
        yield "Model", f"{model.name}, version {versions}"
    for endpoint in document.endpoints:
        protocol = _PROTOCOLS.get(endpoint.protocol, endpoint.protocol)
        yield protocol, f"{endpoint.url} ({endpoint.server_name}, {endpoint.tls} TLS)"
    yield "Replicas", f"{document.replicas.ready} of {document.replicas.desired} ready"
    if document.drift is not None:
        differences = [f"{item.key}: {item.released or 'not set'} -> {item.described or 'not set'}"
                       for item in document.drift]  # fmt: skip
        yield "Drift", "; ".join(differences) or "none"
    if document.certificates:
        first = document.certificates[0]
        yield "Expires", f"{first.certificate} certificate first, on {first.ends:%Y-%m-%d} ({first.days_left} days)"


def _table(parts: Sequence[Part], now: datetime, width: int) -> Iterator[Line]:
    headings = ["PART", "STATE", "HEALTH", "UPTIME", "RESTARTS", "CONNECTIONS", "REQUESTS", "INSTANCE"]
    rows = [_cells(part) for part in parts]
    widths = [max(len(row[index]) for row in [headings, *rows]) for index in range(len(headings))]
    # Leave out columns from the right until a row fits.
    count = len(headings)
    while count > 2 and sum(widths[:count]) + len(_GAP) * (count - 1) > width:  # noqa: PLR2004  # a part and its state
        count -= 1
    heading = _joined(headings[:count], widths)
    errors = any(part.error for part in parts)
    yield Line(f"{heading}{_GAP}LAST ERROR" if errors and len(heading) + 12 <= width else heading.rstrip(), "bold")
    for part, row in zip(parts, rows, strict=True):
        text = _joined(row[:count], widths)
        style = _STATES.get(part.state, "red" if part.health is Health.UNHEALTHY else "")
        error = _error(part, now)
        place = sum(widths[:count]) + len(_GAP) * count
        if not error:
            yield Line(text.rstrip(), style)
        elif place + len(error) <= width:
            yield Line(f"{text:<{place}}{error}", style)
        else:
            yield Line(text.rstrip(), style)
            yield from _wrapped("    ", error, width, style)


def _cells(part: Part) -> list[str]:
    counts = [_UNKNOWN if count is None else str(count) for count in (part.connections, part.requests)]
    instance = part.instance or (f"pid {part.pid}" if part.pid is not None else _UNKNOWN)
    missing = part.state is State.MISSING
    restarts = _UNKNOWN if missing else str(part.restarts)
    return [part.role, part.state, part.health, duration(part.uptime_seconds), restarts, *counts, instance]


def _error(part: Part, now: datetime) -> str:
    if not part.error:
        return ""
    ago = age(part.error_time, now)
    return f"{ago}: {part.error}" if ago else part.error


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(cell.ljust(size) for cell, size in zip(cells, widths, strict=False))


def _wrapped(begin: str, text: str, width: int, style: str = "") -> Iterator[Line]:
    """Yield a text in lines that fit: the first line after ``begin``, the other lines indented as far."""
    room = max(10, width - len(begin))
    pieces = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
    for number, piece in enumerate(pieces):
        yield Line((begin if number == 0 else " " * len(begin)) + piece, style)
