"""``sealserve status``: show the state of the deployment and its parts."""

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
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Update the output continuously until stopped")] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, help="Seconds between two updates with --watch")
    ] = 2.0,
) -> None:
    """Show the state of the deployment and its parts.

    Exit status: 0 if everything is well, 5 if the service answers but something is wrong, 6 if the service does not
    answer.
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
    # Use the terminal's alternate screen: each update replaces it completely, and the main screen is restored at the
    # end.
    with Live(console=console.out, screen=True, auto_refresh=False, redirect_stdout=False) as live:
        while True:
            shown = [Text(console.visible(line.text), style=line.style) for line in lines(look(), width())]
            live.update(Group(*shown), refresh=True)
            time.sleep(interval)
