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

app = Verbs("Install systemd units for the broker, or for a deployment on this machine.")

_What = Annotated[
    SystemdService,
    typer.Argument(
        metavar="SERVICE",
        help="broker: only the owner's broker; deployment: all parts of a deployment on the local target",
    ),
]
_ForUser = Annotated[
    bool,
    typer.Option("--user", help="Use the service manager of this user instead of the machine's, which needs root"),
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
            show_default="the role of the last `up`, else all",
            help="Roles of this machine for a deployment, as for `sealserve up --role`",
        ),
    ] = None,
    only_print: Annotated[bool, typer.Option("--print", help="Print the unit, and change nothing")] = False,
) -> None:
    """Write and enable a systemd unit, so that the service starts when the machine starts.

    The unit does not contain secrets. The command does not start the service.
    """
    machines = machines_of(context.workspace, role)
    unit = _unit(context, service, machines, for_user=for_user)
    if only_print:
        context.show({"name": unit.name, "unit": unit.content}, unit.content.rstrip("\n"))
        return
    context.workspace.create()  # the broker's unit may write only to this folder, so the folder must exist
    path = _manager(for_user=for_user).install(unit)
    systemctl = "systemctl --user" if for_user else "systemctl"
    context.show(
        {"name": unit.name, "file": str(path)},
        f"Installed {path}.",
        f"Next: stop running parts with `sealserve down`, then start the service: `{systemctl} start {unit.name}`.",
    )
    if for_user:
        context.say("To keep the service running while you are not logged in, run `loginctl enable-linger`.")


@app.command()
def uninstall(context: Context, service: _What, for_user: _ForUser = False, yes: options.Yes = False) -> None:
    """Stop the service, and remove its systemd unit."""
    name = unit_name(service, context.workspace)
    console.confirm(f"Stop and remove {name}?", yes=yes)
    with console.spinner("Stopping") as tell:
        tell(name)
        path = _manager(for_user=for_user).uninstall(name)
    context.show(
        {"name": name, "removed": path is not None}, f"Removed {path}." if path else f"{name} is not installed."
    )


def _unit(context: Context, service: SystemdService, machines: Machines, *, for_user: bool) -> Unit:
    described = context.deployment
    if service is SystemdService.DEPLOYMENT and described.target.kind != "local":
        raise ClusterCode.TARGET_UNSUPPORTED.error(
            f"A systemd unit for the deployment needs the target local, got {described.target.kind}: "
            f"{described.target.kind} itself starts the deployment with the machine.",
            hint="Install the unit of the broker instead: `sealserve service install broker`.",
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
    """Return the account that owns the workspace's folder, or None for root."""
    uid = context.workspace.directory.stat().st_uid
    if uid == 0:
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _manager(*, for_user: bool) -> Systemd:
    return user_manager() if for_user else system_manager()
