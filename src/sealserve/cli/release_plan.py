"""The release that `up` serves, and the questions that a person confirms before a new release is built."""

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

    A release that the user names is served without changes. The same applies to every release on a machine that is only
    the host.

    Args:
        workspace: The workspace.
        described: The deployment that ``sealserve.toml`` describes.
        machines: The roles of this machine.
        named: The release that the user names, or None.
        now: The time on the owner's clock, or None for a dry run.
        as_it_is: Serve the release that served last, even if ``sealserve.toml`` differs or a newer release exists.

    Raises:
        InputError: `authority.no-intermediate`: A new release must be built, and the users need another certificate of
            the service's authority first.
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
        choice = release_choice.choose(
            workspace,
            described,
            served=served,
            newest_then=newest_then,
            now=now,
            as_it_is=as_it_is,
        )
    # A new release is impossible with a service authority of an earlier version. Raise this before the user is asked.
    if choice.builds:
        certificates.check_service_authority(workspace, described)
    return choice


def differences(drift: Drift) -> Sequence[str]:
    """Return lines that list the differences between a release and ``sealserve.toml``."""
    if not drift.comparable:
        why = f"{drift.release} was built by an earlier version, so it cannot be compared with sealserve.toml."
        return (f"{why} To build a new release, run `sealserve release build`.",)
    if not drift.differences:
        return ()
    return (
        f"sealserve.toml differs from {drift.release} (released -> described):",
        *(f"  {difference}" for difference in drift.differences),
    )


def consequences(workspace: Workspace, described: Deployment) -> Sequence[str]:
    """Return lines that explain what a new release requires from users and hosts, besides the differences."""
    kinds = certificates.outgrown_authorities(workspace, described)
    lines = {
        AuthorityKind.SERVICE: "service.name changed, so a new authority is created: send the new user/service-ca.pem "
        "to the users.",
        AuthorityKind.USERS: "service.client_name changed, so a new authority is created: send the users their new "
        "certificates and keys.",
        AuthorityKind.BROKER: "The broker's name or address changed, so a new authority is created: replicas of older "
        "releases cannot start again.",
    }
    return [lines[kind] for kind in kinds]


def question(context: Context, choice: Choice, *, yes: bool) -> str | None:
    """Show the differences between the present release and ``sealserve.toml``, and return the question to ask.

    Args:
        context: The output. In JSON mode, no question is asked.
        choice: The release that `up` serves.
        yes: Whether the user confirmed on the command line.

    Returns:
        The question to ask before another release is served, or None if no confirmation is needed.

    Raises:
        InputError: `deployment.unconfirmed`: A confirmation is needed, and standard input is not a terminal.
    """
    if (drift := choice.drift) is None:
        return None
    for line in differences(drift):
        context.say(line)
    if choice.instead_of is not None and (yes or _can_ask(context)):
        console.warn(
            f"The release {choice.instead_of}, which served last, has ended: its key is no longer released. The newest "
            f"release is {drift.release}."
        )
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
            f"A new release needs a confirmation, but standard input is not a terminal: sealserve.toml differs from "
            f"the release {drift.release} in {drift.keys}.",
            hint=f"Run `sealserve up --yes` to build and roll out a new release, or `sealserve up --release "
            f"{drift.release}` to serve the present release unchanged.",
        )
    return "Build a new release and roll it out?"


def _say_what_stays(context: Context, choice: Choice, drift: Drift) -> None:
    """Explain why a release is served again although it differs from ``sealserve.toml``."""
    if not drift.differences:
        return
    if choice.as_it_is:
        console.warn(
            f"sealserve.toml differs from {drift.release}, which is served unchanged because of --keep-release. To "
            "apply sealserve.toml, run `sealserve up` without this option."
        )
    else:
        context.say(
            f"sealserve.toml did not change since {drift.release} was started, so this release is served again. To "
            "apply sealserve.toml, run `sealserve release build`, then `sealserve up`."
        )


def _replacement(context: Context, release: str, *, ended: str) -> str:
    """Return the question to ask before a release replaces a release that has ended."""
    if not _can_ask(context):
        raise CliCode.DEPLOYMENT_UNCONFIRMED.error(
            f"Serving {release} needs a confirmation, but standard input is not a terminal: the release {ended}, which "
            "served last, has ended.",
            hint=f"Run `sealserve up --release {release}` to serve this release. To serve {ended} again, unless it was "
            f"revoked, run `sealserve broker allow --reactivate {ended}`, then `sealserve up`.",
        )
    return f"Serve {release} instead?"


def _can_ask(context: Context) -> bool:
    return not context.as_json and sys.stdin.isatty()


def newest_name(parent: Path) -> str | None:
    """Return the name of the newest release in a folder, or None if the folder does not contain a release."""
    return releases.newest(parent).name if releases.any_in(parent) else None
