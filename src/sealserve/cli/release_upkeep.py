"""``sealserve release prune`` and ``sealserve release diff``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from sealserve.cli import console, options
from sealserve.cli.codes import CliCode
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Table

with deferred:
    from sealserve.cli.changing import changing, owning
    from sealserve.cluster.needed_releases import needed_releases
    from sealserve.owner import drift, pruning, releases
    from sealserve.owner.pruning import Prunable
    from sealserve.workspace import Workspace


def prune(
    context: Context,
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest releases are kept in any case.")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    yes: options.Yes = False,
    no_wait: options.NoWait = False,
) -> None:
    """Remove releases that nothing needs: their copies at the owner, at the host and in the store's folder.

    A release is kept if it serves, if `up --rollback` returns to it, or if the broker still releases its key.
    `sealserve broker revoke` ends a release at the broker. The broker's records and the release's key stay.
    """
    found = _plan(context, keep)
    going = [release for release in found if release.kept is None]
    if not (dry_run or not going):
        console.confirm(f"Remove {', '.join(item.name for item in going)} ({_megabytes(going)})?", yes=yes)
        verb = "release prune"
        with owning(context.workspace, verb, no_wait=no_wait), changing(context.workspace, verb, no_wait=no_wait):
            # Only what was shown is removed, and only if nothing needs it by now.
            asked = {release.name for release in going}
            going = [item for item in _plan(context, keep) if item.kept is None and item.name in asked]
            pruning.remove(context.workspace, context.deployment, going)
    removed = {release.name for release in going}
    rows = [(item.name, _state(item, removed, dry_run=dry_run), f"{item.size / 1e6:.1f} MB") for item in found]
    context.show(
        [{**_fields(item), "removed": item.name in removed and not dry_run} for item in found],
        Table(("RELEASE", "STATE", "SIZE"), rows, empty="No releases yet: `sealserve release build` makes one."),
    )


def diff(
    context: Context,
    first: Annotated[str, typer.Argument(metavar="A", help="A release's name, or the beginning of its id.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The release to compare it with.")],
) -> None:
    """Show the settings and models that differ between two releases."""
    workspace = context.workspace
    before, after = (releases.find(workspace.owner.releases, name) for name in (first, second))
    found = drift.compare(_facts(workspace, before), _facts(workspace, after))
    context.show(
        {"a": before.name, "b": after.name, "differences": [_difference(item) for item in found]},
        *([str(item) for item in found] or [f"{before.name} and {after.name} are made from the same."]),
    )


def _facts(workspace: Workspace, release: Path) -> Mapping[str, str]:
    facts = drift.released_facts(workspace, release)
    if facts is None:
        raise CliCode.RELEASE_NOT_COMPARABLE.error(
            f"{release.name} has no record of what it was made from: an earlier version, or another workspace, built "
            "it.",
            hint="`sealserve release show` lists its files.",
        )
    return facts


def _difference(item: drift.Difference) -> dict[str, Any]:
    return {"key": item.key, "a": item.released, "b": item.described}


def _plan(context: Context, keep: int) -> Sequence[Prunable]:
    in_use = needed_releases(context.workspace, context.deployment)
    return pruning.plan(context.workspace, context.deployment, in_use=in_use, keep=keep, now=datetime.now(UTC))


def _state(item: Prunable, removed: set[str], *, dry_run: bool) -> str:
    if item.name in removed:
        return "would be removed" if dry_run else "removed"
    return f"kept: {item.kept or 'needed meanwhile'}"


def _fields(item: Prunable) -> dict[str, Any]:
    return {
        "release": item.name,
        "kept": item.kept,
        "size": item.size,
        "copies": [asdict(copy) for copy in item.copies],
    }


def _megabytes(found: Sequence[Prunable]) -> str:
    return f"{sum(item.size for item in found) / 1e6:.1f} MB"
