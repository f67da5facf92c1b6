"""Requests of commands to a deployment's supervisor: start, restart or adopt a part.

A request is a JSON object, sent over a Unix socket together with the descriptor of the part's log. So the supervisor
does not open a file that another user may have replaced.
"""

import contextlib
import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sealserve.cluster.codes import ClusterCode
from sealserve.cluster.local.supervision.supervisor import LARGEST_MESSAGE, SOCKET, short_path

_SECONDS: Final = 15.0


class Supervision:
    """Client of a workspace's supervisor.

    Args:
        run: The host's run folder.
    """

    def __init__(self, run: Path) -> None:
        self._run = run

    def is_there(self) -> bool:
        """Return whether a supervisor answers."""
        return self._ask({"do": "ping"}) is not None

    def start(self, role: str, command: Sequence[str], *, log: int, directory: Path | None) -> tuple[int, int] | None:
        """Make the supervisor start a part, with the supervisor's environment.

        Returns:
            The process ID and the start time, or None if no supervisor runs.

        Raises:
            OSError: The program cannot be started.
            UnavailableError: `supervisor.no-answer` if the supervisor did not start it.
        """
        folder = None if directory is None else str(directory)
        request = {"do": "start", "role": role, "command": list(command), "directory": folder}
        return self._started(self._ask(request, log))

    def start_again(self, pid: int, *, log: int) -> tuple[int, int] | None:
        """Make the supervisor restart the part whose process ``pid`` has ended. See `start`."""
        return self._started(self._ask({"do": "again", "pid": pid}, log))

    def adopt(self, role: str, pid: int, started: int, command: Sequence[str]) -> None:
        """Make the supervisor watch a running part, if it does not yet. Does nothing if no supervisor runs."""
        self._ask({"do": "adopt", "role": role, "pid": pid, "started": started, "command": list(command)})

    def _started(self, answer: Mapping[str, Any] | None) -> tuple[int, int] | None:
        return None if answer is None else (answer["pid"], answer["started"])

    def _ask(self, request: Mapping[str, Any], log: int | None = None) -> Mapping[str, Any] | None:
        """Return the supervisor's answer, or None if no supervisor runs."""
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(short_path(self._run))
                connection = stack.enter_context(socket.socket(socket.AF_UNIX))
                connection.settimeout(_SECONDS)
                connection.connect(str(folder / SOCKET))
            except (FileNotFoundError, ConnectionRefusedError):
                return None
            try:
                if log is not None:
                    socket.send_fds(connection, [b" "], [log])
                connection.sendall(json.dumps(request).encode())
                connection.shutdown(socket.SHUT_WR)
                content = b""
                while chunk := connection.recv(LARGEST_MESSAGE):
                    content += chunk
                answer: Mapping[str, Any] = json.loads(content)
            except (OSError, ValueError) as error:
                raise ClusterCode.SUPERVISOR_NO_ANSWER.error(
                    f"The supervisor of the deployment did not answer the request to {request['do']} a part: {error}.",
                    hint="Read its log with `sealserve logs supervisor`. To stop it, run `sealserve down`.",
                ) from error
        if "errno" in answer:
            raise OSError(answer["errno"], answer["strerror"], answer["filename"])
        return answer
