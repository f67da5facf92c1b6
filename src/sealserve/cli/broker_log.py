"""``sealserve broker log``: show, follow and verify the audit log."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from sealserve.cli import completion, console, remote_broker
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Table
from sealserve.interruptions import interrupted_once

with deferred:
    from sealserve.broker import admin
    from sealserve.broker.administration.log_reader import rows_forever, selected_rows
    from sealserve.broker.audit import AuditRow
    from sealserve.broker.audit_entry import Entry
    from sealserve.broker.audit_selection import Selection
    from sealserve.broker.head_file import read_head
    from sealserve.cli import audit_codes as codes
    from sealserve.cli.administration import administration
    from sealserve.cli.broker_json import encode
    from sealserve.cluster.logs.selection import parse_since
    from sealserve.owner import provisioning
    from sealserve.owner.broker_database import may_exist
    from sealserve.owner.owner import Owner
    from sealserve.regular_file import read_regular
    from sealserve.workspace import Workspace

_POLL_SECONDS: Final = 0.5
_REMOTE_POLL_SECONDS: Final = 1.0  # each request opens a new connection
_COLUMNS: Final = ("#", "TIME (UTC)", "DECISION", "CODE", "RELEASE", "MRENCLAVE", "TCB", "PEER", "DETAIL")
_WIDTHS: Final = (5, 19, 13, 28, 12, 12, 10, 21, 0)
"""Widths of the columns with ``--follow``, where later rows are not known yet."""


def log(
    context: Context,
    last: Annotated[
        int | None, typer.Option("--last", "-n", min=1, show_default="all", help="Number of newest rows to show")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Show only rows since this time or duration: 10m, 2h, 7d, 2026-01-31T12:00:00Z",
            show_default="no limit",
        ),
    ] = None,
    code: Annotated[
        list[str] | None,
        typer.Option(
            "--code",
            help="Show only rows with this code: ok, or the code of an error (repeatable)",
            show_default="all",
            autocompletion=completion.audit_codes,
        ),
    ] = None,
    release: Annotated[
        str | None,
        typer.Option(
            "--release",
            help="Show only rows of this release: its name, or at least 6 digits of its id",
            show_default="all",
            autocompletion=completion.releases,
        ),
    ] = None,
    platform: Annotated[
        str | None,
        typer.Option(
            "--platform",
            help="Show only rows of this platform: its label, or at least 6 digits of its id",
            show_default="all",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue to print new rows until stopped")] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="First verify the log and its signed heads, and compare the database with it"),
    ] = False,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check", metavar="HEADFILE", help="Also verify against a signed head that you stored on another machine"
        ),
    ] = None,
    sign: Annotated[
        bool, typer.Option("--sign", help="Verify, and print a signed head as JSON, to store on another machine")
    ] = False,
) -> None:
    """Show the audit log: released keys, refused requests, and changes by the owner.

    Each row contains the hash of the previous row, so a changed or deleted row is detected. A signed head on another
    machine also detects that rows at the end were deleted. With --json and --follow, each row is one line of JSON.
    """
    selection = Selection(
        since=None if since is None else parse_since(since, now=datetime.now(UTC)),
        codes=tuple(code or ()),
        release=release,
        platform=platform,
        last=last,
    )
    if verify or sign or check is not None:
        # A broker that was taken over could report that its own log is valid. The owner's machine has the keys.
        remote_broker.require_local("The owner's keys verify and sign the audit log")
        _verify(context.workspace, check, warn=not sign)
    for unknown in codes.unknown_codes(code or ()):
        console.warn(unknown)
    if sign:
        console.print_json(encode(provisioning.sign_log(context.workspace, now=datetime.now(UTC))))
    elif follow:
        with (
            contextlib.suppress(KeyboardInterrupt),
            interrupted_once(),
        ):  # an interruption is the normal end: exit status 0
            _follow(context, selection)
    else:
        rows = _selected(context, selection)
        empty = "The audit log is empty." if selection == Selection(last=last) else "No rows match."
        context.show(encode(rows), Table(_COLUMNS, [_cells(row) for row in rows], empty=empty))


def _selected(context: Context, selection: Selection) -> Sequence[AuditRow]:
    if remote_broker.chosen() is None:
        with Owner.open(context.workspace).database() as database:
            return admin.select_log(database, selection)[0]
    with administration(context) as broker:
        return selected_rows(broker, selection)[0]


def _verify(workspace: Workspace, check: Path | None, *, warn: bool) -> None:
    kept = None if check is None else read_head(read_regular(check), name=str(check))
    summary, any_kept = provisioning.verify_log(workspace, kept=kept)
    console.say(f"The chain of {summary.rows} rows verifies; head {summary.head}.")
    if summary.not_compared:
        console.say(
            f"{len(summary.not_compared)} facts cannot be compared with the log, because an earlier version did not "
            f"record them: {'; '.join(summary.not_compared)}."
        )
    if not any_kept and warn:
        console.say(
            "Warning: deleted rows at the end of the log cannot be detected, because no signed head is stored "
            "outside the database. Run `sealserve broker log --sign`, and store its output on another machine."
        )


def _follow(context: Context, selection: Selection) -> None:
    """Print the selected rows, and then each new row. No transaction is open while this function waits."""
    if not context.as_json:
        console.out.print(_line(_COLUMNS), style="bold")
    for row in _rows_forever(context, selection):
        if context.as_json:
            sys.stdout.write(console.to_json(encode(row)) + "\n")
            sys.stdout.flush()
        else:
            console.out.print(_line(_cells(row)))


def _rows_forever(context: Context, selection: Selection) -> Iterator[AuditRow]:
    if remote_broker.chosen() is not None:
        with administration(context) as broker:
            yield from rows_forever(broker, selection, lambda: time.sleep(_REMOTE_POLL_SECONDS))
    workspace = context.workspace
    # The first command of the owner creates the database.
    while not (may_exist(workspace) or workspace.owner.former_database.exists()):
        time.sleep(_POLL_SECONDS)
    with Owner.open(workspace).database() as database:
        rows, end = admin.select_log(database, selection)
        while True:
            yield from rows
            time.sleep(_POLL_SECONDS)
            rows, end = admin.newer_log(database, selection, after=end)


def _cells(row: AuditRow) -> Sequence[object]:
    entry = row.entry
    return (row.seq, f"{entry.time:%Y-%m-%d %H:%M:%S}", entry.decision, entry.code, (entry.release_id or "")[:12],
            (entry.mr_enclave or "")[:12], entry.tcb_status or "", _who(entry), entry.detail)  # fmt: skip


def _who(entry: Entry) -> str:
    return entry.peer if entry.actor is None else f"{entry.actor} at {entry.peer}"


def _line(cells: Iterable[object]) -> str:
    return "  ".join(f"{cell!s:<{width}}" for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip()
