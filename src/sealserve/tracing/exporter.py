"""Sends spans to a collector in the background. The program that records spans never waits for it.

The collector can be slow, dead or hostile. So the queue is bounded: spans that do not fit, and spans that the
collector does not accept, are dropped and counted. One call to the collector has a time limit, and so has the end of
the exporter.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from sealserve.tracing.otlp import encode
from sealserve.tracing.span import Span

logger = logging.getLogger(__name__)

LONGEST_QUEUE: Final = 4096
"""Maximum number of spans that wait. A span needs about 500 bytes."""
LARGEST_MESSAGE: Final = 512
"""Maximum number of spans in a message."""
INTERVAL: Final = 1.0
"""Seconds between two messages, unless many spans wait."""
CALL_LIMIT: Final = 5.0
"""Maximum seconds for one message."""
CLOSE_LIMIT: Final = 3.0
"""Maximum seconds for the last messages at the end of the program."""
_CLOSING: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
"""Maximum seconds between two attempts while the collector fails."""


class NotExportedError(Exception):
    """The collector is unreachable, or did not accept the spans. The text is the name of the gRPC status."""


class Link(Protocol):
    """A connection to a collector, as `sealserve.tracing.collector_link.CollectorLink`."""

    def send(self, message: bytes, *, seconds: float) -> None:
        """Send a message, or raise `NotExportedError`."""

    def close(self) -> None:
        """Cancel what is being sent, and close the connection."""


class SpanExporter:
    """A bounded queue of spans, and the thread that sends them. Many threads may add spans.

    Args:
        longest: Maximum number of spans that wait.
        interval: Seconds between two messages.
    """

    def __init__(self, *, longest: int = LONGEST_QUEUE, interval: float = INTERVAL) -> None:
        self._resource: Mapping[str, str] = {}
        self._longest = longest
        self._interval = interval
        self._waiting: deque[Span] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._link: Link | None = None
        self._end = math.inf
        self._works = True
        self.exported = 0
        """The number of spans that the collector accepted."""
        self.dropped = 0
        """The number of spans that were dropped."""

    def add(self, spans: Sequence[Span]) -> None:
        """Add the spans of one request, or drop all of them if the queue is full. This never waits."""
        with self._lock:
            waiting = len(self._waiting) + len(spans)
            if waiting > self._longest or self._stopping.is_set():
                self.dropped += len(spans)
                return
            self._waiting.extend(spans)
        if waiting >= LARGEST_MESSAGE and not self._wake.is_set():
            self._wake.set()

    def start(self, link: Link, resource: Mapping[str, str]) -> None:
        """Begin to send. Spans that were added before are sent too.

        Args:
            resource: The attributes of this process, such as ``service.name``.
            link: The connection to the collector. `close` closes it.
        """
        self._resource = dict(resource)
        self._link = link
        self._thread = threading.Thread(target=self._serve, args=(link,), name="traces", daemon=True)
        self._thread.start()

    def close(self, *, seconds: float = CLOSE_LIMIT) -> None:
        """Send the waiting spans for at most ``seconds``, and end. Spans that remain are dropped."""
        self._end = time.monotonic() + seconds
        self._stopping.set()
        self._wake.set()
        if self._thread is not None and self._link is not None:
            self._thread.join(seconds)
            self._link.close()  # this also ends a call that still runs
            self._thread.join(_CLOSING)
        with self._lock:
            self.dropped += len(self._waiting)
            self._waiting.clear()

    def _serve(self, link: Link) -> None:
        pause = self._interval
        while not self._stopping.is_set():
            self._wake.wait(self._interval)
            self._wake.clear()
            if self._send_waiting(link):
                pause = self._interval
            else:
                self._stopping.wait(pause)  # a full queue does not end the pause: its spans are dropped
                pause = min(2 * pause, _LONGEST_PAUSE)
        self._send_waiting(link)

    def _send_waiting(self, link: Link) -> bool:
        """Send messages until no span waits. Return False after a failure."""
        while spans := self._take():
            seconds = min(CALL_LIMIT, self._end - time.monotonic())
            failure = "the time is over"
            if seconds > 0:
                failure = self._send(link, spans, seconds)
            with self._lock:
                self.dropped += len(spans) if failure else 0
                self.exported += 0 if failure else len(spans)
            if bool(failure) == self._works:  # log only changes, because the host can read the log
                self._works = not failure
                if failure:
                    logger.warning("the trace collector does not accept spans (%s); they are dropped", failure)
                else:
                    logger.info("the trace collector accepts spans again")
            if failure:
                return False
        return True

    def _send(self, link: Link, spans: Sequence[Span], seconds: float) -> str:
        """Send one message. Return the reason of a failure, or an empty text."""
        epoch = time.time_ns() - time.monotonic_ns()
        try:
            link.send(encode(spans, resource=self._resource, epoch=epoch), seconds=seconds)
        except NotExportedError as error:
            return str(error)
        except Exception:
            logger.exception("sending spans failed with an unexpected error")
            return "internal"
        return ""

    def _take(self) -> list[Span]:
        with self._lock:
            return [self._waiting.popleft() for _ in range(min(LARGEST_MESSAGE, len(self._waiting)))]
