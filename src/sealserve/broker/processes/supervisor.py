"""The supervisor of a broker with several processes.

1. It listens, and holds each connection until its first byte. Then it passes the connection to the worker with the
   fewest open connections. So the limits on silent peers hold for the broker as a whole, and a worker that dies costs
   only the requests that it has begun.
2. It starts the workers, and starts a worker again that ended. A worker that ends again and again ends the broker.
3. It reports to systemd, forwards reloads, and serves the metrics and the health of all workers.

It opens neither the keystore nor the database. A passphrase that is typed at the terminal passes through it once, while
the workers start.

A worker is started in the main thread only (see `sealserve.broker.processes.parent_death`).
"""

import contextlib
import logging
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sealserve.broker.arrivals import ListeningArrivals
from sealserve.broker.codes import BrokerCode
from sealserve.broker.metrics import Decisions, Observed, Outcome
from sealserve.broker.passphrase import Passphrase
from sealserve.broker.processes.channel import ChannelError
from sealserve.broker.processes.handover import EndedCounts
from sealserve.broker.processes.merged_metrics import merged
from sealserve.broker.processes.worker import Event, Facts, Question
from sealserve.broker.processes.worker_process import WorkerProcess
from sealserve.broker.refusal_lines import RefusalLines
from sealserve.broker.service_loop import run
from sealserve.broker.silent_peers import SilentPeer
from sealserve.errors import InputError, SealserveError
from sealserve.secret import SecretBytes
from sealserve.signal_pipe import SignalPipe
from sealserve.systemd_notify import Notifier

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times in seconds.

    Args:
        start: How long a worker may take to start.
        answer: How long a reload may take.
        probe: How long a probe of the health, or a request for the metrics, waits for a worker.
        poll: How long the main thread waits for the answers to a poll.
        silence: A worker that does not answer for this time is killed.
        stable: A worker that ran for this time has not failed at its start.
        first_pause: The pause before the second start in a row. It doubles with each further failure.
        stop: How long workers may take to stop.
    """

    start: float = 120
    answer: float = 30
    probe: float = 3
    poll: float = 0.5
    silence: float = 60
    stable: float = 60
    first_pause: float = 1
    stop: float = 25


ATTEMPTS: Final = 5
"""A worker that ends this many times in a row, without a stable run, ends the broker."""


@dataclass(slots=True)
class _Place:
    """The place of a worker, which successive processes take."""

    number: int
    process: WorkerProcess | None = None
    failures: int = 0
    due: float = 0.0
    polled: Future[Mapping[str, Any]] | None = None
    asked: float = 0.0
    facts: Facts | None = None


class Supervisor:
    """Supervises the workers of a broker, see `serve`.

    Args:
        processes: The number of workers.
        start: Starts a worker: its number, the shared counts, and the last change that its predecessor reported.
        arrivals: Accepts the connections.
        passphrase: Asks for the passphrase of the master key. A worker that needs it asks the supervisor.
        timing: The times.
    """

    def __init__(
        self,
        *,
        processes: int,
        start: Callable[[int, EndedCounts, int | None], WorkerProcess],
        arrivals: ListeningArrivals,
        passphrase: Passphrase,
        timing: Timing | None = None,
    ) -> None:
        self._start = start
        self._arrivals = arrivals
        self._passphrase = passphrase
        self._typed: SecretBytes | None = None
        self._was_typed = False
        self._timing = timing or Timing()
        self._places = [_Place(number) for number in range(processes)]
        self._stack = contextlib.ExitStack()
        self._counts = EndedCounts.create()
        self._stack.callback(self._counts.close)
        self._stopping = threading.Event()
        self._acceptor = threading.Thread(target=self._accept, name="broker-accept", daemon=True)
        self._turn = 0
        self._restarts = 0
        self._former = ""
        """The accumulated metrics of workers that have ended."""
        self._pages = threading.Lock()
        self._lines = RefusalLines(lambda: datetime.now(UTC), parts=processes + 1)
        self._decisions = Decisions()
        self._own = Observed(
            decisions=self._decisions,
            certificates=dict,
            collateral=dict,
            ready=self.ready,
            connections=lambda: {"silent": len(arrivals)},
            processes=0,
            restarts=lambda: self._restarts,
        )

    # The start and the end

    def serve(
        self, signals: SignalPipe, *, ready: Callable[[], None] = lambda: None, notifier: Notifier | None = None
    ) -> None:
        """Start the workers, and supervise them until SIGTERM or SIGINT. Must be called in the main thread.

        Args:
            signals: The pipe from `sealserve.broker.service_loop.signalled`.
            ready: Called when the broker serves.
            notifier: Reports to systemd. `None` reports nothing.

        Raises:
            SealserveError: A worker failed at its start, or again and again.
        """
        try:
            # 1. Start the workers. A signal can interrupt this, because a worker may wait for a passphrase.
            self._start_workers()
            signals.begin()
            # 2. Serve.
            self._arrivals.open()
            self._acceptor.start()
            host, port = self._arrivals.address
            _LOG.info("the broker is listening on %s port %d", host, port)
            ready()
            run(self, signals.wait, notifier or Notifier(None))
        finally:
            self._end()

    def _end(self) -> None:
        # 1. Accept no more. Silent peers are disconnected.
        self._stopping.set()
        if served := self._acceptor.ident is not None:
            self._arrivals.wake()
            self._acceptor.join()
        # 2. The workers finish their appraisals, and write the outstanding counts.
        self._stop_workers()
        self._lines.settle()
        self._stack.close()
        if served:
            _LOG.info("the broker has stopped")

    # The service of the main thread, see `sealserve.broker.service_loop`

    def is_serving(self) -> bool:
        """Return whether connections are accepted, and a worker can take them."""
        return self._acceptor.is_alive() and not self._stopping.is_set() and bool(self._serving())

    def reload(self) -> None:
        """Let each worker load all files again."""
        self._ask_and_store(Question.RELOAD, self._timing.answer)

    def poll(self) -> None:
        """Let each worker load changed files again. Replace workers that ended or do not answer.

        Raises:
            SealserveError: A worker failed again and again.
        """
        for place in self._places:
            self._tend(place)
        self._ask_and_store(Question.POLL, self._timing.poll)

    def describe(self) -> str:
        """Return the state of the broker as one sentence."""
        states = [place.facts for place in self._places if place.facts is not None]
        worst = next((facts for facts in states if not facts.fine), next(iter(states), None))
        text = "" if worst is None else worst.description
        serving = len(self._serving())
        return text if serving == len(self._places) else f"{text}; {serving} of {len(self._places)} processes serve"

    # The metrics and the health, for the threads of `sealserve.broker.metrics_server`

    def page(self) -> str:
        """Return the merged metrics page of all processes."""
        asked = {place.number: process.ask(Question.PAGE) for place in self._places if (process := _serving(place))}
        wait_for(asked.values(), self._timing.probe)
        pages = [self._own.page()]
        with self._pages:
            for place in self._places:
                if (page := _answer(asked.get(place.number), "page")) is None:
                    page = None if place.facts is None else place.facts.page  # it is busy: its page of the last poll
                pages += [] if page is None else [str(page)]
            return merged([*pages, self._former])

    def ready(self) -> None:
        """Check that each serving worker can release keys.

        Raises:
            UnavailableError: `broker.busy` if no worker serves, or a worker does not answer in time.
            SealserveError: The error of a worker.
        """
        serving = self._serving()
        if not serving or not self.is_serving():
            raise BrokerCode.BUSY.error("The broker does not accept connections: it is starting or stopping.")
        asked = [process.ask(Question.READY) for process in serving]
        wait_for(asked, self._timing.probe)
        for answer in asked:
            if not answer.done():
                raise BrokerCode.BUSY.error("A process of the broker does not answer in time.")
            if answer.exception() is None and (refused := answer.result().get("refused")) is not None:
                raise SealserveError(str(refused["message"]), hint=refused["hint"], code=str(refused["code"]))

    # Connections, in the thread that accepts them

    def _accept(self) -> None:
        self._arrivals.run(self._stopping, self._hand_over, self._drop)

    def _hand_over(self, peer: SilentPeer) -> None:
        # The worker with the fewest connections. Among equals, each one in turn.
        self._turn += 1
        serving = self._serving()
        ordered = sorted(
            range(len(serving)), key=lambda index: (serving[index].load, (index + self._turn) % len(serving))
        )
        if any(serving[index].give(peer) for index in ordered):
            peer.stream.close()
        else:
            self._drop(peer, BrokerCode.BUSY.error("The broker is busy: no process can take the connection."))

    def _drop(self, peer: SilentPeer, error: SealserveError) -> None:
        peer.stream.close()
        self._decisions.count(Outcome.TURNED_AWAY, error.code)
        self._lines.write(peer.peer, error)

    # Workers, in the main thread

    def _serving(self) -> list[WorkerProcess]:
        return [process for place in self._places if (process := _serving(place))]

    def _begin(self, place: _Place) -> WorkerProcess:
        self._counts.reset(place.number)
        changes = None if place.facts is None else place.facts.changes
        place.polled = None
        place.process = process = self._start(place.number, self._counts, changes)
        return process

    def _start_workers(self) -> None:
        """Start the workers, and wait until each one serves. The first one alone creates missing keys and tables."""
        try:
            for place in self._places:
                self._begin(place)
            for group in (self._places[:1], self._places[1:]):
                for place in group:
                    if place.process is not None:
                        place.process.begin()
                for place in group:
                    self._await_start(place)
        finally:
            # The passphrase is not kept. Therefore a worker that ended cannot be replaced.
            if self._typed is not None:
                self._typed.wipe()
                self._typed = None

    def _await_start(self, place: _Place) -> None:
        process = place.process
        assert process is not None  # noqa: S101  # the caller started it
        deadline = time.monotonic() + self._timing.start
        while not process.serving:
            try:
                event = process.events.get(timeout=max(deadline - time.monotonic(), 0.01))
            except queue.Empty:
                process.process.kill()
                raise BrokerCode.PROCESS_ENDED.error(
                    f"Process {place.number} of the broker did not start within {self._timing.start:g} s."
                ) from None
            if event is None:
                process.process.wait()
                raise process.explain_end()
            if event["event"] == Event.PASSPHRASE:
                # A person who types may take any time.
                process.tell_passphrase(self._ask_passphrase())
                deadline = time.monotonic() + self._timing.start
            elif event["event"] == Event.FAILED:
                process.read_failure(event)
        place.facts = _facts(process.ask(Question.POLL), self._timing.answer)

    def _ask_passphrase(self) -> SecretBytes:
        if self._typed is None:
            try:
                self._typed = self._passphrase()
            except InputError:  # no terminal: the worker reports it
                return SecretBytes(b"")
            self._was_typed = True
        return self._typed

    def _tend(self, place: _Place) -> None:
        """Handle the events of a worker. Replace it if it has ended."""
        process, now = place.process, time.monotonic()
        if process is None:
            if now >= place.due:
                self._begin(place).begin()
                self._restarts += 1
            return
        ended = False
        while not process.events.empty():
            event = process.events.get()
            if event is None:
                ended = True
            elif event["event"] == Event.PASSPHRASE:
                process.tell_passphrase(SecretBytes(b""))
            elif event["event"] == Event.FAILED:
                process.read_failure(event)
            elif event["event"] == Event.SERVING:
                _LOG.info("process %d of the broker serves again", place.number)
        silent = place.polled is not None and now - place.asked > self._timing.silence
        late = not process.serving and now - process.started > self._timing.start
        if not ended and (silent or late):
            _LOG.error("process %d of the broker does not answer, and is killed", place.number)
            process.process.kill()
            ended = True
        if ended:
            self._replace(place, process)

    def _replace(self, place: _Place, process: WorkerProcess) -> None:
        # Its channel is closed, so it has ended, or is about to end.
        process.process.kill()
        process.process.wait()
        process.close()
        error = process.explain_end()
        with self._pages:
            place.process = None
            if place.facts is not None:
                self._former = merged([self._former, place.facts.page], accumulated_only=True)
                place.facts = Facts(description="", fine=True, page="", changes=place.facts.changes)
        if self._was_typed:
            self._lose(place, error)
            return
        place.failures = 1 if time.monotonic() - process.started >= self._timing.stable else place.failures + 1
        if place.failures >= ATTEMPTS:
            raise error
        pause = 0.0 if place.failures == 1 else self._timing.first_pause * 2 ** (place.failures - 2)
        place.due = time.monotonic() + pause
        _LOG.error("process %d of the broker is started again in %g s: %s", place.number, pause, error)

    def _lose(self, place: _Place, error: SealserveError) -> None:
        """Continue without a worker that cannot be replaced. Only the first worker has additional duties."""
        if place.number == 0 or not self._serving():
            raise error
        place.due = float("inf")
        _LOG.error(
            "process %d of the broker ended, and its passphrase was typed at the terminal. The broker continues "
            "without this process. Restart the broker, or set keystore.passphrase_file: %s",
            place.number, error,
        )  # fmt: skip

    def _ask_and_store(self, question: Question, seconds: float) -> None:
        """Ask each worker. Store the answers that arrive in time, and later answers to earlier questions."""
        asked = []
        for place in self._places:
            if (process := _serving(place)) is None:
                continue
            if place.polled is None or place.polled.done() or question is Question.RELOAD:
                place.polled, place.asked = process.ask(question), time.monotonic()
            asked.append(place.polled)
        wait_for(asked, seconds)
        for place in self._places:
            if place.polled is not None and place.polled.done():
                found, place.polled = _facts(place.polled, 0), None
                if found is not None:
                    with self._pages:
                        place.facts = found

    def _stop_workers(self) -> None:
        processes = [place.process for place in self._places if place.process is not None]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.process.terminate()
        deadline = time.monotonic() + self._timing.stop
        for process in processes:
            try:
                process.process.wait(max(deadline - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                _LOG.warning("process %d of the broker did not stop in time, and is killed", process.number)
                process.process.kill()
                process.process.wait()
            process.close()
        for place in self._places:
            place.process = None


def _serving(place: _Place) -> WorkerProcess | None:
    process = place.process
    return process if process is not None and process.serving else None


def _answer(asked: "Future[Mapping[str, Any]] | None", name: str) -> Any | None:
    if asked is None or not asked.done() or asked.exception() is not None:
        return None
    return asked.result().get(name)


def _facts(asked: "Future[Mapping[str, Any]]", seconds: float) -> Facts | None:
    with contextlib.suppress(ChannelError, TimeoutError, KeyError):
        return Facts.of(asked.result(seconds))
    return None
