"""Orphans: parts of a workspace that run although its record does not name them.

A command that was killed after it had started a part, or a record that was lost, leaves an orphan. An orphaned broker
has the keystore open, and an orphaned replica holds a decrypted model, so `down` must find them without the record.

A process counts as an orphan only if all of this holds. Otherwise `down` could stop a process of somebody else.

1. It runs as our user, because another user's process is never ours.
2. It is in our PID namespace. A container has paths of its own, so the same path there is another folder.
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
    """Return the orphans of a workspace, ordered by process id.

    Args:
        workspace: The workspace.
        recorded: The processes that the record names.
    """
    known = {(process.pid, process.started) for process in recorded}
    found = (process for process in _parts(workspace) if (process.pid, process.started) not in known)
    return sorted(found, key=lambda process: process.pid)


def require_no_orphans(workspace: Workspace, recorded: Sequence[Process]) -> None:
    """Check that a workspace has no orphans, which would hold ports, keys and models.

    Raises:
        UnavailableError: `process.orphans`: It has. The message names them.
    """
    if orphans := find_orphans(workspace, recorded):
        named = ", ".join(f"{orphan.role} (pid {orphan.pid})" for orphan in orphans)
        raise ClusterCode.PROCESS_ORPHANS.error(
            f"Processes of an earlier run of this workspace still run: {named}.",
            hint="Stop them with `sealserve down`. Then run this command again.",
        )


def describe(orphan: Process) -> str:
    """Return the words for an orphan, such as ``broker (pid 4711, of an earlier run)``."""
    return f"{orphan.role} (pid {orphan.pid}, of an earlier run)"


def _parts(workspace: Workspace) -> Iterator[Process]:
    for pid, found in running():
        if found.session != pid or user_of(pid) != os.geteuid() or not _is_in_our_namespace(pid):
            continue
        role = role_of(_command_line(pid), workspace)
        # The id may have passed to another process while its files were read: then the start time differs.
        if role is not None and facts_of(pid) == found:
            yield Process(role=role, pid=pid, started=found.started, port=None, log="")


def _command_line(pid: int) -> list[str]:
    try:
        content = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return []
    return [os.fsdecode(argument) for argument in content.removesuffix(b"\0").split(b"\0")] if content else []


def _is_in_our_namespace(pid: int) -> bool:
    """Return whether a process has one id only. A process in a PID namespace below ours has one more id there."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # it has ended
        return False
    ids = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
    return ids == [str(pid)]
