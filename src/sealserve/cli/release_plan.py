"""Which release `up` serves, and what a person reads and confirms before a new one is built."""

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sealserve.cli import console
from sealserve.cli.bundles import Machines
from sealserve.cli.codes import CliCode
from sealserve.cli.context import Context
from sealserve.cluster import wanted
from sealserve.cluster.release_record import ReleaseRecord
from sealserve.deployment import Deployment
from sealserve.owner import certificates, release_choice, releases
from sealserve.owner.drift import Drift, facts_now
from sealserve.owner.release_choice import Choice
from sealserve.pki.authority import AuthorityKind
from sealserve.workspace import Workspace


def choose(
    workspace: Workspace,
    described: Deployment,
    machines: Machines,
    named: str | None,
    *,
    now: datetime | None,
    as_it_is: bool = False,
) -> Choice:
    """Return the release that `up` serves. Nothing is changed.

    A named release, and one on a machine that is only the host, is served as it is.

    Args:
        workspace: The workspace.
        described: What it describes.
        machines: Which machines this one is.
        named: The release that the user names, or None.
        now: The time on the owner's clock, or None for a dry run.
        as_it_is: Whether the release that served last is to be served, whatever differs and was built since.
    """
    parent = machines.releases(workspace)
    last = wanted.read(workspace)
    served, newest_then = last.release, last.newest
    if as_it_is:
        served, newest_then = served or ReleaseRecord(workspace).serving(), newest_name(parent)
    if named is not None:
        found = releases.find(parent, named)
        if machines is Machines.HOST:
            return Choice(release=found)
        return Choice(release=found, description=facts_now(workspace, described))
    if machines is Machines.HOST:
        present = release_choice.present(parent, served=served, newest_then=newest_then)
        return Choice(release=present or releases.find(parent, None), as_it_is=as_it_is)
    with console.spinner("Comparing the release with sealserve.toml"):
        return release_choice.choose(
            workspace,
            described,
            served=served,
            newest_then=newest_then,
            now=now,
            as_it_is=as_it_is,
        )


def differences(drift: Drift) -> Sequence[str]:
    """Return the lines that say how a release differs from what is described."""
    if not drift.comparable:
        why = f"{drift.release} was built by an earlier version, so it cannot be compared with sealserve.toml."
        return (f"{why} `sealserve release build` builds a new release.",)
    if not drift.differences:
        return ()
    return (
        f"sealserve.toml differs from {drift.release} (released -> described):",
        *(f"  {difference}" for difference in drift.differences),
    )


def consequences(workspace: Workspace, described: Deployment) -> Sequence[str]:
    """Return the lines that say what a new release means for users, besides what differs."""
    kinds = certificates.outgrown_authorities(workspace, described)
    lines = {
        AuthorityKind.SERVICE: "A new authority signs for service.name: send users the new user/service-ca.pem.",
        AuthorityKind.USERS: "A new authority signs for service.client_name: send users their new certificate and key.",
        AuthorityKind.BROKER: "A new authority signs for the broker's names: replicas of older releases cannot be "
        "started again.",
    }
    return [lines[kind] for kind in kinds]


def question(context: Context, choice: Choice, *, yes: bool) -> str | None:
    """Show how the present release differs from what is described; return what to ask before another one is served.

    Args:
        context: Where to show it. A program gets no question.
        choice: The release that `up` serves.
        yes: Whether the user agreed on the command line.

    Returns:
        The question, or None if there is none.

    Raises:
        InputError: `deployment.unconfirmed`: Nobody can answer.
    """
    if (drift := choice.drift) is None:
        return None
    for line in differences(drift):
        context.say(line)
    if choice.instead_of is not None and (yes or _can_ask(context)):
        console.warn(f"{choice.instead_of}, which served last, has ended: {drift.release} is the newest one.")
    if not choice.builds and choice.instead_of is not None:
        return None if yes else _replacement(context, drift.release, ended=choice.instead_of)
    if not choice.builds:
        _say_what_stays(context, choice, drift)
        return None
    for line in consequences(context.workspace, context.deployment):
        context.say(line)
    if yes:
        return None
    if not _can_ask(context):
        raise CliCode.DEPLOYMENT_UNCONFIRMED.error(
            f"sealserve.toml differs from the release {drift.release} in {drift.keys}. A new release is needed, and "
            "nobody can confirm that here.",
            hint=f"Run `sealserve up --yes` to build it and roll to it, or `sealserve up --release {drift.release}` to "
            "serve the present release as it is.",
        )
    return "Build a new release and roll to it?"


def _say_what_stays(context: Context, choice: Choice, drift: Drift) -> None:
    """Say why a release is served again although it differs from what is described."""
    if not drift.differences:
        return
    if choice.as_it_is:
        console.warn(
            f"sealserve.toml differs from {drift.release}, which is served as it is. To serve what sealserve.toml "
            "describes, run `sealserve up` without --keep-release."
        )
    else:
        context.say(
            f"Nothing changed since {drift.release} was started, so it is served again. To serve what "
            "sealserve.toml describes, run `sealserve release build`, then `sealserve up`."
        )


def _replacement(context: Context, release: str, *, ended: str) -> str:
    """Return what to ask before a release takes the place of one that has ended."""
    if not _can_ask(context):
        raise CliCode.DEPLOYMENT_UNCONFIRMED.error(
            f"{ended}, which served last, has ended, and nobody can confirm here that {release} is served instead.",
            hint=f"Run `sealserve up --release {release}` to serve that one. Unless {ended} was revoked, `sealserve "
            f"broker allow --reactivate {ended}` lets `sealserve up` serve it again.",
        )
    return f"Serve {release} instead?"


def _can_ask(context: Context) -> bool:
    return not context.as_json and sys.stdin.isatty()


def newest_name(parent: Path) -> str | None:
    """Return the name of the newest release in a folder, or None if there is none."""
    return releases.newest(parent).name if releases.any_in(parent) else None
