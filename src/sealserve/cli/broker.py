"""``sealserve broker``: the owner's service that releases keys to attested enclaves."""

import logging
import os
from collections.abc import Collection
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sealserve.attestation.secret_provisioning import SecretForm
from sealserve.cli import (
    broker_admin,
    broker_approval,
    broker_collateral,
    broker_import,
    broker_log,
    broker_notify_test,
    broker_platform,
    broker_policy,
    broker_token,
    completion,
    console,
    options,
    passphrases,
)
from sealserve.cli.codes import CliCode
from sealserve.cli.context import Context, Place
from sealserve.cli.dangerous_options import dangerous_options
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.output import Table
from sealserve.cli.remote_broker import require_local
from sealserve.cli.verbs import Verbs
from sealserve.enclave.findings import Danger
from sealserve.terms import MOST_PROCESSES, TargetKind

with deferred:
    from sealserve.broker.admin import KnownRelease
    from sealserve.broker.hardening import forbid_inspection, lock_memory
    from sealserve.broker.keystore import keys_are
    from sealserve.broker.openssl_settings import ensure_no_tickets
    from sealserve.broker.releases import Release
    from sealserve.broker.server_identity import BrokerCertificate
    from sealserve.broker.service_loop import signalled
    from sealserve.cli.administration import administration
    from sealserve.cli.broker_json import encode
    from sealserve.owner import master_key, provisioning, row_key, supervised_broker
    from sealserve.systemd_notify import Notifier

_LOG = logging.getLogger(__name__)
app = Verbs("Run the broker, and manage which releases get their key.")

app.add_typer(broker_admin.app, name="admin")
app.add_typer(broker_platform.app, name="platform")
app.add_typer(broker_token.app, name="token")
app.add_typer(broker_policy.app, name="policy")

RELEASE_HELP = "Name of the release, or the beginning of its id"


@app.command()
def run(
    place: Place,
    ready_file: options.ReadyFile = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            min=1,
            max=MOST_PROCESSES,
            help="Number of processes that release keys, each on one processor core",
            show_default="broker.processes",
        ),
    ] = None,
) -> None:
    """Run the broker until it is stopped: verify enclaves, and release keys to them."""
    console.log_to_standard_error()
    workspace = place.workspace
    described = place.deployment
    console.log_to_standard_error(described.broker.log_format)
    workspace.create()
    ensure_no_tickets(workspace.owner.root)  # may restart this process
    forbid_inspection()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if (reason := lock_memory()) is not None and (processes or described.broker.processes) == 1:
        _LOG.warning("the system may swap out the broker's memory, which contains keys: %s", reason)
    notifier = Notifier.of(os.environ)
    ready = partial(console.mark_ready, ready_file)
    if (count := processes or described.broker.processes) == 1:
        with signalled() as signals, provisioning.open_broker(workspace, described) as server:
            server.serve_until_signalled(signals, ready=ready, notifier=notifier)
        return
    text = supervised_broker.settings_text(workspace)
    with signalled() as signals, supervised_broker.supervised_broker(workspace, text, processes=count) as supervisor:
        supervisor.serve(signals, ready=ready, notifier=notifier)


