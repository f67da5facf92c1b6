"""Orphans: running parts of a workspace that its record does not name.

An orphan remains if a command is killed after it has started a part, or if the record is lost. An orphaned broker has
the keystore open, and an orphaned replica holds a decrypted model. So `down` must find them without the record.

A process counts as an orphan only if all conditions hold. Otherwise `down` could stop an unrelated process.

1. It runs as the current user, because processes of other users never belong to the workspace.
2. It is in this PID namespace. A container has its own file system, so the same path is a different folder there.
3. It leads a session, as every part does that sealserve starts in the background. A command that a person runs in a
   terminal does not.
4. Its command line is exactly the one that sealserve uses to start a part of this workspace.
5. The record does not name it.

Source: proc_pid_cmdline(5), proc_pid_status(5), NSpid.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.local.part_commands import role_of
from sealserve.cluster.local.processes import Process
from sealserve.process_signal import facts_of, running, user_of
from sealserve.workspace import Workspace


def find_orphans(workspace: Workspace, recorded: Sequence[Process]) -> list[Process]:
    """Return the orphans of a workspace, ordered by process ID.

    Args:
        workspace: The workspace.
        recorded: The processes that the record names.
    """
    known = {(process.pid, process.started) for process in recorded}
    found = (process for process in _parts(workspace) if (process.pid, process.started) not in known)
    return sorted(found, key=lambda process: process.pid)


def require_no_orphans(workspace: Workspace, recorded: Sequence[Process]) -> None:
    """Check that a workspace has no orphans, because they would hold ports, keys and models.

    Raises:
        UnavailableError: `process.orphans` if it has orphans. The message names them.
    """
    if orphans := find_orphans(workspace, recorded):
        named = ", ".join(f"{orphan.role} (pid {orphan.pid})" for orphan in orphans)
        raise ClusterCode.PROCESS_ORPHANS.error(
            f"Processes of an earlier run of this workspace are still running: {named}.",
            hint="Stop them with `sealserve down`. Then run this command again.",
        )


def describe(orphan: Process) -> str:
    """Return the description of an orphan, such as ``broker (pid 4711, of an earlier run)``."""
    return f"{orphan.role} (pid {orphan.pid}, of an earlier run)"


def _parts(workspace: Workspace) -> Iterator[Process]:
    for pid, found in running():
        if found.session != pid or user_of(pid) != os.geteuid() or not _is_in_our_namespace(pid):
            continue
        role = role_of(_command_line(pid), workspace)
        # The ID may have been reused by another process while its files were read: then the start time differs.
        if role is not None and facts_of(pid) == found:
            yield Process(role=role, pid=pid, started=found.started, port=None, log="")


def _command_line(pid: int) -> list[str]:
    try:
        content = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # the process has ended
        return []
    return [os.fsdecode(argument) for argument in content.removesuffix(b"\0").split(b"\0")] if content else []


def _is_in_our_namespace(pid: int) -> bool:
    """Return whether a process has only one ID. A process in a nested PID namespace also has an ID there."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # the process has ended
        return False
    ids = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
    return ids == [str(pid)]
