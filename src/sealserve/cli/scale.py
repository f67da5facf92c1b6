"""``sealserve scale``: more or fewer replicas."""

from typing import Annotated

import typer

from sealserve import deployment
from sealserve.cli import console, status
from sealserve.cli.bundles import Machines, bundle_for
from sealserve.cli.interruption import starting
from sealserve.cli.live_view import live_view
from sealserve.cluster.targets import check_replicas, open_target

app = typer.Typer(add_completion=False)


@app.command()
def scale(
    replicas: Annotated[int, typer.Argument(metavar="REPLICAS", min=1, help="How many enclaves shall serve.")],
    target: console.Target = None,
    directory: console.Directory = console.HERE,
    as_json: console.Json = False,
) -> None:
    """Start or stop replicas. Those that stop finish their requests first."""
    workspace = console.find_workspace(directory)
    described = deployment.read(workspace.deployment_file)
    check_replicas(workspace, described, target, replicas)
    with live_view("Scaling", lambda: open_target(workspace, described, target), for_programs=as_json) as tell:
        opened = open_target(workspace, described, target, tell=tell)
        with starting(workspace, tell=tell, for_programs=as_json):
            # 1. Where further replicas need one, prepare the release that runs.
            scaled, bundle = opened.to_scale(replicas), None
            if scaled is not None:
                machines = Machines.ALL if scaled.broker_here else Machines.HOST
                folder = machines.releases(workspace) / scaled.release
                destination = opened.destination(scaled.release, replicas)
                bundle = bundle_for(workspace, folder, destination, machines, tell=tell)
            # 2. The target starts or stops replicas.
            opened.scale(replicas, bundle)
    status.show(opened, as_json=as_json)
