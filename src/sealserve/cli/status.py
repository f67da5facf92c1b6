"""``sealserve status``: what runs."""

from dataclasses import asdict

import typer

from sealserve import deployment
from sealserve.cli import console
from sealserve.cluster.target import PartStatus, Target
from sealserve.cluster.targets import open_target

app = typer.Typer(add_completion=False)


@app.command()
def status(
    target: console.Target = None, directory: console.Directory = console.HERE, as_json: console.Json = False
) -> None:
    """Show every part of the deployment and how far it has come."""
    workspace = console.find_workspace(directory)
    show(open_target(workspace, deployment.read(workspace.deployment_file), target), as_json=as_json)


def show(target: Target, *, as_json: bool) -> None:
    """Print the target's parts."""
    parts = target.status()
    if as_json:
        console.print_json([asdict(part) for part in parts])
        return
    console.print_table(
        ("PART", "STATE", "PORT", "INSTANCE", ""),
        [(part.role, part.state, part.port or "", part.instance or part.pid or "", _detail(part)) for part in parts],
        empty="Nothing runs: `sealserve up` starts it.",
    )


def _detail(part: PartStatus) -> str:
    restarts = f"restarts: {part.restarts}" if part.restarts else ""
    return "; ".join(filter(None, (restarts, part.detail)))
