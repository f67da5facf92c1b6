"""``sealserve broker platform``: which machines may have the keys of releases for enrolled platforms."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from sealserve import deployment
from sealserve.broker import admin
from sealserve.cli import console
from sealserve.owner.owner import Owner
from sealserve.terms import PlatformKind

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Say which machines are one's own.")


PlatformId = Annotated[
    str, typer.Argument(metavar="PLATFORM_ID", help="As `quote verify` and the audit log show it: 32 hex digits.")
]
Kind = Annotated[
    PlatformKind | None, typer.Option("--kind", help="Its kind.", show_default="sealserve.toml's platform")
]


@app.command()
def enrol(
    platform_id: PlatformId,
    label: Annotated[str, typer.Option("--label", help="What people call the machine.")] = "",
    kind: Kind = None,
    directory: console.Directory = console.HERE,
    as_json: console.Json = False,
) -> None:
    """Enrol a machine. In production only enrolled ones get keys: a genuine processor is not yet one's own."""
    workspace = console.find_workspace(directory)
    platform = kind or deployment.read(workspace.deployment_file).platform
    with Owner.open(workspace).database(create=True) as database:
        enrolled = admin.enrol_platform(database, platform, platform_id, label=label, now=datetime.now(UTC))
    if as_json:
        console.print_json(asdict(enrolled))
    else:
        console.out.print(f"Enrolled the platform {enrolled.platform_id} ({enrolled.platform}).")


@app.command()
def withdraw(
    platform_id: PlatformId,
    kind: Kind = None,
    yes: console.Yes = False,
    directory: console.Directory = console.HERE,
    as_json: console.Json = False,
) -> None:
    """Take back a machine's enrolment, when it is sold or stolen: it gets no more keys. What runs on it goes on."""
    workspace = console.find_workspace(directory)
    platform = kind or deployment.read(workspace.deployment_file).platform
    console.confirm(f"Withdraw the platform {platform_id}?", yes=yes)
    with Owner.open(workspace).database() as database:
        withdrawn = admin.withdraw_platform(database, platform, platform_id, now=datetime.now(UTC))
    if as_json:
        console.print_json(asdict(withdrawn))
    else:
        console.out.print(
            f"Withdrew the platform {withdrawn.platform_id} ({withdrawn.platform}): it gets no more keys."
        )


@app.command("list")
def list_(directory: console.Directory = console.HERE, as_json: console.Json = False) -> None:
    """List the machines that are enrolled."""
    with Owner.open(console.find_workspace(directory)).database() as database:
        rows = admin.every_platform(database)
    if as_json:
        console.print_json([asdict(row) for row in rows])
        return
    console.print_table(
        ("PLATFORM ID", "KIND", "ENROLLED", "LABEL"),
        [(row.platform_id, row.platform, row.enrolled[:19].replace("T", " "), row.label) for row in rows],
        empty="No platforms yet: `sealserve broker platform enrol`.",
    )
