"""``sealserve certs``: the certificates of the broker, the service's authority and the users."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import typer

from sealserve import deployment
from sealserve.cli import console
from sealserve.owner import certificates
from sealserve.owner.certificates import NamedCertificate
from sealserve.terms import TlsMode

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Make, show and renew certificates.")


@app.command("two-way")
def two_way(directory: console.Directory = console.HERE, as_json: console.Json = False) -> None:
    """Make three authorities, the broker's certificate and a client certificate for the users."""
    _create(TlsMode.TWO_WAY, directory, as_json=as_json)


@app.command("one-way")
def one_way(directory: console.Directory = console.HERE, as_json: console.Json = False) -> None:
    """Make the same, without a client certificate: anybody who reaches the service may use it."""
    _create(TlsMode.ONE_WAY, directory, as_json=as_json)


@app.command()
def renew(directory: console.Directory = console.HERE, as_json: console.Json = False) -> None:
    """Issue fresh certificates for broker and user. The service's come with each new release."""
    workspace = console.find_workspace(directory)
    described = deployment.read(workspace.deployment_file)
    _print(certificates.renew_certificates(workspace, described, now=datetime.now(UTC)), as_json=as_json)


@app.command()
def show(directory: console.Directory = console.HERE, as_json: console.Json = False) -> None:
    """Show the workspace's certificates and when they end."""
    _print(certificates.show_certificates(console.find_workspace(directory)), as_json=as_json)


def _create(mode: TlsMode, directory: Path, *, as_json: bool) -> None:
    workspace = console.find_workspace(directory)
    described = deployment.read(workspace.deployment_file)
    certificates.check_mode(described, mode)
    for kind in certificates.lost_authorities(workspace):
        console.warn(
            f"the {kind} authority was missing, and a new one takes its place: what the former one signed is no longer "
            "trusted. Build and start a new release, and bring the folder user/ to the users."
        )
    _print(certificates.create_certificates(workspace, described, now=datetime.now(UTC)), as_json=as_json)


def _print(found: Iterable[NamedCertificate], *, as_json: bool) -> None:
    rows = list(found)
    if as_json:
        console.print_json(
            [
                {
                    "role": row.role,
                    "file": str(row.path),
                    "subject": row.info.subject,
                    "names": [*row.info.names, *map(str, row.info.addresses), *row.info.permitted],
                    "not_after": row.info.not_after.isoformat(),
                    "fingerprint": row.info.fingerprint,
                }
                for row in rows
            ]
        )
        return
    now = datetime.now(UTC)
    console.print_table(
        ("FOR", "NAMES", "ENDS", "DAYS LEFT"),
        [
            (
                row.role,
                ", ".join([*row.info.names, *map(str, row.info.addresses), *row.info.permitted]),
                f"{row.info.not_after:%Y-%m-%d}",
                (row.info.not_after - now).days,
            )
            for row in rows
        ],
        empty="No certificates yet: `sealserve certs two-way` makes them.",
    )
