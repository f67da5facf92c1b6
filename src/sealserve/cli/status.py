"""``sealserve status``: whether the deployment does what it should."""

import json
import sys
import time
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from sealserve.cli import console, options
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.verbs import Verbs

with deferred:
    from sealserve.cli.overview import observe
    from sealserve.cli.part_table import show_deployment, width
    from sealserve.cli.status_document import StatusDocument
    from sealserve.cli.status_view import lines
    from sealserve.cluster import targets

app = Verbs()


@app.command()
def status(
    context: Context,
    target: options.Target = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again and again until stopped.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Show the deployment and its parts. The exit status is 0 only if all is well.

    5: the service answers, and something is wrong. 6: the service does not answer.
    """
    opened = targets.open_target(context.workspace, context.deployment, target)
    if not watch:
        raise typer.Exit(show_deployment(context, opened, target).state.exit_status)
    kind = target or targets.in_use(context.workspace) or context.deployment.target.kind

    def look() -> StatusDocument:
        return observe(context.workspace, context.deployment, opened, kind)

    if context.as_json:
        while True:
            sys.stdout.write(json.dumps(look().model_dump(mode="json")) + "\n")
            sys.stdout.flush()
            time.sleep(interval)
    if not console.out.is_terminal:
        while True:
            for line in lines(look(), width()):
                console.out.print(line.text)
            console.out.print("")
            sys.stdout.flush()
            time.sleep(interval)
    # The terminal's second screen is drawn at once each time, and the first one is as before in the end.
    with Live(console=console.out, screen=True, auto_refresh=False, redirect_stdout=False) as live:
        while True:
            shown = [Text(console.visible(line.text), style=line.style) for line in lines(look(), width())]
            live.update(Group(*shown), refresh=True)
            time.sleep(interval)
