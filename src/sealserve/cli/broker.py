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
app = Verbs("Run the broker, and say which releases get their key.")

app.add_typer(broker_platform.app, name="platform")

RELEASE_HELP = "A release's name, or the beginning of its id."


@app.command()
def run(place: Place, ready_file: options.ReadyFile = None) -> None:
    """Serve keys to attested enclaves until stopped."""
    console.log_to_standard_error()
    workspace = place.workspace
    described = place.deployment
    workspace.create()
    ensure_no_tickets(workspace.owner.root)  # may start this process again
    forbid_inspection()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if (reason := lock_memory()) is not None:
        _LOG.warning("the broker's memory may be swapped out, with the keys in it: %s", reason)
    with provisioning.open_broker(workspace, described) as server:
        server.serve_until_signalled(ready=lambda: console.mark_ready(ready_file))


@app.command()
@dangerous_options
def allow(
    context: Context,
    name: options.ReleaseName = None,
    reactivate: Annotated[
        bool,
        typer.Option("--reactivate", help="Make a draining release active again, with sealserve.toml's TCB policy."),
    ] = False,
    *,
    dangerous: Collection[Danger],
) -> None:
    """Let the enclaves that were built for a release have its key.

    A release that the broker knows gets further enclaves; its state and its TCB policy stay as they are.
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
    minutes: Annotated[int, typer.Option("--minutes", min=1, help="Restarts still get the key for so long.")] = 60,
) -> None:
    """Let a release end: after the deadline, on this machine's clock, no enclave gets its key."""
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
    """End a release for good. Enclaves that run already go on until they are stopped."""
    owner = Owner.open(context.workspace)
    console.confirm(f"Revoke {name}? No enclave will ever get its key again.", yes=yes)
    with owner.database() as database:
        revoked = admin.revoke(database, name, now=datetime.now(UTC))
    _show(context, revoked)


@app.command("releases")
def releases_(context: Context) -> None:
    """List the releases that the broker knows, and their state."""
    with Owner.open(context.workspace).database() as database:
        rows = admin.every_release(database)
    table = Table(
        ("RELEASE", "STATE", "PLATFORM", "TCB", "ENCLAVES"),
        [(row.release.name, _state(row.release), row.release.platform, row.release.policy.tcb.name,
          ", ".join(item.label for item in row.enclaves)) for row in rows],
        empty="No releases yet: `sealserve broker allow`.",
    )  # fmt: skip
    context.show(encode(rows), table)


@app.command()
def log(
    context: Context,
    last: Annotated[int | None, typer.Option("--last", "-n", min=1, show_default="all", help="How many rows.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check the whole chain and its signed heads first.")] = False,
    check: Annotated[
        Path | None, typer.Option("--check", metavar="HEADFILE", help="Verify with a head that was kept elsewhere too.")
    ] = None,
    sign: Annotated[
        bool, typer.Option("--sign", help="Verify, then print a signed head as JSON: keep it on another machine.")
    ] = False,
) -> None:
    """Show the audit log: who got a key, who was refused, what the owner changed; each row is bound to the last."""
    workspace = context.workspace
    kept = None if check is None else read_head(read_regular(check), name=str(check))
    if verify or sign or kept:
        summary, any_kept = provisioning.verify_log(workspace, kept=kept)
        console.say(f"The chain of {summary.rows} rows verifies; head {summary.head}.")
        if not any_kept and not sign:
            console.say(
                "Warning: no signed head is kept outside the database, so deleted rows at the end cannot be noticed. "
                "`sealserve broker log --sign` makes one: keep it on another machine."
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
        empty="No decisions yet.",
    )  # fmt: skip
    context.show(encode(rows), table)


@app.command("rotate-master")
def rotate_master(
    context: Context,
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Put it under a new passphrase.")] = False,
    passphrase_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", help="Read the new passphrase from this file (0600).", show_default="ask"),
    ] = None,
    no_passphrase: Annotated[bool, typer.Option("--no-passphrase", help="Let it need none.")] = False,
) -> None:
    """Encrypt the stored release keys under a fresh master key, or by the service that [keystore] names.

    A broker that runs has the old key in its memory: start it again.
    """
    if no_passphrase and (passphrase or passphrase_file is not None):
        raise CliCode.USAGE_ARGUMENTS.error(
            "--no-passphrase excludes --passphrase and --passphrase-file.", hint="Give one of the three options."
        )
    new = passphrases.new_source(passphrase_file) if passphrase or passphrase_file is not None else None
    rotated = master_key.rotate(context.workspace, new_passphrase=new, without_passphrase=no_passphrase)
    how = " under a passphrase" if rotated.under_passphrase else ""
    context.show(asdict(rotated), f"{rotated.keys} release keys are now encrypted by {rotated.place}{how}.")
    context.say("Start a running broker again, and replace your copies of the old master key.")


@app.command()
def status(context: Context) -> None:
    """Show what the broker holds and has done."""
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
