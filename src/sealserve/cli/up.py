"""``sealserve up``: start the deployment, or make what runs match what is described."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console, options
from sealserve.cli.bundles import Machines
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.verbs import Verbs

with deferred:
    from sealserve.bundle import Bundle
    from sealserve.cli import release_plan
    from sealserve.cli.bundles import bundle_for, machines_of, received
    from sealserve.cli.changing import changing, owning
    from sealserve.cli.first_steps import take_first_steps
    from sealserve.cli.interruption import starting
    from sealserve.cli.live_view import live_view
    from sealserve.cli.part_table import show_deployment
    from sealserve.cluster import targets, wanted
    from sealserve.cluster.target import Target
    from sealserve.deployment import Deployment
    from sealserve.owner import described as kept_description
    from sealserve.owner import preparation, provisioning, releases, users
    from sealserve.owner.first_steps import missing_steps
    from sealserve.owner.owner import Owner
    from sealserve.owner.release_choice import Choice
    from sealserve.workspace import Workspace

app = Verbs()


@app.command()
def up(
    context: Context,
    target: options.Target = None,
    replicas: Annotated[
        int | None,
        typer.Option(min=1, show_default="as scaled last, else target.replicas", help="How many enclaves serve."),
    ] = None,
    release: options.Release = None,
    role: Annotated[
        Machines | None,
        typer.Option(
            "--role",
            show_default="as at the last `up`, else all",
            help="all: this machine is the owner's and the host's; host: the broker is elsewhere.",
        ),
    ] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Serve the release that was served before.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; print what would be done, and the differences.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Serve a new release without asking.")] = False,
    keep_release: Annotated[
        bool,
        typer.Option("--keep-release", help="Serve the release that served last, even if sealserve.toml differs."),
    ] = False,
    no_wait: options.NoWait = False,
) -> None:
    """Make what runs match sealserve.toml. A changed setting or model that is sealed needs a new release, after asking.

    Everything that does not exist yet is created first: models, certificates, a release. Without --release, the
    release that served last is compared with sealserve.toml and with the models' sources.
    """
    machines = machines_of(context.workspace, role)
    if role is None and machines is Machines.HOST:
        context.say("This machine is only the host, as at the last `up`. `--role all` changes that.")
    asked = _Asked(
        kind=target or context.deployment.target.kind,
        replicas=replicas,
        release=release,
        machines=machines,
        rollback=rollback,
        keep_release=keep_release,
    )
    if dry_run:
        _foresee(context, asked)
        return
    confirmed: Choice | None = None
    while True:
        with owning(context.workspace, "up", no_wait=no_wait), changing(context.workspace, "up", no_wait=no_wait):
            choice = _prepared(context, asked)
            question = None if choice == confirmed else release_plan.question(context, choice, yes=yes)
            if question is None:
                _run(context, asked, choice)
                return
        # The question is asked without the locks: meanwhile parts that end are started again, and nobody waits for a
        # person. If something else is to be done after the answer, that is asked again.
        typer.confirm(question, abort=True, err=True)
        confirmed = choice


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What the user asks for.

    Args:
        kind: The target.
        replicas: How many enclaves are to serve, or None for what `wanted` tells.
        release: The release that the user names, or None.
        machines: Which machines this one is.
        rollback: Whether the release before is to be served.
        keep_release: Whether the release that served last is to be served as it is.
    """

    kind: str
    replicas: int | None
    release: str | None
    machines: Machines
    rollback: bool
    keep_release: bool


def _prepared(context: Context, asked: _Asked) -> Choice:
    """Return which release is to be served. A new one is built only after the difference was shown and confirmed."""
    workspace = context.workspace
    workspace.create()  # what was removed on purpose, such as the host's folder, is made again
    Owner.open(workspace).publish_key()
    opened = targets.open_target(workspace, context.deployment, asked.kind)
    return _choose(context, asked, opened, now=datetime.now(UTC))


