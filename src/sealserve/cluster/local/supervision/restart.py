"""The program that restarts a part for the supervisor.

Run ``python -m sealserve.cluster.local.supervision.restart FOLDER PID STARTED``. It is a process of its own, because it
needs more memory than the supervisor may keep.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sealserve.cluster import ports
from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.deployment_lock import held
from sealserve.cluster.local import service_settings
from sealserve.cluster.local.owner_services import registry
from sealserve.cluster.local.part_commands import ready_file
from sealserve.cluster.local.processes import Process, wait_until
from sealserve.cluster.target import BROKER, NGINX, PCS
from sealserve.deployment import read
from sealserve.errors import SealserveError
from sealserve.workspace import Workspace

_LOG: Final = logging.getLogger(__name__)
_NGINX_SECONDS: Final = 15.0


def restart(workspace: Workspace, pid: int, started: int) -> Process | None:
    """Start the part again that ended as process ``pid``, unless its end was wanted.

    Args:
        workspace: The workspace that the part belongs to.
        pid: The process.
        started: When the process started, in clock ticks since boot.

    Returns:
        The new process; None if the part is not to run.

    Raises:
        UnavailableError: `supervisor.settings-changed`: It would start with other settings than before.
        SealserveError: The part cannot be started, or a command changes the deployment for longer than ten minutes.
    """
    # 1. No command changes the deployment meanwhile.
    with held(workspace, "restart"):
        # 2. The record decides. A command that had the lock before may have stopped the part, or replaced it.
        record = registry(workspace)
        ended = next((found for found in record.all().values() if (found.pid, found.started) == (pid, started)), None)
        if ended is None or ended.is_alive():
            return None
        # 3. Stop what is left of the part, such as NGINX's workers, which hold its port.
        ended.stop()
        ready_file(workspace, ended.role).unlink(missing_ok=True)
        # 4. A service reads sealserve.toml when it starts. Only `up` applies an edit, since more may depend on it.
        if ended.role in {BROKER, PCS}:
            _require_applied(workspace, ended.role)
        # 5. Start it. A replica attests itself again. Nobody waits for it here: commands do that where they need it.
        again = record.start_again(ended)
        # 6. A command that finds no listening NGINX would start another one.
        if again.role == NGINX and (port := again.port) is not None:
            wait_until(lambda: ports.is_listening(port, session=again.pid), seconds=_NGINX_SECONDS)
        return again


def _require_applied(workspace: Workspace, role: str) -> None:
    try:
        described = read(workspace.deployment_file)
    except SealserveError:
        return  # the service reads the file as well, and says what is wrong with it
    if service_settings.has_changed(workspace, described, role):
        raise ClusterCode.SUPERVISOR_SETTINGS_CHANGED.error(
            f"{role} is not started again, because its settings in sealserve.toml have changed since it was started.",
            hint="Apply them with `sealserve up`, or take the change back.",
        )


def main(arguments: Sequence[str]) -> int:
    """Run the program, and return its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    directory, pid, started = arguments
    try:
        restart(Workspace(Path(directory)), int(pid), int(started))
    except SealserveError as error:
        _LOG.error("error[%s]: %s", error.code, error)  # expected, no bug of ours
        return 1
    except OSError as error:
        _LOG.error("the machine does not start it: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
