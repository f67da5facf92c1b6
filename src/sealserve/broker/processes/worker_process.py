"""The supervisor's side of a worker: its process, its answers, and its end."""

import contextlib
import logging
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from itertools import count
from typing import Any, Final

from sealserve.broker.codes import BrokerCode
from sealserve.broker.processes.channel import Channel, ChannelError
from sealserve.broker.processes.handover import EndedCounts, hand_over
from sealserve.broker.processes.worker import Event, Facts, Question
from sealserve.broker.silent_peers import SilentPeer
from sealserve.errors import InputError, SealserveError, UnavailableError, VerificationError
from sealserve.secret import SecretBytes

_LOG: Final = logging.getLogger(__name__)
_FAMILIES: Final = {family.exit_status: family for family in (InputError, VerificationError, UnavailableError)}


class WorkerProcess:
    """A worker that was started. Start it in the main thread, see `sealserve.broker.processes.parent_death`.

    Args:
        number: The worker's number, from 0.
        command: The command line of a worker. The options with its descriptors are appended.
        settings: The first message to the worker, which `begin` sends.
        counts: The counts of ended connections.
        inherited: Further sockets for the worker, by the name of the option with the descriptor.
    """

    def __init__(
        self,
        number: int,
        command: Sequence[str],
        settings: Mapping[str, Any],
        *,
        counts: EndedCounts,
        inherited: Mapping[str, socket.socket],
    ) -> None:
        self.number: Final = number
        self.started: Final = time.monotonic()
        self.serving = False
        self.failed: SealserveError | None = None
        self.facts: Facts | None = None
        self.events: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        """The messages that answer no question. `None` is the end."""
        self._counts = counts
        self._settings = settings
        self._given = 0
        self._ids = count()
        self._asked: dict[int, Future[Mapping[str, Any]]] = {}
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair()
        self._connections, taken = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connections.setblocking(False)
        self._channel = Channel(ours)
        with theirs, taken:
            descriptors = {
                "control": theirs.fileno(),
                "connections": taken.fileno(),
                "counts": counts.descriptor,
                **{name: inherited_socket.fileno() for name, inherited_socket in inherited.items()},
            }
            options = [f"--{name}={descriptor}" for name, descriptor in descriptors.items()]
            self.process: Final = subprocess.Popen(
                [*command, f"--parent={os.getpid()}", f"--number={number}", *options],
                pass_fds=tuple(descriptors.values()),
                stdin=subprocess.DEVNULL,
            )
        self._reader = threading.Thread(target=self._read, name=f"worker-{number}", daemon=True)
        self._reader.start()

    def begin(self) -> None:
        """Send the settings. Until then, the process only loads its program."""
        with contextlib.suppress(ChannelError):  # it has already ended: its end is an event
            self._channel.send(self._settings)

    @property
    def load(self) -> int:
        """The number of connections that the worker has and that have not ended."""
        return self._given - self._counts.of(self.number)

    def give(self, peer: SilentPeer) -> bool:
        """Pass a connection to the worker. Return `False` if the worker cannot take it. One thread calls this."""
        if not hand_over(self._connections, peer):
            return False
        self._given += 1
        return True

    def ask(self, question: Question) -> "Future[Mapping[str, Any]]":
        """Return the future answer to a question. It fails with a `ChannelError` if the worker ends before."""
        answer: Future[Mapping[str, Any]] = Future()
        number = next(self._ids)
        with self._lock:
            self._asked[number] = answer
        try:
            self._channel.send({"id": number, "question": question})
        except ChannelError as error:
            with self._lock:
                waits = self._asked.pop(number, None) is not None  # else `_read` has ended it, or is about to
            if waits:
                answer.set_exception(error)
        return answer

    def tell_passphrase(self, passphrase: SecretBytes) -> None:
        """Send the passphrase that the worker waits for. If it is empty, the worker continues without a passphrase."""
        with contextlib.suppress(ChannelError):
            self._channel.send_secret(passphrase)

    def explain_end(self) -> SealserveError:
        """Return the error with which the process ended."""
        if self.failed is not None:
            return self.failed
        status = self.process.returncode
        how = signal.Signals(-status).name if status is not None and status < 0 else f"the exit status {status}"
        return BrokerCode.PROCESS_ENDED.error(
            f"Process {self.number} of the broker ended unexpectedly with {how}.",
            hint="Read the broker's log. If the system is short of memory, reduce broker.processes.",
        )

    def read_failure(self, message: Mapping[str, Any]) -> None:
        """Store the error that the worker reported before its end."""
        family = _FAMILIES.get(message.get("exit_status", 1), SealserveError)
        self.failed = family(str(message.get("message")), hint=message.get("hint"), code=str(message.get("code")))

    def close(self) -> None:
        """Close the channels of a process that has ended."""
        self._channel.close()
        self._connections.close()
        self._reader.join()

    def _read(self) -> None:
        try:
            while (message := self._channel.receive()) is not None:
                if "event" in message:
                    if message["event"] == Event.SERVING:
                        self.serving = True
                    self.events.put(message)
                    continue
                with self._lock:
                    answer = self._asked.pop(message.get("id", -1), None)
                if answer is not None:
                    answer.set_result(message)
        except ChannelError as error:
            _LOG.error("process %d of the broker sent an invalid message: %s", self.number, error)
        self.serving = False
        with self._lock:
            left, self._asked = list(self._asked.values()), {}
        for answer in left:
            answer.set_exception(ChannelError("the process has ended"))
        self.events.put(None)
