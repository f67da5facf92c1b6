"""``sealserve logs``: what the parts of the deployment say."""

from typing import Annotated

import typer

from sealserve.cli import completion, console, options
from sealserve.cli.context import Place
from sealserve.cli.verbs import Verbs
from sealserve.cluster.targets import open_target

app = Verbs()
WIDEST = len("replica-999")


@app.command()
def logs(
    place: Place,
    part: Annotated[
        str | None,
        typer.Argument(help="broker, replica-0, nginx, ...", show_default="all", autocompletion=completion.parts),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until stopped.")] = False,
    last: Annotated[int, typer.Option("--last", "-n", min=0, help="How many lines of each.")] = 20,
    target: options.Target = None,
) -> None:
    """Show the logs, each line with the part that wrote it."""
    opened = open_target(place.workspace, place.deployment, target)
    width = len(part) if part else WIDEST
    for line in opened.logs(part, last=last, follow=follow):
        console.out.print(f"{line.part:<{width}} ", end="", style="dim")
        console.out.print(line.text)
