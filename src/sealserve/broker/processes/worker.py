"""The worker's side: it serves the connections that the supervisor passes on, and answers the supervisor's questions.

A worker ends when the supervisor sends SIGTERM, when the supervisor is gone, or when it cannot serve any more.
"""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sealserve.broker.codes import BrokerCode
from sealserve.broker.metrics import Observed
from sealserve.broker.passphrase import no_passphrase
from sealserve.broker.processes.channel import Channel, ChannelError
from sealserve.broker.server import BrokerServer
from sealserve.errors import SealserveError
from sealserve.secret import SecretBytes
from sealserve.signal_pipe import SignalPipe

_LOG: Final = logging.getLogger(__name__)
_CHECK: Final = 0.5  # seconds
_ANSWERING: Final = 4  # questions at the same time: a slow one must not delay the others


class Question(StrEnum):
    """A question of the supervisor. The worker answers each one with a message."""

    POLL = "poll"
    """Load the files that have changed, and return the state."""
    RELOAD = "reload"
    """Load all files again, and return the state."""
    READY = "ready"
    """Return whether the worker can release keys."""
    PAGE = "page"
    """Return the metrics page."""


class Event(StrEnum):
    """A message of a worker that answers no question."""

    SERVING = "serving"
    """The worker serves connections."""
    FAILED = "failed"
    """The worker ends with an error."""
    PASSPHRASE = "passphrase"  # noqa: S105  # not a passphrase
    """The worker needs the passphrase of the master key, and waits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The state of a worker.

    Args:
        description: The state in one sentence, for ``systemctl status``.
        fine: Whether the last attempt to load each file succeeded.
        page: The metrics page.
        changes: The last row of the audit log whose change the worker reported. `None` if it reports no changes.
    """

    description: str
    fine: bool
    page: str
    changes: int | None = None

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> "Facts":
        """Return the facts in a worker's answer."""
        changes = message.get("changes")
        return cls(
            description=str(message["description"]),
            fine=bool(message["fine"]),
            page=str(message["page"]),
            changes=None if changes is None else int(changes),
        )


def error_message(error: SealserveError) -> dict[str, Any]:
    """Return an error as a message."""
    return {"code": error.code, "message": error.message, "hint": error.hint, "exit_status": error.exit_status}


def ask_supervisor(channel: Channel) -> SecretBytes:
    """Return the passphrase of the master key, which the supervisor asks for at the terminal.

    Raises:
        InputError: `keystore.passphrase-missing` if the supervisor has no terminal, or if this worker replaces a worker
            that ended.
    """
    try:
        channel.send({"event": Event.PASSPHRASE})
        passphrase = channel.receive_secret()
    except ChannelError:
        return no_passphrase()
    return passphrase if len(passphrase) else no_passphrase()


class Worker:
    """Runs a worker's server. Use it in the main thread.

    Args:
        channel: The channel to the supervisor.
        server: The server, which takes its connections from the supervisor.
        observed: The sources of its metrics.
        changes: Returns the last row of the audit log whose change was reported.
    """

    def __init__(
        self,
        channel: Channel,
        server: BrokerServer,
        observed: Observed,
        *,
        changes: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._channel, self._server, self._observed, self._changes = channel, server, observed, changes
        self._ended = threading.Event()
        self._loading = threading.Lock()

    def run(self, signals: SignalPipe) -> None:
        """Serve until the end.

        Args:
            signals: The pipe from `sealserve.broker.service_loop.signalled`.

        Raises:
            SealserveError: The worker cannot serve any more.
        """
        signals.begin()
        with self._server:
            answering = threading.Thread(target=self._answer_all, name="questions", daemon=True)
            answering.start()
            with contextlib.suppress(ChannelError):  # the supervisor is gone: `_answer_all` notices it
                self._channel.send({"event": Event.SERVING})
            while signals.wait(_CHECK) is not signal.SIGTERM and not self._ended.is_set():
                if not self._server.is_serving():
                    if self._ended.wait(_CHECK):
                        break
                    raise BrokerCode.BUSY.error("A process of the broker does not accept connections any more.")

    def _answer_all(self) -> None:
        with ThreadPoolExecutor(_ANSWERING, thread_name_prefix="question") as threads:
            with contextlib.suppress(ChannelError):
                while (message := self._channel.receive()) is not None:
                    threads.submit(self._answer, message)
            self._ended.set()

    def _answer(self, message: Mapping[str, Any]) -> None:
        try:
            answer = self._answer_to(Question(message["question"]))
        except Exception:  # noqa: BLE001  # the worker continues, and the supervisor gets an answer
            _LOG.exception("internal error while answering the supervisor")
            answer = {"error": True}
        with contextlib.suppress(ChannelError):
            self._channel.send({"id": message["id"], **answer})

    def _answer_to(self, question: Question) -> Mapping[str, Any]:
        match question:
            case Question.POLL | Question.RELOAD:
                with self._loading:
                    if question is Question.RELOAD:
                        self._server.reload()
                    else:
                        self._server.poll()
                return {
                    "description": self._server.describe(),
                    "fine": all(self._server.reloads().values()),
                    "page": self._observed.page(),
                    "changes": self._changes(),
                }
            case Question.READY:
                try:
                    self._observed.ready()
                except SealserveError as error:
                    return {"refused": error_message(error)}
                return {"refused": None}
            case Question.PAGE:
                return {"page": self._observed.page()}
