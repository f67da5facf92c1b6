"""``sealserve up``: start the deployment."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console, options
from sealserve.cli.bundles import Machines, bundle_for, received
from sealserve.cli.context import Context
from sealserve.cli.first_steps import take_first_steps
from sealserve.cli.interruption import starting
from sealserve.cli.live_view import live_view
from sealserve.cli.part_table import show_deployment
from sealserve.cli.verbs import Verbs
from sealserve.cluster import targets
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.target import RollingTarget, Target
from sealserve.deployment import Deployment
from sealserve.owner import preparation, provisioning, releases
from sealserve.owner.first_steps import missing_steps
from sealserve.owner.owner import Owner
from sealserve.workspace import Workspace

app = Verbs()


@app.command()
def up(
    context: Context,
    target: options.Target = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, show_default="target.replicas", help="How many enclaves serve.")
    ] = None,
    release: options.Release = None,
    role: Annotated[
        Machines,
        typer.Option("--role", help="all: this machine is the owner's and the host's; host: the broker is elsewhere."),
    ] = Machines.ALL,
    rollback: Annotated[bool, typer.Option("--rollback", help="Serve the release that was served before.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; print what would be done, and on Kubernetes a diff.")
    ] = False,
) -> None:
    """Start what does not run: broker, enclaves, NGINX. What is missing before that is made first."""
    workspace, described = context.workspace, context.deployment
    kind = target or described.target.kind
    count = replicas or described.target.replicas
    targets.check_replicas(workspace, described, kind, count)
    if dry_run:
        opened = targets.open_target(workspace, described, kind)
        if rollback:
            release = _rolling(opened, "--rollback").previous_release()
        _foresee(workspace, described, opened, release, count, machines=role)
        return
    workspace.create()  # what was removed on purpose, such as the host's folder, is made again
    Owner.open(workspace).publish_key()

    def watched() -> Target:
        return targets.open_target(workspace, described, kind)

    with live_view("Starting", watched, for_programs=context.as_json) as tell:
        opened = targets.open_target(workspace, described, kind, tell=tell)
        if rollback:
            release = _rolling(opened, "--rollback").previous_release()
        with starting(workspace, kind, tell=tell, for_programs=context.as_json):
            # 1. The owner makes what is missing: models, certificates, a release.
            if role is Machines.ALL:
                take_first_steps(workspace, described, tell=tell)
            folder = releases.find(role.releases(workspace), release)
            # 2. The target refuses what it could not start, before anything is built for it.
            opened.check(folder, broker_here=role is Machines.ALL)
            # 3. The owner prepares the release for the target.
            destination = opened.destination(folder.name, count)
            bundle = bundle_for(workspace, folder, destination, role, roll_back=rollback, tell=tell)
            # 4. The target starts it, with the host's part alone.
            replaced = opened.up(bundle, count)
    # 5. The owner lets the releases end that this one has replaced.
    if role is Machines.ALL:
        _end_replaced(workspace, described, replaced, by=folder)
    show_deployment(context, opened, kind)


def _foresee(
    workspace: Workspace,
    described: Deployment,
    opened: Target,
    release: str | None,
    replicas: int,
    *,
    machines: Machines,
) -> None:
    """Print what `up` would do, and change nothing. The owner's steps go to standard error, the difference does not."""
    steps: Sequence[str] = ()
    if machines is Machines.ALL:
        missing = missing_steps(workspace, described, now=datetime.now(UTC), warn=console.warn)
        steps = [step.text for step in missing]
    sealed = machines is Machines.HOST or release is not None or releases.any_in(workspace.owner.releases)
    folder = releases.find(machines.releases(workspace), release) if sealed else None
    bundle = None
    if folder is not None:
        destination = opened.destination(folder.name, replicas)
        if machines is Machines.ALL:
            foreseen = preparation.foresee(workspace, folder, destination)
            steps, bundle = [*steps, *foreseen.steps], foreseen.bundle
        else:
            bundle = received(workspace, folder, destination)
    for step in steps:
        console.say(f"Not done in a dry run: {step}.")
    if not isinstance(opened, RollingTarget):
        console.say("Only the kubernetes target compares what runs with what is described.")
    elif bundle is None:
        console.say("What runs can be compared with what is described after these steps.")
    else:
        console.out.print(opened.difference(bundle, replicas) or "Nothing would change.\n", end="")


def _end_replaced(workspace: Workspace, described: Deployment, replaced: Sequence[str], *, by: Path) -> None:
    """Let the releases end that ``by`` has replaced, and warn if it ends itself."""
    for retired in provisioning.retire(workspace, described, replaced, by=by, now=datetime.now(UTC)):
        deadline = retired.deadline.isoformat() if retired.deadline else "it is revoked"
        console.say(
            f"{retired.name} is draining: restarts and a roll-back get its key until {deadline}. "
            f"`sealserve broker revoke {retired.name}` ends it at once."
        )
    if (until := provisioning.draining_until(workspace, by)) is not None:
        console.warn(
            f"{by.name} is draining: none of its replicas starts after {until.isoformat()}. "
            f"`sealserve broker allow --reactivate {by.name}` makes it active again."
        )


def _rolling(target: Target, option: str) -> RollingTarget:
    if not isinstance(target, RollingTarget):
        raise ClusterCode.TARGET_UNSUPPORTED.error(f"This target knows no {option}.", hint="kubernetes does.")
    return target
