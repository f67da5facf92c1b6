"""``sealserve up``: start the deployment, or change it to match ``sealserve.toml``."""

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
    from sealserve.cli.approval_notice import told_on_failure
    from sealserve.cli.bundles import bundle_for, machines_of, received
    from sealserve.cli.changing import changing, owning
    from sealserve.cli.first_steps import take_first_steps
    from sealserve.cli.interruption import starting
    from sealserve.cli.live_view import live_view
    from sealserve.cli.part_table import show_deployment
    from sealserve.cluster import targets, wanted
    from sealserve.cluster.target import Target
    from sealserve.deployment import Deployment
    from sealserve.deployment.dangerous import dangerous_settings
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
        typer.Option(min=1, show_default="as set by the last `scale`, else target.replicas", help="Number of replicas"),
    ] = None,
    release: options.ServedRelease = None,
    role: Annotated[
        Machines | None,
        typer.Option(
            "--role",
            show_default="the role of the last `up`, else all",
            help="Roles of this machine. all: owner and host; host: the broker runs elsewhere",
        ),
    ] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Roll back to the release that served before")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the steps and differences, and change nothing")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Build and serve a new release without asking for confirmation")
    ] = False,
    keep_release: Annotated[
        bool,
        typer.Option("--keep-release", help="Serve the release that served last, even if sealserve.toml differs"),
    ] = False,
    no_wait: options.NoWait = False,
) -> None:
    """Start the deployment, or change it to match sealserve.toml.

    Models, certificates and a release are created first if they do not exist.

    Without --release, `up` compares the release that served last with sealserve.toml and with the models' sources. A
    change to a model, or to a setting that is sealed or measured, needs a new release. `up` then shows the differences
    and asks before it builds and rolls out the new release.
    """
    machines = machines_of(context.workspace, role)
    if role is None and machines is Machines.HOST:
        context.say("This machine is used only as the host, as at the last `up`. To change this, use `--role all`.")
    for setting in dangerous_settings(context.deployment):
        console.warn(str(setting))
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
        # Ask without the locks, so that supervision can restart parts and other commands do not wait for the answer. If
        # the choice is different after the answer, the loop asks again.
        typer.confirm(question, abort=True, err=True)
        confirmed = choice


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The options of `up`.

    Args:
        kind: The target's name.
        replicas: Number of replicas, or None for the recorded number.
        release: The release that the user names, or None.
        machines: The roles of this machine.
        rollback: Roll back to the release that served before.
        keep_release: Serve the release that served last without changes.
    """

    kind: str
    replicas: int | None
    release: str | None
    machines: Machines
    rollback: bool
    keep_release: bool


def _prepared(context: Context, asked: _Asked) -> Choice:
    """Return the release to serve. A new release is built only later, after the user has confirmed the differences."""
    workspace = context.workspace
    workspace.create()  # creates folders that were removed, such as the host's folder
    Owner.open(workspace).publish_key()
    opened = targets.open_target(workspace, context.deployment, asked.kind)
    return _choose(context, asked, opened, now=datetime.now(UTC))


def _run(context: Context, asked: _Asked, choice: Choice) -> None:
    """Start or change the deployment, under its lock."""
    workspace, described, machines = context.workspace, context.deployment, asked.machines
    owner_here = machines is Machines.ALL
    # 1. Determine the number of replicas.
    count = _replicas(context, asked)
    wanted.keep_role(workspace, host_only=not owner_here)

    def watched() -> Target:
        return targets.open_target(workspace, described, asked.kind)

    with told_on_failure(context), live_view("Starting", watched, for_programs=context.as_json) as tell:
        opened = targets.open_target(workspace, described, asked.kind, tell=tell)
        with starting(workspace, asked.kind, tell=tell, for_programs=context.as_json):
            # 2. The owner creates missing or changed models, certificates and a release.
            if owner_here:
                take_first_steps(workspace, described, rebuild=choice.drift is not None and choice.builds, tell=tell)
            folder = choice.release
            if folder is None or choice.builds:
                folder = releases.newest(machines.releases(workspace))
            if accepted := users.revoked_since(workspace, folder):
                names = ", ".join(accepted)
                console.warn(
                    f"{folder.name} was built before these users were revoked, so it still accepts them: {names}. Run "
                    "`sealserve release build`, then `sealserve up`."
                )
            # 3. The target rejects a release that it cannot start, before anything is built for it.
            opened.check(folder, broker_here=owner_here)
            # 4. The owner prepares the release for the target.
            destination = opened.destination(folder.name, count)
            bundle = bundle_for(workspace, folder, destination, machines, roll_back=asked.rollback, tell=tell)
            if choice.description is not None:
                kept_description.keep(workspace, folder.name, choice.description)
            # 5. Record the request before the target changes: it stays valid if this process is killed during roll-out.
            before = wanted.read(workspace)
            built = release_plan.newest_name(machines.releases(workspace))
            # With --keep-release, a release that was built since is still the default of the next `up`.
            newest = before.newest if choice.as_it_is else built
            wanted.keep_release(workspace, folder.name, newest=newest)
            if asked.replicas is not None:
                wanted.keep_replicas(workspace, described, count)
            # 6. The target starts the release, with only the host's files, and rolls over from the serving release.
            with wanted.starting(
                workspace, count, before=before, stays=lambda _: targets.may_serve(workspace, asked.kind, folder.name)
            ):
                replaced = set(opened.up(bundle, count))
    # 7. The owner drains the releases that were replaced, including the release that served before a `down`.
    if before.release is not None:
        replaced.add(before.release)
    if owner_here:
        _end_replaced(workspace, described, sorted(replaced - {folder.name}), by=folder)
    show_deployment(context, opened, asked.kind)


def _choose(context: Context, asked: _Asked, opened: Target, *, now: datetime | None) -> Choice:
    """Return the release to serve: the previous release for a roll-back, else the named or the described release."""
    named = opened.previous_release() if asked.rollback else asked.release
    return release_plan.choose(
        context.workspace, context.deployment, asked.machines, named, now=now, as_it_is=asked.keep_release
    )


def _replicas(context: Context, asked: _Asked) -> int:
    """Return the number of replicas, and report it if it is not the number in ``sealserve.toml``.

    A caller that changes the deployment calls this under its lock, because a `scale` may set another number.

    Raises:
        InputError: `target.unsupported`: The target cannot run this number of replicas.
    """
    count = asked.replicas if asked.replicas is not None else _kept_replicas(context)
    targets.check_replicas(context.workspace, context.deployment, asked.kind, count)
    return count


def _kept_replicas(context: Context) -> int:
    found = wanted.replicas(context.workspace, context.deployment)
    described = context.deployment.target.replicas
    if found.kept:
        context.say(f"Replicas: {found.count}, as set by the last `scale` (target.replicas is {described}).")
    elif found.replaced is not None:
        context.say(
            f"Replicas: {described}, because target.replicas was changed after `scale` had set {found.replaced}."
        )
    return found.count


def _foresee(context: Context, asked: _Asked) -> None:
    """Print what `up` would do, and change nothing.

    The owner's steps are printed on standard error, and the differences on standard output.
    """
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
        console.say(f"Step that `up` would do: {step}.")
    if changes is None:
        console.say("The changes to running parts can be shown only after these steps.")
    else:
        console.out.print(changes or "No running part would change.\n", end="")


def _foreseen(
    context: Context, asked: _Asked, count: int, choice: Choice, opened: Target
) -> tuple[Sequence[str], Bundle | None]:
    """Return the owner's steps and the resulting bundle. The bundle is None if it is unknown before these steps."""
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
    """Drain the releases that ``by`` has replaced, and warn if ``by`` itself is draining."""
    for retired in provisioning.retire(workspace, described, replaced, by=by, now=datetime.now(UTC)):
        deadline = retired.deadline.isoformat() if retired.deadline else "it is revoked"
        console.say(
            f"{retired.name} is draining: restarts and a roll-back get its key until {deadline}. "
            f"To end it immediately, run `sealserve broker revoke {retired.name}`."
        )
    if (until := provisioning.draining_until(workspace, by)) is not None:
        console.warn(
            f"{by.name} is draining: its replicas cannot start after {until.isoformat()}. "
            f"To make it active again, run `sealserve broker allow --reactivate {by.name}`."
        )
