"""The logs of a local deployment: files in the owner's and the host's log folders."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from sealserve.cluster.logs.files import read_logs
from sealserve.cluster.logs.merge import LogLine
from sealserve.cluster.logs.selection import LogSelection
from sealserve.cluster.target import NGINX, no_log
from sealserve.workspace import Workspace


def local_logs(workspace: Workspace, part: str | None, selection: LogSelection) -> Iterator[LogLine]:
    """Yield the log lines of the parts on this machine; see `Target.logs`.

    Args:
        workspace: The workspace of the deployment.
        part: A part, or the name of a log file without its suffix, such as ``nginx-error``. None for all parts.
        selection: Which lines to yield.

    Raises:
        InputError: `logs.unknown-part` if the part has no log.
    """

    def chosen() -> Mapping[str, tuple[str, Path]]:
        found = _logs(workspace)
        return {name: log for name, log in found.items() if part in {None, name, log[0]}}

    if not chosen():
        raise no_log(part, list(dict.fromkeys(role for role, _ in _logs(workspace).values())))
    return read_logs(chosen, selection)


def _logs(workspace: Workspace) -> Mapping[str, tuple[str, Path]]:
    """Return the part and the file of each log, by the log's name."""
    folders = (workspace.owner.logs, workspace.host.logs)
    return {path.stem: (_part(path.stem), path) for folder in folders for path in sorted(folder.glob("*.log"))}


def _part(log: str) -> str:
    """Return the part that wrote a log. NGINX writes two logs, ``nginx-access`` and ``nginx-error``."""
    return NGINX if log.startswith(f"{NGINX}-") else log
