"""systemd units for the owner's broker and for a deployment on this machine, as text. No file is read or written.

Source: systemd.syntax(7), systemd.unit(5) "Specifiers", systemd.service(5) "Command lines", systemd.exec(5), of
version 252.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.local.part_commands import own_command
from sealserve.errors import SealserveError
from sealserve.terms import SystemdService
from sealserve.workspace import FOLDER, Workspace

MARKER: Final = "# Written by `sealserve service install`. Your own settings belong in a drop-in: `systemctl edit`."
"""The first line of each unit. A file without it is not replaced and not removed."""

_LONGEST_NAME: Final = 40
_FIRST_UNPRIVILEGED_PORT: Final = 1024
_LONGEST_LINE: Final = 2**20 - 1  # LONG_LINE_MAX in systemd's fileio.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit file.

    Args:
        name: Its name, which differs for each workspace.
        content: Its text.
    """

    name: str
    content: str


def unit_name(service: SystemdService, workspace: Workspace) -> str:
    """Return the name of a unit: the folder's name for people, and a digest of its path to tell folders apart."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", workspace.directory.name).strip("-")[:_LONGEST_NAME] or "workspace"
    digest = hashlib.sha256(bytes(workspace.directory)).hexdigest()[:8]
    return f"sealserve-{service}-{readable}-{digest}.service"


def render_unit(
    service: SystemdService,
    workspace: Workspace,
    *,
    user: str | None,
    for_user_manager: bool,
    broker_port: int,
    host_only: bool = False,
) -> Unit:
    """Return the unit of a service.

    Args:
        service: What it runs.
        workspace: The workspace.
        user: The account that it runs as, in the system's manager; None for root, or for the user's own manager.
        for_user_manager: Whether the user's own service manager runs it (``systemctl --user``). Such a manager cannot
            set up most sandboxes.
        broker_port: Where the broker listens. Ports below 1024 need a capability.
        host_only: Whether the owner's broker runs on another machine. Only for a deployment.

    Raises:
        InputError: `service.path`: A path cannot be written in a unit file.
    """
    sections = [MARKER, "[Unit]", f"Description=sealserve {service} of {_value(str(workspace.directory))}"]
    if not for_user_manager:
        sections += ["Wants=network-online.target", "After=network-online.target"]
    # A service that fails again and again stays down, and `systemctl status` shows why.
    sections += ["StartLimitIntervalSec=600", "StartLimitBurst=8", "", "[Service]"]
    sections += _broker(workspace) if service is SystemdService.BROKER else _deployment(workspace, host_only=host_only)
    sections += [f"WorkingDirectory={_value(str(workspace.directory))}"]
    sections += [f"User={user}"] if user is not None and not for_user_manager else []
    sections += ["LimitCORE=0"]  # a core dump would contain keys
    sections += _HARDENING
    if service is SystemdService.BROKER and not for_user_manager:
        sections += [*_BROKER_SANDBOX, f"ReadWritePaths={_argument(str(workspace.directory / FOLDER))}"]
        low = broker_port < _FIRST_UNPRIVILEGED_PORT
        sections += [f"CapabilityBoundingSet={'CAP_NET_BIND_SERVICE' if low else ''}"]
        sections += ["AmbientCapabilities=CAP_NET_BIND_SERVICE"] if low and user is not None else []
    target = "default.target" if for_user_manager else "multi-user.target"
    sections += ["", "[Install]", f"WantedBy={target}", ""]
    return Unit(name=unit_name(service, workspace), content="\n".join(sections))


def _broker(workspace: Workspace) -> list[str]:
    return [
        "Type=exec",
        f"ExecStart={_command(own_command(workspace, ['broker', 'run']))}",
        "Restart=always",
        "RestartSec=5",
        "RestartPreventExitStatus=2",  # sealserve.toml or another input is invalid: a restart does not change it
        "TimeoutStopSec=30",
        "UMask=0077",
        "LimitMEMLOCK=infinity",  # the broker keeps its keys out of swap
    ]


def _deployment(workspace: Workspace, *, host_only: bool) -> list[str]:
    up = ["up", "--keep-release", "--role", "host" if host_only else "all"]
    return [
        # `up` ends when everything serves. Its supervisor and the parts stay in the unit's control group.
        "Type=oneshot",
        "RemainAfterExit=yes",
        f"ExecStart={_command(own_command(workspace, up))}",
        f"ExecStop={_command(own_command(workspace, ['down', '--yes']))}",
        "Restart=on-failure",
        "RestartSec=30",
        "RestartPreventExitStatus=2",
        "TimeoutStartSec=3600",  # the first start may convert models and build the first release
        "TimeoutStopSec=600",  # replicas finish their requests
    ]


_HARDENING: Final = [
    # These need no namespace, so they work beside the mount namespaces of simulated enclaves, and for every user.
    "NoNewPrivileges=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
]

_BROKER_SANDBOX: Final = [
    # The broker writes to its workspace only, and needs no device, no namespace and no kernel setting.
    "LockPersonality=yes",
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "PrivateDevices=yes",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces=yes",
]


def _command(arguments: list[str]) -> str:
    """Return a command line. The colon in front switches the replacement of ``$VARIABLE`` off.

    Raises:
        InputError: `service.path`: systemd accepts no quote and no backslash in the path of a program.
    """
    if set(arguments[0]) & set("'\"\\"):
        raise _unusable(arguments[0])
    return ":" + " ".join(map(_argument, arguments))


def _argument(text: str) -> str:
    """Return an argument in quotes, so that spaces, quotes and backslashes in it mean themselves."""
    return '"' + _value(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _value(text: str) -> str:
    """Return a value without quotes, in which ``%`` does not begin a specifier.

    Raises:
        InputError: `service.path`: systemd could not read it back: it is not UTF-8, or has a control character.
    """
    if not text.isprintable() or text != text.strip() or text.endswith("\\") or len(text) > _LONGEST_LINE:
        raise _unusable(text)
    return text.replace("%", "%%")


def _unusable(path: str) -> SealserveError:
    return ClusterCode.SERVICE_PATH.error(
        f"The path {path!r} cannot be written in a systemd unit: expected printable UTF-8 text, "
        "and in a program's path neither quotes nor backslashes.",
        hint="Move the workspace, or Python's virtual environment, to a folder with an ordinary name.",
    )
