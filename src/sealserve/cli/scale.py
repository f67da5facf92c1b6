"""``sealserve scale``: change the number of replicas."""

from typing import Annotated

import typer

from sealserve.cli import options
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.verbs import Verbs

with deferred:
    from sealserve.cli.bundles import Machines, bundle_for
    from sealserve.cli.changing import changing
    from sealserve.cli.interruption import starting
    from sealserve.cli.live_view import live_view
    from sealserve.cli.part_table import show_deployment
    from sealserve.cluster import wanted
    from sealserve.cluster.targets import check_replicas, open_target

app = Verbs()


@app.command()
def scale(
    context: Context,
    replicas: Annotated[int, typer.Argument(metavar="REPLICAS", min=1, help="New number of replicas")],
    target: options.Target = None,
    no_wait: options.NoWait = False,
) -> None:
    """Start or stop replicas.

    A replica that stops finishes its requests first. A later `sealserve up` keeps the new number, until target.replicas
    in sealserve.toml changes.
    """
    check_replicas(context.workspace, context.deployment, target, replicas)
    with changing(context.workspace, "scale", no_wait=no_wait):
        _scale(context, replicas, target)


def _scale(context: Context, replicas: int, target: str | None) -> None:
    workspace, described = context.workspace, context.deployment
    with live_view("Scaling", lambda: open_target(workspace, described, target), for_programs=context.as_json) as tell:
        opened = open_target(workspace, described, target, tell=tell)
        with starting(workspace, tell=tell, for_programs=context.as_json):
            # 1. If further replicas need it, prepare the running release for them.
            scaled, bundle = opened.to_scale(replicas), None
            if scaled is not None:
                machines = Machines.ALL if scaled.broker_here else Machines.HOST
                folder = machines.releases(workspace) / scaled.release
                destination = opened.destination(scaled.release, replicas)
                bundle = bundle_for(workspace, folder, destination, machines, tell=tell)
            # 2. Record the number for the next `up`, before the target changes.
            before = wanted.read(workspace)
            fewer = replicas < wanted.started(workspace, described)
            wanted.keep_replicas(workspace, described, replicas)
            # 3. Start or stop replicas. An interruption does not cancel the stopping of replicas.
            with wanted.starting(
                workspace, replicas, before=before, stays=lambda error: fewer and not isinstance(error, Exception)
            ):
                opened.scale(replicas, bundle)
    show_deployment(context, opened, target)
