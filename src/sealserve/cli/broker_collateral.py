"""``sealserve broker collateral``: list and refresh the collateral that the broker stored."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Table

with deferred:
    from sealserve.broker.stored_collateral import StoredDocument
    from sealserve.cli.administration import administration
    from sealserve.cli.broker_json import encode

_TIME = "%Y-%m-%d %H:%M"


def collateral(
    context: Context,
    refresh: Annotated[bool, typer.Option("--refresh", help="Download each listed document again first")] = False,
) -> None:
    """List the collateral that the broker stored, with its processors, evaluation numbers and validity."""
    with administration(context) as broker:
        # Every document is tried. An error is the only output, so that scripts can read it.
        documents = broker.refresh_collateral() if refresh else broker.collateral()
        floors = broker.status().evaluation_floor
    now = datetime.now(UTC)
    table = Table(
        ("PLATFORM", "DOCUMENT", "FOR", "UPDATE", "EVALUATION", "FETCHED (UTC)", "VALID UNTIL (UTC)", "STATE"),
        [
            (row.platform, row.document, row.subject or "all",
             row.update if row.evaluation_number is not None else "", row.evaluation_number or "",
             f"{row.fetched:{_TIME}}", f"{row.valid_until:{_TIME}}", _state(row, floors, now))
            for row in documents
        ],
        empty="No collateral yet: the broker downloads it when an enclave first requests a key.",
    )  # fmt: skip
    listed = [
        {**{name: encode(value) for name, value in _fields(row).items()}, "floor": row.floor(floors),
         "state": _state(row, floors, now)}
        for row in documents
    ]  # fmt: skip
    context.show(listed, table)


def _fields(row: StoredDocument) -> dict[str, object]:
    return {
        "platform": row.platform.value,
        "document": row.document,
        "subject": row.subject,
        "update": row.update.value,
        "evaluation_number": row.evaluation_number,
        "issued": row.issued,
        "valid_until": row.valid_until,
        "fetched": row.fetched,
        "url": row.url,
    }


def _state(row: StoredDocument, floors: dict[str, int], now: datetime) -> str:
    if now > row.valid_until:
        return "expired"
    floor = row.floor(floors)
    if row.evaluation_number is not None and floor is not None and row.evaluation_number < floor:
        return f"older than the floor {floor}"
    return "valid"
