"""The command line of each part that runs as a process of this machine, and the recognition of a part by it.

Both are in this module, so that they stay consistent.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sealserve.cluster.target import BROKER, NGINX, PCS, PLATFORM, SUPERVISOR
from sealserve.ingress.nginx_config import CONFIG_FILE, ERROR_LOG
from sealserve.terms import RuntimeKind
from sealserve.workspace import Workspace

_PYTHON_OPTION: Final = "-P"
"""Prevents a module in the current folder from replacing a module of sealserve or of Python."""
_DIRECTORY_OPTION: Final = "--directory"
_PROGRAM: Final = "sealserve"
_SUPERVISOR_PROGRAM: Final = "sealserve.cluster.local.supervision.supervisor"
_SERVICES: Final = {PCS: ["simulated", "pcs"], PLATFORM: ["simulated", "platform"], BROKER: ["broker", "run"]}
_REPLICA: Final = ["enclave", "run", "--name"]
_REPLICA_OPTIONS: Final = (["--release", "--attempts"], ["--release", "--attempts", "--platform"])
_REPLICA_NAME: Final = re.compile(r"replica-[0-9]{1,5}")
_NGINX_TITLE: Final = "nginx: master process "


def own_command(workspace: Workspace, arguments: list[str]) -> list[str]:
    """Return the command line that runs `sealserve` with ``arguments`` on a workspace."""
    return _python(_PROGRAM, workspace, arguments)


def service_command(workspace: Workspace, role: str) -> list[str]:
    """Return the command line of the vendor's service, the platform or the broker."""
    return own_command(workspace, [*_SERVICES[role], "--ready-file", str(ready_file(workspace, role))])


def ready_file(workspace: Workspace, role: str) -> Path:
    """Return the file that a service writes when it is ready."""
    return workspace.host.run / f"{role}.ready"


def replica_command(
    workspace: Workspace,
    name: str,
    release: Path,
    *,
    attempts: int,
    runtime: RuntimeKind = RuntimeKind.SIMULATED,
) -> list[str]:
    """Return the command line of a replica.

    Args:
        workspace: The workspace of the replica.
        name: The enclave's name, such as ``replica-0``.
        release: Folder of the release.
        attempts: Maximum number of starts if a signal ends the enclave's server.
        runtime: The runtime of the enclave. By default, it follows from the manifest.
    """
    chosen = [] if runtime is RuntimeKind.SIMULATED else ["--platform", runtime.value]
    return own_command(workspace, [*_REPLICA, name, "--release", str(release), "--attempts", str(attempts), *chosen])


def nginx_folder(workspace: Workspace) -> Path:
    """Return NGINX's run folder, which is part of its command line."""
    return workspace.host.run / NGINX


def supervisor_command(workspace: Workspace) -> list[str]:
    """Return the command line of the workspace's supervisor."""
    return _python(_SUPERVISOR_PROGRAM, workspace, [])


def role_of(command: Sequence[str], workspace: Workspace) -> str | None:
    """Return the role of the process with this command line, or None if it is not a part of the workspace.

    Only a command line that this module returns for exactly this workspace counts. So a `sealserve broker run` that a
    person or systemd started is not a part, and a process of ``/srv/model-2`` is not a part of ``/srv/model``.

    Args:
        command: The arguments, from ``/proc/PID/cmdline``. NGINX writes its title there.
        workspace: The workspace, whose folder exists.
    """
    if command and command[0].startswith(_NGINX_TITLE):
        return NGINX if _is_nginx(" ".join(command).strip(), workspace) else None
    if not _is_framed(command, workspace):
        return None
    module, arguments = command[3], list(command[4:-2])
    if module == _SUPERVISOR_PROGRAM and not arguments:
        return SUPERVISOR
    return _role_of_arguments(arguments, Workspace(Path(command[-1]))) if module == _PROGRAM else None


def _is_framed(command: Sequence[str], workspace: Workspace) -> bool:
    """Return whether a command line has the expected interpreter, options and workspace around the arguments."""
    return (
        len(command) >= len(supervisor_command(workspace))
        and Path(command[0]).name.startswith("python")
        and list(command[1:3]) == [_PYTHON_OPTION, "-m"]
        and command[-2] == _DIRECTORY_OPTION
        and _is_same(command[-1], workspace)
    )


def _role_of_arguments(arguments: list[str], named: Workspace) -> str | None:
    for role in _SERVICES:
        if arguments == service_command(named, role)[4:-2]:
            return role
    if arguments[:3] == _REPLICA and arguments[4::2] in _REPLICA_OPTIONS:
        return arguments[3] if _REPLICA_NAME.fullmatch(arguments[3]) else None
    return None


def _python(module: str, workspace: Workspace, arguments: list[str]) -> list[str]:
    return [sys.executable, _PYTHON_OPTION, "-m", module, *arguments, _DIRECTORY_OPTION, str(workspace.directory)]


def _is_same(directory: str, workspace: Workspace) -> bool:
    try:
        return Path(directory).is_absolute() and Path(directory).samefile(workspace.directory)
    except (OSError, ValueError):
        return False


def _is_nginx(title: str, workspace: Workspace) -> bool:
    folder = nginx_folder(workspace)
    options = f"{folder} -c {folder / CONFIG_FILE}"
    return title.partition(" -p ")[2] in {options, f"{options} -e {workspace.host.logs / ERROR_LOG}"}
