"""``sealserve logs``: what the parts of the deployment say."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from sealserve import deployment
from sealserve.cli import console
from sealserve.cluster.local import LocalTarget
from sealserve.errors import InputError

app = typer.Typer(add_completion=False)


class PartUnknownError(InputError):
    """There is no such part, or it has no log yet."""

    code = "logs.unknown-part"


@app.command()
def logs(
    part: Annotated[str | None, typer.Argument(help="broker, replica-0, nginx-error, ...", show_default="all")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until stopped.")] = False,
    last: Annotated[int, typer.Option("--last", "-n", min=0, help="How many lines of each.")] = 20,
    directory: console.Directory = console.HERE,
) -> None:
    """Show the logs, each line with the part that wrote it."""
    workspace = console.find_workspace(directory)
    target = LocalTarget(workspace, deployment.read(workspace.deployment_file))
    found = {role: path for role, path in target.logs() if part in (None, role)}
    if not found:
        known = ", ".join(role for role, _ in target.logs()) or "none yet"
        raise PartUnknownError(f"There is no log of {part or 'any part'}; there: {known}.")
    width = max(map(len, found))
    streams = {role: _lines(path, last, follow=follow) for role, path in found.items()}
    for role, stream in streams.items():
        for line in stream:
            if line is None:
                break
            console.out.print(f"[dim]{role:<{width}}[/] ", end="")
            console.out.print(line, markup=False)
    while follow:
        for role, stream in streams.items():
            while (line := next(stream)) is not None:
                console.out.print(f"[dim]{role:<{width}}[/] ", end="")
                console.out.print(line, markup=False)
        time.sleep(0.2)


def _lines(path: Path, last: int, *, follow: bool) -> Iterator[str | None]:
    """Yield a log's last lines, then None each time there is nothing new yet. To follow, a line must be whole."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        lines = stream.read().splitlines(keepends=True)
        pending = lines.pop() if follow and lines and not lines[-1].endswith("\n") else ""
        yield from (line.rstrip("\n") for line in lines[len(lines) - last :]) if last else []
        while True:
            pending += stream.readline()
            if pending.endswith("\n"):
                yield pending.rstrip("\n")
                pending = ""
            else:
                yield None
