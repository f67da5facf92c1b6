"""``sealserve user``: the users of a service with two-way TLS."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from sealserve.cli import console, options
from sealserve.cli.completions import complete_user
from sealserve.cli.context import Context
from sealserve.cli.output import Table
from sealserve.cli.verbs import Verbs
from sealserve.owner import releases, users
from sealserve.owner.users import User
from sealserve.pki.authority import LEAF_DAYS
from sealserve.workspace import Workspace

app = Verbs("Manage the users of the service: add, list, renew, revoke.")

NewName = Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits and hyphens.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.", autocompletion=complete_user)]
Days = Annotated[int, typer.Option(min=1, max=3650, help="Days for which the certificate is valid.")]


@app.command()
def add(context: Context, name: NewName, days: Days = LEAF_DAYS) -> None:
    """Issue a certificate for a new user. The service accepts it at once; a new release is not needed."""
    user = users.add(context.workspace, context.deployment, name, now=datetime.now(UTC), days=days)
    context.show(_json(user), _issued(user), f"Next: `sealserve client bundle --for {name}`.")


@app.command()
def renew(context: Context, name: Name, days: Days = LEAF_DAYS) -> None:
    """Issue a fresh certificate and key for a user. The former certificate stays valid until it ends."""
    user = users.renew(context.workspace, context.deployment, name, now=datetime.now(UTC), days=days)
    context.show(_json(user), _issued(user), f"Next: `sealserve client bundle --for {name}`.")


@app.command()
def revoke(context: Context, name: Name, yes: options.Yes = False) -> None:
    """Revoke all certificates of a user. The revocation takes effect with the next release."""
    console.confirm(f"Revoke all certificates of {name}?", yes=yes)
    user = users.revoke(context.workspace, context.deployment, name, now=datetime.now(UTC))
    context.show(
        _json(user),
        f"{name} is revoked in the workspace. Running replicas still accept {name}.",
        "Next: `sealserve release build` and `sealserve up`. Then `sealserve broker revoke` the releases before it,",
        "so that no enclave can start one of them again.",
    )


@app.command("list")
def list_(context: Context) -> None:
    """List the users, with the end of each certificate. The newest release may still accept a revoked user."""
    now = datetime.now(UTC)
    found = users.list_users(context.workspace, now=now)
    rows = [
        (user.name, user.state, f"{user.not_after:%Y-%m-%d}", "" if user.revoked else (user.not_after - now).days)
        for user in found
    ]
    empty = "No users yet: `sealserve certs two-way`, then `sealserve user add NAME`."
    text: list[Any] = [Table(("USER", "STATE", "ENDS (UTC)", "DAYS LEFT"), rows, empty=empty)]
    accepted = _still_accepted(context.workspace)
    if accepted:
        text.append(
            f"The newest release was built before {', '.join(accepted)} {'was' if len(accepted) == 1 else 'were'} "
            "revoked, and accepts them: run `sealserve release build` and `sealserve up`."
        )
    context.show({"users": [_json(user) for user in found], "newest_release_accepts": accepted}, *text)


def _still_accepted(workspace: Workspace) -> list[str]:
    if not releases.any_in(workspace.owner.releases):
        return []
    return users.revoked_since(workspace, releases.newest(workspace.owner.releases))


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
