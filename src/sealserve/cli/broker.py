"""``sealserve broker``: the owner's service that releases keys to attested enclaves."""

import logging
from collections.abc import Collection
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from sealserve.cli import broker_platform, completion, console, options, passphrases
from sealserve.cli.codes import CliCode
from sealserve.cli.context import Context, Place
from sealserve.cli.dangerous_options import dangerous_options
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Table
from sealserve.cli.verbs import Verbs
from sealserve.enclave.findings import Danger

with deferred:
    from sealserve.broker import admin
    from sealserve.broker.admin import KnownRelease
    from sealserve.broker.hardening import forbid_inspection, lock_memory
    from sealserve.broker.head_file import read_head
    from sealserve.broker.openssl_settings import ensure_no_tickets
    from sealserve.broker.releases import Release
    from sealserve.cli.broker_json import encode
    from sealserve.owner import master_key, provisioning, releases
    from sealserve.owner.owner import Owner
    from sealserve.regular_file import read_regular

_LOG = logging.getLogger(__name__)
app = Verbs("Run the broker, and manage which releases get their key.")

app.add_typer(broker_platform.app, name="platform")

RELEASE_HELP = "Name of the release, or the beginning of its id"


@app.command()
def run(place: Place, ready_file: options.ReadyFile = None) -> None:
    """Run the broker until it is stopped: verify enclaves, and release keys to them."""
    console.log_to_standard_error()
    workspace = place.workspace
    described = place.deployment
    workspace.create()
    ensure_no_tickets(workspace.owner.root)  # may restart this process
    forbid_inspection()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if (reason := lock_memory()) is not None:
        _LOG.warning("the system may swap out the broker's memory, which contains keys: %s", reason)
    with provisioning.open_broker(workspace, described) as server:
        server.serve_until_signalled(ready=lambda: console.mark_ready(ready_file))


@app.command()
@dangerous_options
def allow(
    context: Context,
    name: options.ReleaseName = None,
    reactivate: Annotated[
        bool,
        typer.Option(
            "--reactivate", help="Make a draining release active again, with the TCB policy of sealserve.toml"
        ),
    ] = False,
    *,
    dangerous: Collection[Danger],
) -> None:
    """Register the enclaves of a release with the broker, so that they can receive its key.

    If the release is already registered, only its new enclaves are added. Its state and its TCB policy do not change. A
    running broker uses the change immediately.
    """
    workspace, described = context.workspace, context.deployment
    folder = releases.find(workspace.owner.releases, name)
    allowed = provisioning.allow(
        workspace, described, folder, now=datetime.now(UTC), reactivate=reactivate, dangerous=dangerous
    )
    _show(context, allowed)


@app.command()
def drain(
    context: Context,
    name: Annotated[str, typer.Argument(metavar="RELEASE", help=RELEASE_HELP, autocompletion=completion.releases)],
    minutes: Annotated[
        int, typer.Option("--minutes", min=1, help="Minutes until the deadline; until then, restarts still get the key")
    ] = 60,
) -> None:
    """Drain a release: after a deadline, the broker does not release its key.

    The clock of this machine decides. Enclaves that already run continue until they are stopped.
    """
    now = datetime.now(UTC)
    with Owner.open(context.workspace).database() as database:
        drained = admin.drain(database, name, deadline=now + timedelta(minutes=minutes), now=now)
    _show(context, drained)


@app.command()
def revoke(
    context: Context,
    name: Annotated[str, typer.Argument(metavar="RELEASE", help=RELEASE_HELP, autocompletion=completion.releases)],
    yes: options.Yes = False,
) -> None:
    """Revoke a release permanently: the broker never releases its key again.

    Enclaves that already run continue until they are stopped.
    """
    owner = Owner.open(context.workspace)
    console.confirm(f"Revoke {name} permanently? The broker will never release its key again.", yes=yes)
    with owner.database() as database:
        revoked = admin.revoke(database, name, now=datetime.now(UTC))
    _show(context, revoked)


@app.command("releases")
def releases_(context: Context) -> None:
    """List the releases that are registered with the broker, with their state."""
    with Owner.open(context.workspace).database() as database:
        rows = admin.every_release(database)
    table = Table(
        ("RELEASE", "STATE", "PLATFORM", "TCB", "ENCLAVES"),
        [(row.release.name, _state(row.release), row.release.platform, row.release.policy.tcb.name,
          ", ".join(item.label for item in row.enclaves)) for row in rows],
        empty="No releases are registered. Register one: `sealserve broker allow`.",
    )  # fmt: skip
    context.show(encode(rows), table)


