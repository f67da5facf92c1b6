"""``sealserve broker platform``: which machines may have the keys of releases for enrolled platforms."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from sealserve.cli import console, options
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Table
from sealserve.cli.verbs import Verbs
from sealserve.terms import PlatformKind

with deferred:
    from sealserve.broker import admin
    from sealserve.cli.broker_json import encode
    from sealserve.owner.owner import Owner

app = Verbs("Say which machines are one's own.")


PlatformId = Annotated[
    str, typer.Argument(metavar="PLATFORM_ID", help="As `quote verify` and the audit log show it: 32 hex digits.")
]
Kind = Annotated[
    PlatformKind | None, typer.Option("--kind", help="Its kind.", show_default="sealserve.toml's platform")
]


@app.command()
def enrol(
    context: Context,
    platform_id: PlatformId,
    label: Annotated[str, typer.Option("--label", help="What people call the machine.")] = "",
    kind: Kind = None,
) -> None:
    """Enrol a machine. In production only enrolled ones get keys: a genuine processor is not yet one's own."""
    platform = kind or context.deployment.platform
    with Owner.open(context.workspace).database(create=True) as database:
        enrolled = admin.enrol_platform(database, platform, platform_id, label=label, now=datetime.now(UTC))
    context.show(encode(enrolled), f"Enrolled the platform {enrolled.platform_id} ({enrolled.platform}).")


@app.command()
def withdraw(context: Context, platform_id: PlatformId, kind: Kind = None, yes: options.Yes = False) -> None:
    """Take back a machine's enrolment, when it is sold or stolen: it gets no more keys. What runs on it goes on."""
    platform = kind or context.deployment.platform
    console.confirm(f"Withdraw the platform {platform_id}?", yes=yes)
    with Owner.open(context.workspace).database() as database:
        withdrawn = admin.withdraw_platform(database, platform, platform_id, now=datetime.now(UTC))
    context.show(
        encode(withdrawn),
        f"Withdrew the platform {withdrawn.platform_id} ({withdrawn.platform}): it gets no more keys.",
    )


@app.command("list")
def list_(context: Context) -> None:
    """List the machines that are enrolled."""
    with Owner.open(context.workspace).database() as database:
        rows = admin.every_platform(database)
    table = Table(
        ("PLATFORM ID", "KIND", "ENROLLED", "LABEL"),
        [(row.platform_id, row.platform, f"{row.enrolled:%Y-%m-%d %H:%M:%S}", row.label) for row in rows],
        empty="No platforms yet: `sealserve broker platform enrol`.",
    )
    context.show(encode(rows), table)
