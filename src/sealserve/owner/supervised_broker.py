"""A broker with several processes: its supervisor, with the files of the workspace, and each of its workers."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sealserve import deployment
from sealserve.broker.administration.listener import open_listener
from sealserve.broker.arrivals import ListeningArrivals
from sealserve.broker.metrics_server import MetricsServer
from sealserve.broker.passphrase import ASK_PASSPHRASE
from sealserve.broker.processes.handover import EndedCounts
from sealserve.broker.processes.supervisor import Supervisor
from sealserve.broker.processes.worker_process import WorkerProcess
from sealserve.broker.server_limits import Limits
from sealserve.deployment import Deployment
from sealserve.regular_file import read_regular
from sealserve.workspace import Workspace

PROGRAM: Final = "sealserve.cli.broker_worker"
"""The module that a worker runs."""


def settings_text(workspace: Workspace) -> str:
    """Return the content of ``sealserve.toml``. All workers use this content, also workers that start later."""
    return read_regular(workspace.deployment_file).decode()


def parse_settings(workspace: Workspace, text: str) -> Deployment:
    """Return the deployment that ``text`` describes, as if it were the workspace's ``sealserve.toml``."""
    return deployment.parse(text, source=str(workspace.deployment_file), folder=workspace.deployment_file.parent)


@contextlib.contextmanager
def supervised_broker(workspace: Workspace, text: str, *, processes: int) -> Iterator[Supervisor]:
    """Yield the supervisor of the deployment's broker, before it starts the workers. Its metrics page is served.

    Args:
        workspace: The owner's workspace.
        text: The content of ``sealserve.toml``.
        processes: The number of workers.

    Raises:
        SealserveError: An address cannot be used.
    """
    described = parse_settings(workspace, text)
    settings = described.broker
    with contextlib.ExitStack() as stack:
        # 1. Reserve the addresses, so that an error is reported at once.
        arrivals = ListeningArrivals(settings.listen, settings.port, Limits())
        arrivals.bind()
        stack.callback(arrivals.close)
        administration = None
        if settings.admin_port is not None:
            administration = stack.enter_context(open_listener(settings.admin_listen, settings.admin_port))
        command = [sys.executable, "-P", "-m", PROGRAM]

        def start(number: int, counts: EndedCounts, changes_after: int | None) -> WorkerProcess:
            message: Mapping[str, Any] = {
                "directory": str(workspace.directory),
                "settings": text,
                "processes": processes,
                "address": arrivals.address,
                "changes_after": changes_after,
            }
            inherited = {"administration": administration} if administration is not None and number == 0 else {}
            return WorkerProcess(number, command, message, counts=counts, inherited=inherited)

        supervisor = Supervisor(processes=processes, start=start, arrivals=arrivals, passphrase=ASK_PASSPHRASE.get())
        # 2. Serve the metrics and the health. The broker is not ready until its workers serve.
        if settings.metrics_port is not None:
            stack.enter_context(MetricsServer(supervisor, settings.metrics_port))
        yield supervisor
