"""The program that restarts a part for the supervisor.

Run ``python -m sealserve.cluster.local.supervision.restart FOLDER PID STARTED``. It is a separate process, because it
needs more memory than the supervisor may use permanently.
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
    """Restart the part whose process ``pid`` has ended, unless it was stopped on purpose.

    Args:
        workspace: The workspace of the part.
        pid: The process ID.
        started: Start time of the process, in clock ticks since boot.

    Returns:
        The new process, or None if the part should not run.

    Raises:
        UnavailableError: `supervisor.settings-changed` if it would start with different settings.
        SealserveError: The part cannot be started, or a command held the deployment's lock for over ten minutes.
    """
    # 1. Prevent commands from changing the deployment meanwhile.
    with held(workspace, "restart"):
        # 2. Check the record. A command that held the lock before may have stopped or replaced the part.
        record = registry(workspace)
        ended = next((found for found in record.all().values() if (found.pid, found.started) == (pid, started)), None)
        if ended is None or ended.is_alive():
            return None
        # 3. Stop the remains of the part, such as NGINX's workers, which hold its port.
        ended.stop()
        ready_file(workspace, ended.role).unlink(missing_ok=True)
        # 4. A service reads sealserve.toml when it starts. Only `up` applies changes: other parts may depend on them.
        if ended.role in {BROKER, PCS}:
            _require_applied(workspace, ended.role)
        # 5. Start it. A replica attests itself again. Commands that need the part wait for it themselves.
        again = record.start_again(ended)
        # 6. Wait for NGINX to listen. Otherwise a command would find no listening NGINX and start a second one.
        if again.role == NGINX and (port := again.port) is not None:
            wait_until(lambda: ports.is_listening(port, session=again.pid), seconds=_NGINX_SECONDS)
        return again


def _require_applied(workspace: Workspace, role: str) -> None:
    try:
        described = read(workspace.deployment_file)
    except SealserveError:
        return  # the service reads the file too, and reports the error
    if service_settings.has_changed(workspace, described, role):
        raise ClusterCode.SUPERVISOR_SETTINGS_CHANGED.error(
            f"{role} is not restarted, because its settings in sealserve.toml have changed since it was started.",
            hint="Apply the change with `sealserve up`, or undo it in sealserve.toml.",
        )


def main(arguments: Sequence[str]) -> int:
    """Run the program, and return its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    directory, pid, started = arguments
    try:
        restart(Workspace(Path(directory)), int(pid), int(started))
    except SealserveError as error:
        _LOG.error("error[%s]: %s", error.code, error)  # an expected error, without a traceback
        return 1
    except OSError as error:
        _LOG.error("the operating system cannot start the part: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
