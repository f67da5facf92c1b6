"""``sealserve broker platform``: the enrolled platforms, which are the machines that may receive keys in production."""

from typing import Annotated

import typer

from sealserve.cli import console, options
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Table
from sealserve.cli.verbs import Verbs
from sealserve.terms import PlatformKind

with deferred:
    from sealserve.cli.administration import administration
    from sealserve.cli.broker_json import encode

app = Verbs("Manage enrolled platforms: the SGX machines that may receive keys.")


PlatformId = Annotated[
    str,
    typer.Argument(
        metavar="PLATFORM_ID", help="Platform id, 32 hex digits, as in `sealserve quote verify` and the audit log"
    ),
]
Kind = Annotated[
    PlatformKind | None,
    typer.Option("--kind", help="Kind of the platform", show_default="platform in sealserve.toml"),
]


@app.command()
def enrol(
    context: Context,
    platform_id: PlatformId,
    label: Annotated[str, typer.Option("--label", help="Description of the machine for people, such as its rack")] = "",
    kind: Kind = None,
) -> None:
    """Enroll a platform, so that its enclaves can receive keys.

    The broker releases the keys of SGX releases only to enrolled platforms. A valid quote proves that a processor is
    genuine, but not that it is in a machine that you chose.
    """
    with administration(context) as broker:
        enrolled = broker.enrol_platform(platform_id, kind, label=label)
    context.show(encode(enrolled), f"Enrolled the platform {enrolled.platform_id} ({enrolled.platform}).")


@app.command()
def withdraw(context: Context, platform_id: PlatformId, kind: Kind = None, yes: options.Yes = False) -> None:
    """Withdraw the enrollment of a platform, for example if the machine was sold or stolen.

    The platform does not receive further keys. Enclaves that already run on it continue until they are stopped.
    """
    with administration(context) as broker:
        console.confirm(f"Withdraw the platform {platform_id}? It will not receive further keys.", yes=yes)
        withdrawn = broker.withdraw_platform(platform_id, kind)
    context.show(
        encode(withdrawn),
        f"Withdrew the platform {withdrawn.platform_id} ({withdrawn.platform}): it does not receive further keys.",
    )


@app.command("list")
def list_(context: Context) -> None:
    """List the enrolled platforms."""
    with administration(context) as broker:
        rows = broker.platforms()
    table = Table(
        ("PLATFORM ID", "KIND", "ENROLLED", "LABEL"),
        [(row.platform_id, row.platform, f"{row.enrolled:%Y-%m-%d %H:%M:%S}", row.label) for row in rows],
        empty="No platforms are enrolled. Enroll one: `sealserve broker platform enrol`.",
    )
    context.show(encode(rows), table)
