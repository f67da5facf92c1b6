"""``sealserve service``: systemd units for the broker and for a deployment on this machine."""

import pwd
from typing import Annotated

import typer

from sealserve.cli import console, options
from sealserve.cli.bundles import Machines
from sealserve.cli.context import Context
from sealserve.cli.deferred_imports import deferred
from sealserve.cli.verbs import Verbs
from sealserve.terms import SystemdService

with deferred:
    from sealserve.cli.bundles import machines_of
    from sealserve.cluster.codes import ClusterCode
    from sealserve.cluster.systemd.installation import Systemd, system_manager, user_manager
    from sealserve.cluster.systemd.units import Unit, render_unit, unit_name

app = Verbs("Let systemd run the broker, or a deployment on this machine.")

_What = Annotated[
    SystemdService,
    typer.Argument(
        metavar="SERVICE",
        help="broker: the owner's broker alone. deployment: all of a deployment on the local target.",
    ),
]
_ForUser = Annotated[
    bool, typer.Option("--user", help="Use this user's service manager instead of the machine's, which needs root.")
]


@app.command()
def install(
    context: Context,
    service: _What,
    for_user: _ForUser = False,
    role: Annotated[
        Machines | None,
        typer.Option(
            "--role",
            show_default="as at the last `up`, else all",
            help="Of a deployment: as for `sealserve up --role`.",
        ),
    ] = None,
    only_print: Annotated[bool, typer.Option("--print", help="Print the unit, and change nothing.")] = False,
) -> None:
    """Write a systemd unit and enable it, so that the service starts with the machine.

    The unit contains no secret. It is not started now.
    """
    machines = machines_of(context.workspace, role)
    unit = _unit(context, service, machines, for_user=for_user)
    if only_print:
        context.show({"name": unit.name, "unit": unit.content}, unit.content.rstrip("\n"))
        return
    context.workspace.create()  # the broker's unit may write to this folder only, so the folder must exist
    path = _manager(for_user=for_user).install(unit)
    systemctl = "systemctl --user" if for_user else "systemctl"
    context.show(
        {"name": unit.name, "file": str(path)},
        f"Installed {path}.",
        f"Next: stop what runs with `sealserve down`, then `{systemctl} start {unit.name}`.",
    )
    if for_user:
        context.say("`loginctl enable-linger` lets it run while you are not logged in.")


@app.command()
def uninstall(context: Context, service: _What, for_user: _ForUser = False, yes: options.Yes = False) -> None:
    """Stop a service that systemd runs, and remove its unit."""
    name = unit_name(service, context.workspace)
    console.confirm(f"Stop and remove {name}?", yes=yes)
    with console.spinner("Stopping") as tell:
        tell(name)
        path = _manager(for_user=for_user).uninstall(name)
    context.show({"name": name, "removed": path is not None}, f"Removed {path}." if path else f"{name} is not there.")


def _unit(context: Context, service: SystemdService, machines: Machines, *, for_user: bool) -> Unit:
    described = context.deployment
    if service is SystemdService.DEPLOYMENT and described.target.kind != "local":
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"A deployment on the target {described.target.kind} needs no unit: {described.target.kind} itself "
            "starts it with the machine.",
            hint="Install the unit of the broker: `sealserve service install broker`.",
        )
    return render_unit(
        service,
        context.workspace,
        user=_owner(context),
        for_user_manager=for_user,
        broker_port=described.broker.port,
        host_only=machines is Machines.HOST,
    )


def _owner(context: Context) -> str | None:
    """Return the account that the workspace's folder belongs to; None for root."""
    uid = context.workspace.directory.stat().st_uid
    if uid == 0:
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _manager(*, for_user: bool) -> Systemd:
    return user_manager() if for_user else system_manager()