def _run(context: Context, asked: _Asked, choice: Choice) -> None:
    """Start or change the deployment, under its lock."""
    workspace, described, machines = context.workspace, context.deployment, asked.machines
    owner_here = machines is Machines.ALL
    # 1. Read how many replicas are to serve.
    count = _replicas(context, asked)
    wanted.keep_role(workspace, host_only=not owner_here)

    def watched() -> Target:
        return targets.open_target(workspace, described, asked.kind)

    with live_view("Starting", watched, for_programs=context.as_json) as tell:
        opened = targets.open_target(workspace, described, asked.kind, tell=tell)
        with starting(workspace, asked.kind, tell=tell, for_programs=context.as_json):
            # 2. The owner makes what is missing or changed: models, certificates, a release.
            if owner_here:
                take_first_steps(workspace, described, rebuild=choice.drift is not None and choice.builds, tell=tell)
            folder = choice.release
            if folder is None or choice.builds:
                folder = releases.newest(machines.releases(workspace))
            if accepted := users.revoked_since(workspace, folder):
                names = ", ".join(accepted)
                console.warn(f"{folder.name} was built before these users were revoked, and accepts them: {names}.")
            # 3. The target refuses what it could not start, before anything is built for it.
            opened.check(folder, broker_here=owner_here)
            # 4. The owner prepares the release for the target.
            destination = opened.destination(folder.name, count)
            bundle = bundle_for(workspace, folder, destination, machines, roll_back=asked.rollback, tell=tell)
            if choice.description is not None:
                kept_description.keep(workspace, folder.name, choice.description)
            # 5. Keep what is asked for before the target changes: an `up` that is killed while it rolls was meant.
            before = wanted.read(workspace)
            built = release_plan.newest_name(machines.releases(workspace))
            newest = before.newest if choice.as_it_is else built  # `up` still means one that was built since
            wanted.keep_release(workspace, folder.name, newest=newest)
            if asked.replicas is not None:
                wanted.keep_replicas(workspace, described, count)
            # 6. The target starts it, with the host's part alone, and rolls from the release that serves.
            with wanted.starting(
                workspace, count, before=before, stays=lambda _: targets.may_serve(workspace, asked.kind, folder.name)
            ):
                replaced = set(opened.up(bundle, count))
    # 7. The owner lets the releases end that this one has replaced, the one that served before a `down` included.
    if before.release is not None:
        replaced.add(before.release)
    if owner_here:
        _end_replaced(workspace, described, sorted(replaced - {folder.name}), by=folder)
    show_deployment(context, opened, asked.kind)


def _choose(context: Context, asked: _Asked, opened: Target, *, now: datetime | None) -> Choice:
    """Return the release to serve: the one before for a roll-back, else the one that is named or described."""
    named = opened.previous_release() if asked.rollback else asked.release
    return release_plan.choose(
        context.workspace, context.deployment, asked.machines, named, now=now, as_it_is=asked.keep_release
    )


def _replicas(context: Context, asked: _Asked) -> int:
    """Return how many replicas are to serve, and say so where it is not what sealserve.toml says, or was kept.

    What changes the deployment asks this under its lock: a `scale` may just have set another number.

    Raises:
        InputError: `target.unsupported`: The target cannot run so many.
    """
    count = asked.replicas if asked.replicas is not None else _kept_replicas(context)
    targets.check_replicas(context.workspace, context.deployment, asked.kind, count)
    return count


def _kept_replicas(context: Context) -> int:
    found = wanted.replicas(context.workspace, context.deployment)
    described = context.deployment.target.replicas
    if found.kept:
        context.say(f"Replicas: {found.count}, as scaled last (target.replicas is {described}).")
    elif found.replaced is not None:
        context.say(f"Replicas: {described}, since target.replicas was changed after the scaling to {found.replaced}.")
    return found.count


def _foresee(context: Context, asked: _Asked) -> None:
    """Print what `up` would do, and change nothing. The owner's steps go to standard error, the differences do not."""
    count = _replicas(context, asked)
    opened = targets.open_target(context.workspace, context.deployment, asked.kind)
    choice = _choose(context, asked, opened, now=None)
    steps, bundle = _foreseen(context, asked, count, choice, opened)
    changes = None if bundle is None else opened.difference(bundle, count)
    if context.as_json:
        context.show(_foreseen_fields(choice, steps, changes))
        return
    for line in release_plan.differences(choice.drift) if choice.drift is not None else ():
        console.out.print(line)
    for step in steps:
        console.say(f"Not done in a dry run: {step}.")
    if changes is None:
        console.say("What runs can be compared with what is described after these steps.")
    else:
        console.out.print(changes or "Nothing would change.\n", end="")


def _foreseen(
    context: Context, asked: _Asked, count: int, choice: Choice, opened: Target
) -> tuple[Sequence[str], Bundle | None]:
    """Return the owner's steps, and the bundle that they would lead to, or None if that is unknown before them."""
    workspace, described, owner_here = context.workspace, context.deployment, asked.machines is Machines.ALL
    steps: Sequence[str] = ()
    if owner_here:
        now, rebuild = datetime.now(UTC), choice.drift is not None and choice.builds
        missing = missing_steps(workspace, described, now=now, warn=console.warn, rebuild=rebuild)
        steps = [step.text for step in missing]
    if choice.release is None or choice.builds:
        return steps, None
    destination = opened.destination(choice.release.name, count)
    if not owner_here:
        return steps, received(workspace, choice.release, destination)
    foreseen = preparation.foresee(workspace, choice.release, destination)
    return [*steps, *foreseen.steps], foreseen.bundle


def _foreseen_fields(choice: Choice, steps: Sequence[str], changes: str | None) -> dict[str, object]:
    drift = choice.drift
    return {
        "release": None if choice.release is None else choice.release.name,
        "builds_release": choice.builds,
        "comparable": drift is not None and drift.comparable,
        "differences": [asdict(difference) for difference in drift.differences] if drift is not None else [],
        "steps": list(steps),
        "changes": changes,
    }


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
