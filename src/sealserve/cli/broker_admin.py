"""``sealserve broker admin``: the certificates of administrators, who use the broker over the network."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import console, options
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Table
from sealserve.cli.verbs import Verbs
from sealserve.terms import LEAF_DAYS, AdministratorRole

with deferred:
    from sealserve.cli.broker_json import encode
    from sealserve.owner import administrators
    from sealserve.owner.administrators import IssuedCertificate

app = Verbs("Manage remote administrators: issue, list and revoke their certificates.")

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Name of the administrator: 1 to 32 lower-case letters, digits and hyphens"),
]


@app.command()
def issue(
    context: Context,
    name: Name,
    output: Annotated[Path, typer.Option("--output", "-o", help="Administrator file to write (mode 0600)")],
    role: Annotated[
        AdministratorRole, typer.Option("--role", help="Role: decides which commands the administrator may use")
    ] = AdministratorRole.VIEWER,
    days: Annotated[
        int, typer.Option("--days", min=1, max=3650, help="Validity of the certificate in days")
    ] = LEAF_DAYS,
) -> None:
    """Issue a certificate for an administrator, and write the administrator file.

    The file contains the administrator's private key: transfer it over a confidential channel. The first certificate
    also creates the authority that signs the certificates of administrators.
    """
    issued = administrators.issue(
        context.workspace, context.deployment, name, role, output, now=datetime.now(UTC), days=days
    )
    context.show(
        encode(issued),
        f"Issued a certificate for {name} with the role {role}, valid until {issued.not_after:%Y-%m-%d %H:%M} UTC.",
        f"Give {output} to {name} over a confidential channel. It contains the private key.",
    )


@app.command("list")
def list_(context: Context) -> None:
    """List the certificates of administrators, with their roles and expiry."""
    now = datetime.now(UTC)
    found = administrators.every(context.workspace)
    table = Table(
        ("NAME", "ROLE", "STATE", "EXPIRES (UTC)", "SERIAL"),
        [(item.name, item.role, _state(item, now), f"{item.not_after:%Y-%m-%d}", item.serial) for item in found],
        empty="The broker does not have remote administrators. Add one: `sealserve broker admin issue`.",
    )
    context.show([{"state": _state(item, now), **_object(item)} for item in found], table)


@app.command()
def revoke(context: Context, name: Name, yes: options.Yes = False) -> None:
    """Revoke all certificates of an administrator. A running broker refuses them immediately."""
    workspace = context.workspace
    console.confirm(f"Revoke all certificates of the administrator {name}?", yes=yes)
    revoked = administrators.revoke(workspace, name, now=datetime.now(UTC))
    context.show(encode(revoked), f"Revoked all certificates of {name}. A running broker refuses them from now on.")


def _state(item: IssuedCertificate, now: datetime) -> str:
    if item.revoked is not None:
        return "revoked"
    return "expired" if now > item.not_after else "active"


def _object(item: IssuedCertificate) -> dict[str, object]:
    encoded = encode(item)
    assert isinstance(encoded, dict)  # noqa: S101  # a dataclass becomes an object
    return encoded
