"""systemd units for the owner's broker and for a deployment on this machine, as text. This module does no file I/O.

Source: systemd.syntax(7), systemd.unit(5) "Specifiers", systemd.service(5) "Command lines", systemd.exec(5), of
version 252.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.local.part_commands import own_command
from sealserve.errors import SealserveError
from sealserve.pki.authority import KEY_FILE, AuthorityKind
from sealserve.terms import SystemdService
from sealserve.workspace import FOLDER, Workspace

MARKER: Final = "# Written by `sealserve service install`. Your own settings belong in a drop-in: `systemctl edit`."
"""First line of each unit. A file without this line is never replaced or removed."""

_LONGEST_NAME: Final = 40
_FIRST_UNPRIVILEGED_PORT: Final = 1024
_LONGEST_LINE: Final = 2**20 - 1  # LONG_LINE_MAX in systemd's fileio.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit file.

    Args:
        name: The unit's name, which differs for each workspace.
        content: The file's content.
    """

    name: str
    content: str


def unit_name(service: SystemdService, workspace: Workspace) -> str:
    """Return the unit's name: the workspace folder's name for readability, and a digest of its path for uniqueness."""
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
    python: str | None = None,
) -> Unit:
    """Return the unit of a service.

    Args:
        service: The service that the unit runs.
        workspace: The workspace.
        user: The account that the system manager runs the service as. None for root, or for a user's manager.
        for_user_manager: Whether the user's service manager runs it (``systemctl --user``). A user's manager cannot
            set up most sandbox options.
        broker_port: The broker's port. Ports below 1024 require a capability.
        host_only: Whether the owner's broker runs on a different machine. Applies only to a deployment.
        python: The Python program of the installation. None means the program that runs now.

    Raises:
        InputError: `service.path` if a path cannot be represented in a unit file.
    """
    sections = [MARKER, "[Unit]", f"Description=sealserve {service} of {_value(str(workspace.directory))}"]
    if not for_user_manager:
        sections += ["Wants=network-online.target", "After=network-online.target"]
    # A service that fails repeatedly stays stopped, and `systemctl status` shows the reason.
    sections += ["StartLimitIntervalSec=600", "StartLimitBurst=8", "", "[Service]"]
    if service is SystemdService.BROKER:
        sections += _broker(workspace, python)
    else:
        sections += _deployment(workspace, python, host_only=host_only)
    sections += [f"WorkingDirectory={_value(str(workspace.directory))}"]
    sections += [f"User={user}"] if user is not None and not for_user_manager else []
    sections += ["LimitCORE=0"]  # a core dump would contain keys
    sections += _HARDENING
    if service is SystemdService.BROKER and not for_user_manager:
        sections += [*_BROKER_SANDBOX, f"ReadWritePaths={_argument(str(workspace.directory / FOLDER))}"]
        sections += [f"InaccessiblePaths={_argument(f'-{path}')}" for path in withheld_from_broker(workspace)]
        low = broker_port < _FIRST_UNPRIVILEGED_PORT
        sections += [f"CapabilityBoundingSet={'CAP_NET_BIND_SERVICE' if low else ''}"]
        sections += [] if _is_temporary(workspace) else ["PrivateTmp=yes"]
        sections += [] if low else ["PrivateUsers=yes"]  # in a user namespace, the capability would have no effect
        sections += ["AmbientCapabilities=CAP_NET_BIND_SERVICE"] if low and user is not None else []
    target = "default.target" if for_user_manager else "multi-user.target"
    sections += ["", "[Install]", f"WantedBy={target}", ""]
    return Unit(name=unit_name(service, workspace), content="\n".join(sections))


def _broker(workspace: Workspace, python: str | None) -> list[str]:
    return [
        "Type=notify",  # the broker reports when it listens, and every second that it still works
        "NotifyAccess=main",
        "WatchdogSec=120",
        f"ExecStart={_command(_own(workspace, ['broker', 'run'], python))}",
        "ExecReload=/bin/kill -HUP $MAINPID",  # reload the certificate and the keystore
        "Restart=always",
        "RestartSec=5",
        "RestartPreventExitStatus=2",  # sealserve.toml or another input is invalid: a restart would fail again
        "TimeoutStopSec=30",
        "UMask=0077",
        "LimitNOFILE=16384",  # connections, most of them silent
        "LimitMEMLOCK=infinity",  # the broker locks its keys in memory, so that they are never swapped
    ]


def _deployment(workspace: Workspace, python: str | None, *, host_only: bool) -> list[str]:
    up = ["up", "--keep-release", "--role", "host" if host_only else "all"]
    return [
        # `up` exits when every part serves. The supervisor and the parts stay in the unit's control group.
        "Type=oneshot",
        "RemainAfterExit=yes",
        f"ExecStart={_command(_own(workspace, up, python))}",
        f"ExecStop={_command(_own(workspace, ['down', '--yes'], python))}",
        "Restart=on-failure",
        "RestartSec=30",
        "RestartPreventExitStatus=2",
        "TimeoutStartSec=3600",  # the first start may convert models and build the first release
        "TimeoutStopSec=600",  # replicas finish their requests
    ]


def withheld_from_broker(workspace: Workspace) -> list[Path]:
    """Return the secrets of the owner that the broker does not need. They may be missing.

    The broker is exposed to the network. It must not be able to sign enclaves, releases or certificates, or to read
    models.
    """
    owner = workspace.owner
    return [
        owner.enclave_signing_key,
        owner.index_signing_key,
        *(owner.authorities / kind / KEY_FILE for kind in AuthorityKind),
        owner.models,
        owner.users,
        workspace.user.key,
    ]


def _is_temporary(workspace: Workspace) -> bool:
    """Return whether the workspace is in a folder that a private temporary folder would hide."""
    return any(workspace.directory.is_relative_to(folder) for folder in ("/tmp", "/var/tmp"))  # noqa: S108


def _own(workspace: Workspace, arguments: list[str], python: str | None) -> list[str]:
    program, *rest = own_command(workspace, arguments)
    return [python or program, *rest]


_HARDENING: Final = [
    # These options need no namespace. So they work with the mount namespaces of simulated enclaves, and for all users.
    "NoNewPrivileges=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "KeyringMode=private",
]

_BROKER_SANDBOX: Final = [
    # The broker writes only to its workspace. It needs no devices, namespaces or kernel settings.
    "LockPersonality=yes",
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "PrivateDevices=yes",
    "PrivateIPC=yes",
    "PrivateMounts=yes",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectProc=invisible",
    "ProcSubset=pid",
    "RemoveIPC=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces=yes",
    # MemoryDenyWriteExecute= is not possible: pyOpenSSL's callbacks are generated at run time.
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged",
    "SystemCallErrorNumber=EPERM",
]


def _command(arguments: list[str]) -> str:
    """Return a command line for ``ExecStart``. The leading colon disables the expansion of ``$VARIABLE``.

    Raises:
        InputError: `service.path` if the program's path contains a quote or a backslash, which systemd rejects.
    """
    if set(arguments[0]) & set("'\"\\"):
        raise _unusable(arguments[0])
    return ":" + " ".join(map(_argument, arguments))


def _argument(text: str) -> str:
    """Return a quoted argument, in which spaces, quotes and backslashes are literal characters."""
    return '"' + _value(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _value(text: str) -> str:
    """Return an unquoted value, in which ``%`` does not start a specifier.

    Raises:
        InputError: `service.path` if the text is not UTF-8 or contains a control character.
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