@app.command()
@dangerous_options
def allow(
    context: Context,
    name: options.ReleaseName = None,
    reactivate: Annotated[
        bool,
        typer.Option("--reactivate", help="Make a draining release active again, with the policy of sealserve.toml"),
    ] = False,
    secret_form: Annotated[
        SecretForm | None,
        typer.Option(
            "--secret-form",
            help=options.FORM_OF_KEY_HELP,
            show_default="as built, as registered, or raw",
        ),
    ] = None,
    *,
    dangerous: Collection[Danger],
) -> None:
    """Register the enclaves of a release with the broker, so that they can receive its key.

    If the release is already registered, only its new enclaves are added. Its state and its TCB policy do not change. A
    running broker uses the change immediately.
    """
    with administration(context, dangerous=dangerous) as broker:
        allowed = broker.allow(name, reactivate=reactivate, secret_form=secret_form)
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

    The clock of the broker's machine decides. Enclaves that already run continue until they are stopped.
    """
    with administration(context) as broker:
        drained = broker.drain(name, minutes=minutes)
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
    with administration(context) as broker:
        console.confirm(f"Revoke {name} permanently? The broker will never release its key again.", yes=yes)
        revoked = broker.revoke(name)
    _show(context, revoked)


@app.command("releases")
def releases_(context: Context) -> None:
    """List the releases that are registered with the broker, with their state."""
    with administration(context) as broker:
        rows = broker.releases()
    table = Table(
        ("RELEASE", "STATE", "PLATFORM", "TCB", "ENCLAVES"),
        [(row.release.name, _state(row.release), row.release.platform, row.release.policy.tcb.name,
          ", ".join(item.label for item in row.enclaves)) for row in rows],
        empty="No releases are registered. Register one: `sealserve broker allow`.",
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

    A running broker uses the new key without a restart, unless you typed its passphrase at the terminal. Replace your
    copies of the old master key. Interrupting the rotation is safe: the next command that opens the keystore completes
    it.
    """
    if no_passphrase and (passphrase or passphrase_file is not None):
        raise CliCode.USAGE_ARGUMENTS.error(
            "--no-passphrase cannot be used together with --passphrase or --passphrase-file.",
            hint="Give only one of the three options.",
        )
    new = passphrases.new_source(passphrase_file) if passphrase or passphrase_file is not None else None
    rotated = master_key.rotate(context.workspace, new_passphrase=new, without_passphrase=no_passphrase)
    how = ", which needs a passphrase" if rotated.under_passphrase else ""
    context.show(asdict(rotated), f"{keys_are(rotated.keys)} now encrypted under {rotated.place}{how}.")
    if rotated.copy_to_others:
        context.say(f"Next: copy {rotated.place} to the other machines with a broker. Until then, they release no key.")
    context.say("Next: replace your copies of the old master key. A running broker uses the new key automatically.")
    described = context.deployment
    if described.target.kind is TargetKind.KUBERNETES and described.kubernetes.broker.dangerous_inside:
        context.say("A broker in the cluster gets the new key with the next `sealserve up`.")


@app.command("accept-database")
def accept_database(context: Context, yes: options.Yes = False) -> None:
    """Accept all rows of the broker's database as genuine, after the key that authenticates them was lost or stolen.

    The command replaces owner/row-key. First compare the releases, their enclaves and the enrolled platforms with your
    records. Restart a running broker afterwards.
    """
    require_local()  # before the question
    console.confirm(
        "Accept all rows of the broker's database? An enclave that another program registered would then receive keys.",
        yes=yes,
    )
    row_key.accept(context.workspace)
    context.say("All rows of the database are accepted. Next: restart a running broker, and make a new backup.")


@app.command()
def status(context: Context) -> None:
    """Show how many keys, releases and decisions the broker's database contains, and the broker's certificate."""
    with administration(context) as broker:
        found, certificate = broker.status(), broker.certificate()
    fields = {
        "keys": found.keys,
        "releases": _counts(found.releases),
        "decisions": _counts(found.decisions),
        "refusals": _counts(found.refusals),
        "newest TCB evaluation": _counts(found.evaluation_floor),
        "audit log": f"{found.audit_rows} rows, head {found.audit_head[:16]}",
    }  # fmt: skip
    fields["certificate"] = _certificate(certificate, datetime.now(UTC))
    context.show({**asdict(found), "certificate": encode(certificate)}, fields)


def _certificate(found: BrokerCertificate | None, now: datetime) -> str:
    if found is None:
        return "none; create it with `sealserve certs two-way` or `sealserve certs one-way`"
    if found.ends is None:
        return f"cannot be used, so a running broker keeps its former certificate: {found.problem}"
    return f"until {found.ends:%Y-%m-%d %H:%M} UTC ({(found.ends - now).days} days)"


def _show(context: Context, known: KnownRelease) -> None:
    release = known.release
    fields = {
        "release": release.name,
        "state": _state(release),
        "platform": release.platform,
        "TCB policy": release.policy.tcb.name,
        "approval": "manual" if release.policy.manual_approval else "none",
        "secret form": release.secret_form,
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


# The verbs of other modules come last in the help.
app.command("pending")(broker_approval.pending)
app.command("approve")(broker_approval.approve)
app.command("collateral")(broker_collateral.collateral)
app.command("import")(broker_import.import_rows)
app.command("log")(broker_log.log)
app.command("notify-test")(broker_notify_test.notify_test)