@app.command()
def log(
    context: Context,
    last: Annotated[
        int | None, typer.Option("--last", "-n", min=1, show_default="all", help="Number of newest rows to show")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Verify the hash chain of all rows and its signed heads first")
    ] = False,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check", metavar="HEADFILE", help="Verify also against a signed head that you stored on another machine"
        ),
    ] = None,
    sign: Annotated[
        bool, typer.Option("--sign", help="Verify, and print a signed head as JSON, to store on another machine")
    ] = False,
) -> None:
    """Show the audit log: released keys, refused requests, and changes by the owner.

    Each row contains the hash of the previous row, so a changed or deleted row is detected. A signed head on another
    machine also detects that rows at the end were deleted.
    """
    workspace = context.workspace
    kept = None if check is None else read_head(read_regular(check), name=str(check))
    if verify or sign or kept:
        summary, any_kept = provisioning.verify_log(workspace, kept=kept)
        console.say(f"The chain of {summary.rows} rows verifies; head {summary.head}.")
        if not any_kept and not sign:
            console.say(
                "Warning: deleted rows at the end of the log cannot be detected, because no signed head is stored "
                "outside the database. Run `sealserve broker log --sign`, and store its output on another machine."
            )
    if sign:
        console.print_json(encode(provisioning.sign_log(workspace, now=datetime.now(UTC))))
        return
    with Owner.open(workspace).database() as database:
        rows = admin.log(database, last=last)
    table = Table(
        ("#", "TIME (UTC)", "DECISION", "CODE", "RELEASE", "MRENCLAVE", "TCB", "PEER", "DETAIL"),
        [
            (row.seq, f"{entry.time:%Y-%m-%d %H:%M:%S}", entry.decision, entry.code, (entry.release_id or "")[:12],
             (entry.mr_enclave or "")[:12], entry.tcb_status or "", entry.peer, entry.detail)
            for row in rows for entry in [row.entry]
        ],
        empty="The audit log is empty.",
    )  # fmt: skip
    context.show(encode(rows), table)


@app.command("rotate-master")
def rotate_master(
    context: Context,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Protect the new master key with a new passphrase")
    ] = False,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file",
            help="File with the new passphrase, at least 12 bytes (mode 0600)",
            show_default="ask at the terminal",
        ),
    ] = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Store the new master key without a passphrase")
    ] = False,
) -> None:
    """Encrypt the stored release keys again: under a new master key, or by the service that [keystore] names.

    A running broker still has the old key in memory: restart it afterwards. Replace your copies of the old master key.
    Interrupting the rotation is safe: the next command that opens the keystore completes it.
    """
    if no_passphrase and (passphrase or passphrase_file is not None):
        raise CliCode.USAGE_ARGUMENTS.error(
            "--no-passphrase cannot be used together with --passphrase or --passphrase-file.",
            hint="Give only one of the three options.",
        )
    new = passphrases.new_source(passphrase_file) if passphrase or passphrase_file is not None else None
    rotated = master_key.rotate(context.workspace, new_passphrase=new, without_passphrase=no_passphrase)
    how = ", which needs a passphrase" if rotated.under_passphrase else ""
    context.show(asdict(rotated), f"{rotated.keys} release keys are now encrypted under {rotated.place}{how}.")
    context.say("Next: restart a running broker, and replace your copies of the old master key.")


@app.command()
def status(context: Context) -> None:
    """Show how many keys, releases and decisions the broker's database contains."""
    with Owner.open(context.workspace).database() as database:
        found = admin.status(database)
    fields = {
        "keys": found.keys,
        "releases": _counts(found.releases),
        "decisions": _counts(found.decisions),
        "refusals": _counts(found.refusals),
        "newest TCB evaluation": _counts(found.evaluation_floor),
        "audit log": f"{found.audit_rows} rows, head {found.audit_head[:16]}",
    }  # fmt: skip
    context.show(encode(found), fields)


def _show(context: Context, known: KnownRelease) -> None:
    release = known.release
    fields = {
        "release": release.name,
        "state": _state(release),
        "platform": release.platform,
        "TCB policy": release.policy.tcb.name,
        "enclaves": "\n".join(f"{item.label}  {item.measurement.hex()}" for item in known.enclaves),
    }  # fmt: skip
    context.show(encode(known), fields)


def _state(release: Release) -> str:
    if release.deadline is None:
        return release.state
    deadline = f"{release.deadline:%Y-%m-%d %H:%M:%S} UTC"
    return f"ended at {deadline}" if release.deadline <= datetime.now(UTC) else f"{release.state} until {deadline}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
