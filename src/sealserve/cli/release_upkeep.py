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
    keep: Annotated[int, typer.Option(min=1, help="Number of newest releases that are always kept")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing")] = False,
    yes: options.Yes = False,
    no_wait: options.NoWait = False,
) -> None:
    """Remove releases that are no longer needed: the owner's copy, the host's copy and the packed file in the store.

    A release is kept if it serves, if `sealserve up --rollback` would serve it, or if the broker still releases its
    key. To make the broker stop releasing a key, run `sealserve broker revoke`. The broker's records and the release's
    key stay.
    """
    found = _plan(context, keep)
    going = [release for release in found if release.kept is None]
    if not (dry_run or not going):
        console.confirm(f"Remove {', '.join(item.name for item in going)} ({_megabytes(going)})?", yes=yes)
        verb = "release prune"
        with owning(context.workspace, verb, no_wait=no_wait), changing(context.workspace, verb, no_wait=no_wait):
            # Plan again under the lock, and remove only releases that were shown and are still not needed.
            asked = {release.name for release in going}
            going = [item for item in _plan(context, keep) if item.kept is None and item.name in asked]
            pruning.remove(context.workspace, context.deployment, going)
    removed = {release.name for release in going}
    rows = [(item.name, _state(item, removed, dry_run=dry_run), f"{item.size / 1e6:.1f} MB") for item in found]
    context.show(
        [{**_fields(item), "removed": item.name in removed and not dry_run} for item in found],
        Table(
            ("RELEASE", "STATE", "SIZE"),
            rows,
            empty="The workspace does not contain releases yet. Build one: `sealserve release build`.",
        ),
    )


def diff(
    context: Context,
    first: Annotated[str, typer.Argument(metavar="A", help="Name of a release, or the beginning of its id")],
    second: Annotated[str, typer.Argument(metavar="B", help="Release to compare with A")],
) -> None:
    """Show the settings and models that differ between two releases."""
    workspace = context.workspace
    before, after = (releases.find(workspace.owner.releases, name) for name in (first, second))
    found = drift.compare(_facts(workspace, before), _facts(workspace, after))
    context.show(
        {"a": before.name, "b": after.name, "differences": [_difference(item) for item in found]},
        *(
            [str(item) for item in found]
            or [f"{before.name} and {after.name} were built from the same settings and models."]
        ),
    )


def _facts(workspace: Workspace, release: Path) -> Mapping[str, str]:
    facts = drift.released_facts(workspace, release)
    if facts is None:
        raise CliCode.RELEASE_NOT_COMPARABLE.error(
            f"The release {release.name} cannot be compared: no record of its settings and models exists, because an "
            "earlier version or another workspace built it.",
            hint=f"List its files instead: `sealserve release show {release.name}`.",
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
    return f"kept: {item.kept or 'needed since it was listed'}"


def _fields(item: Prunable) -> dict[str, Any]:
    return {
        "release": item.name,
        "kept": item.kept,
        "size": item.size,
        "copies": [asdict(copy) for copy in item.copies],
    }


def _megabytes(found: Sequence[Prunable]) -> str:
    return f"{sum(item.size for item in found) / 1e6:.1f} MB"
