"""How many requests run at once, and how many wait for their turn.

A job runs on the thread that brings it, where its lane has room; where it has none, the job waits, and runs on a thread
that has just ended another one. So there is no hand-over where there is no crowd.
"""

import logging
import threading
from collections.abc import Callable

from sealserve.serving.request_errors import RequestError, Status

logger = logging.getLogger(__name__)

Job = Callable[[], Callable[[], None]]
"""The work on one request, errors included. It returns what sends the answer, once the place is free: who has the
answer, and asks again, must not be refused because of its own request."""


class OverloadedError(RequestError):
    """As many requests wait as may wait."""

    code = "request.overloaded"
    status = Status.RESOURCE_EXHAUSTED


class Lane:
    """A bound on what runs, and a bounded queue.

    Args:
        running: How many jobs run at once.
        waiting: How many may wait.
    """

    def __init__(self, *, running: int, waiting: int) -> None:
        self.width = running
        self._capacity = running + waiting
        self._running = 0
        self._waiting: dict[Job, None] = {}
        self._lock = threading.Lock()

    @property
    def pending(self) -> int:
        """How many jobs run or wait."""
        return self._running + len(self._waiting)

    def run(self, job: Job) -> None:
        """Run ``job`` now, or leave it to a thread that runs another one.

        Raises:
            OverloadedError: The queue is full.
        """
        with self._lock:
            if self._running + len(self._waiting) >= self._capacity:
                raise OverloadedError(f"The server is busy: {self._capacity} requests run or wait already.")
            if self._running >= self.width:
                self._waiting[job] = None
                return
            self._running += 1
        following: Job | None = job
        while following is not None:
            following = self._work(following)

    def withdraw(self, job: Job) -> bool:
        """Take ``job`` out of the queue; return whether it was there. Otherwise it runs, or did."""
        with self._lock:
            return self._waiting.pop(job, job) is None

    def _work(self, job: Job) -> Job | None:
        """Do a job, and return the one whose turn it is then."""
        following: Job | None = None
        try:
            try:
                send = job()
            finally:
                following = self._next()
            send()
        except Exception:
            logger.exception("a request was lost")
        return following

    def _next(self) -> Job | None:
        with self._lock:
            for job in self._waiting:
                del self._waiting[job]
                return job
            self._running -= 1
            return None
