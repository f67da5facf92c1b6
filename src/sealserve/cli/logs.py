"""``sealserve logs``: show the logs of the deployment's parts."""

import json
import sys
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from sealserve.cli import completion, console, options
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.verbs import Verbs
from sealserve.log_line import format_time

with deferred:
    from sealserve.cluster.logs.merge import LogLine
    from sealserve.cluster.logs.selection import LogSelection, parse_since
    from sealserve.cluster.targets import open_target

app = Verbs()

_LINES: Final = 20
_WIDEST: Final = len("replica-999")
_NO_TIME: Final = " " * len("2026-01-31T12:00:00.000Z")
_STYLES: Final = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}


@app.command()
def logs(
    context: Context,
    part: Annotated[
        str | None,
        typer.Argument(
            help="Part of the deployment: broker, nginx, replica-0, platform, pcs, ...",
            show_default="all parts",
            autocompletion=completion.parts,
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue to print new lines until stopped")] = False,
    tail: Annotated[
        int | None,
        typer.Option(
            "--tail",
            "--last",
            "-n",
            min=0,
            help="Number of last lines of each log",
            show_default="20, or all lines with --since",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Show only lines since this time or duration: 10m, 1h30m, 2d, 2026-01-31T12:00:00Z",
            show_default="no limit",
        ),
    ] = None,
    target: options.Target = None,
) -> None:
    """Show the logs of all parts or of one part, ordered by time (UTC).

    Example: `sealserve logs replica-0 --since 10m --follow`.
    """
    start = None if since is None else parse_since(since, now=datetime.now(UTC))
    last = _LINES if tail is None and start is None else tail
    selection = LogSelection(last=last, since=start, follow=follow)
    opened = open_target(context.workspace, context.deployment, target)
    show = _show_json if context.as_json else _show
    width = len(part) if part else _WIDEST
    for line in opened.logs(part, selection):
        show(line, width)


def _show(line: LogLine, width: int) -> None:
    moment = _NO_TIME if line.time is None else format_time(line.time)
    console.out.print(f"{moment} {line.part:<{width}} ", end="", style="dim")
    level = line.level or ""
    console.out.print(f"{level} {line.text}" if level else line.text, style=_STYLES.get(level))


def _show_json(line: LogLine, _width: int) -> None:
    """Print a line as one JSON object. Non-ASCII characters are escaped, because some of them control a terminal."""
    value = {
        "time": None if line.time is None else format_time(line.time),
        "part": line.part, "instance": line.instance, "level": line.level, "text": line.text,
    }  # fmt: skip
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
