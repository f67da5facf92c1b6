"""``sealserve user``: the users of a service with two-way TLS."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from sealserve.cli import completion, console, options, user_trust
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Table
from sealserve.cli.verbs import Verbs
from sealserve.terms import LEAF_DAYS

with deferred:
    from sealserve.cluster import wanted
    from sealserve.owner import releases, users
    from sealserve.owner.users import User
    from sealserve.sealing.release_index import INDEX_FILE
    from sealserve.workspace import Workspace

app = Verbs("Manage the users of the service: add, list, renew, revoke. As a user: trust an owner.")
app.add_typer(user_trust.app)

NewName = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the new user: 1 to 63 lower-case letters, digits and hyphens")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the user", autocompletion=completion.users)]
Days = Annotated[int, typer.Option(min=1, max=3650, help="Validity of the certificate in days")]


@app.command()
def add(context: Context, name: NewName, days: Days = LEAF_DAYS) -> None:
    """Issue a certificate for a new user. The service accepts it immediately, without a new release."""
    user = users.add(context.workspace, context.deployment, name, now=datetime.now(UTC), days=days)
    context.show(_json(user), _issued(user), f"Next: `sealserve client bundle --for {name}`.")


@app.command()
def renew(context: Context, name: Name, days: Days = LEAF_DAYS) -> None:
    """Issue a new certificate and key for a user. The former certificate stays valid until it expires."""
    user = users.renew(context.workspace, context.deployment, name, now=datetime.now(UTC), days=days)
    context.show(_json(user), _issued(user), f"Next: `sealserve client bundle --for {name}`.")


@app.command()
def revoke(context: Context, name: Name, yes: options.Yes = False) -> None:
    """Revoke all certificates of a user. The revocation takes effect only with the next release."""
    console.confirm(f"Revoke all certificates of {name}?", yes=yes)
    user = users.revoke(context.workspace, context.deployment, name, now=datetime.now(UTC))
    context.show(
        _json(user),
        f"Revoked all certificates of {name} in the workspace. Running replicas still accept {name}.",
        "Next: `sealserve release build`, then `sealserve up`. Then run `sealserve broker revoke` for the older",
        "releases, so that an enclave cannot serve them again.",
    )


@app.command("list")
def list_(context: Context) -> None:
    """List the users, with the expiry of their certificates, and the releases that still accept a revoked user."""
    now = datetime.now(UTC)
    found = users.list_users(context.workspace, now=now)
    rows = [
        (user.name, user.state, f"{user.not_after:%Y-%m-%d}", "" if user.revoked else (user.not_after - now).days)
        for user in found
    ]
    empty = "The service does not have users yet. Run `sealserve certs two-way`, then `sealserve user add NAME`."
    text: list[Any] = [Table(("USER", "STATE", "EXPIRES (UTC)", "DAYS LEFT"), rows, empty=empty)]
    newest, serving = _newest(context.workspace), _serving(context.workspace)
    folders = [folder for folder in (newest, serving) if folder is not None]
    accepted = {folder.name: users.revoked_since(context.workspace, folder) for folder in folders}
    for release, names in accepted.items():
        if names:
            text.append(
                f"The release {release} still accepts {', '.join(names)}, because it was built before the revocation. "
                "Run `sealserve release build`, then `sealserve up`."
            )
    context.show(
        {
            "users": [_json(user) for user in found],
            "newest_release_accepts": accepted[newest.name] if newest else [],
            "serving_release_accepts": accepted[serving.name] if serving else [],
        },
        *text,
    )


def _newest(workspace: Workspace) -> Path | None:
    return releases.newest(workspace.owner.releases) if releases.any_in(workspace.owner.releases) else None


def _serving(workspace: Workspace) -> Path | None:
    """Return the folder of the release that `up` started last. After a roll-back, it is not the newest release."""
    release = wanted.read(workspace).release
    if release is None:
        return None
    folders = (workspace.owner.releases / release, workspace.host.releases / release)
    return next((folder for folder in folders if (folder / INDEX_FILE).is_file()), None)


def _issued(user: User) -> str:
    return f"Issued a certificate for {user.name}, valid until {user.not_after:%Y-%m-%d %H:%M} UTC."


def _json(user: User) -> dict[str, Any]:
    return {
        "name": user.name,
        "state": user.state,
        "not_after": user.not_after.isoformat(),
        "serial": user.serial,
        "revoked_at": None if user.revoked is None else user.revoked.isoformat(),
    }
