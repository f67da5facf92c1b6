"""Limits for the number of requests that run and wait.

If its lane has a free place, a job runs on the thread that brings it. Otherwise the job waits, and runs on a thread
that has just finished another job. So without contention, no job is passed between threads.
"""

import logging
import threading
from collections.abc import Callable

from sealserve.serving.request_errors import RequestError, Status

logger = logging.getLogger(__name__)

Job = Callable[[], Callable[[], None]]
"""The work on one request, including errors. It returns a function that sends the answer, which is called when the
place is free again. Otherwise a client that gets an answer and sends its next request could be rejected."""


class OverloadedError(RequestError):
    """The maximum number of requests is already running or waiting."""

    code = "request.overloaded"
    status = Status.RESOURCE_EXHAUSTED


class Lane:
    """A limit for running jobs, and a bounded queue.

    Args:
        running: Maximum number of running jobs.
        waiting: Maximum number of waiting jobs.
    """

    def __init__(self, *, running: int, waiting: int) -> None:
        self.width = running
        self._capacity = running + waiting
        self._running = 0
        self._waiting: dict[Job, None] = {}
        self._lock = threading.Lock()

    @property
    def pending(self) -> int:
        """The number of jobs that run or wait."""
        return self._running + len(self._waiting)

    def run(self, job: Job) -> None:
        """Run ``job`` now, or leave it to a thread that runs another job.

        Raises:
            OverloadedError: The queue is full.
        """
        with self._lock:
            if self._running + len(self._waiting) >= self._capacity:
                raise OverloadedError(f"The server is busy: it has reached its limit of {self._capacity} requests.")
            if self._running >= self.width:
                self._waiting[job] = None
                return
            self._running += 1
        following: Job | None = job
        while following is not None:
            following = self._work(following)

    def withdraw(self, job: Job) -> bool:
        """Remove ``job`` from the queue; return whether it was there. If not, it runs or has run."""
        with self._lock:
            return self._waiting.pop(job, job) is None

    def _work(self, job: Job) -> Job | None:
        """Do a job, and return the next job."""
        following: Job | None = None
        try:
            try:
                send = job()
            finally:
                following = self._next()
            send()
        except Exception:
            logger.exception("handling a request failed")
        return following

    def _next(self) -> Job | None:
        with self._lock:
            for job in self._waiting:
                del self._waiting[job]
                return job
            self._running -= 1
            return None
