"""Limits for the number of requests that run and wait.

If its lane has a free place, a job runs on the thread that brings it. Otherwise the job waits, and runs on a thread
that has just finished another job. So without contention, no job is passed between threads.

Clients take turns at the free places, and when the queue is full, the client with the most waiting jobs loses one. So
a client that sends a thousand requests at once neither delays nor displaces the requests of the others.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from sealserve.serving.request_errors import RequestError, Status
from sealserve.serving.wire.turns import Turns

logger = logging.getLogger(__name__)


class OverloadedError(RequestError):
    """The maximum number of requests is already running or waiting."""

    code = "request.overloaded"
    status = Status.RESOURCE_EXHAUSTED


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """The work on one request, which the lane either does or refuses.

    Args:
        work: Does the work, including errors. It returns a function that sends the answer, which is called when the
            place is free again. Otherwise a client that gets an answer and sends its next request could be rejected.
        refuse: Called instead if the queue has no place for the job.
        client: Returns an identifier of the client. It is called only if the job must wait.
    """

    work: Callable[[], Callable[[], None]]
    refuse: Callable[[OverloadedError], None]
    client: Callable[[], bytes]


class Lane:
    """A limit for running jobs, and a bounded queue.

    Args:
        running: Maximum number of running jobs.
        waiting: Maximum number of waiting jobs.
    """

    def __init__(self, *, running: int, waiting: int) -> None:
        self.width = running
        self._places = waiting
        self._running = 0
        self._waiting: Turns[Job] = Turns()
        self._lock = threading.Lock()

    @property
    def pending(self) -> int:
        """The number of jobs that run or wait."""
        return self._running + len(self._waiting)

    def run(self, job: Job) -> None:
        """Run ``job`` now, leave it to a thread that runs another job, or refuse it or another job."""
        with self._lock:
            waits = self._running >= self.width
            displaced = self._wait(job) if waits else None
            if not waits:
                self._running += 1
        if displaced is not None:
            limit = self.width + self._places
            displaced.refuse(OverloadedError(f"The server is busy: it has reached its limit of {limit} requests."))
        following: Job | None = None if waits else job
        while following is not None:
            following = self._work(following)

    def withdraw(self, job: Job) -> bool:
        """Remove ``job`` from the queue; return whether it was there. If not, it runs, has run, or was refused."""
        with self._lock:
            return self._waiting.remove(job)

    def _wait(self, job: Job) -> Job | None:
        """Add a job to the queue; return the job that has no place there, which may be the same one."""
        client = job.client()
        displaced = None
        if len(self._waiting) >= self._places:
            longest = self._waiting.longest() if self._places else client
            if self._waiting.count(longest) <= self._waiting.count(client) + 1:
                return job  # an exchange would only move the shortage to another client
            displaced = self._waiting.newest(longest)
            self._waiting.remove(displaced)
        self._waiting.add(client, job)
        return displaced

    def _work(self, job: Job) -> Job | None:
        """Do a job, and return the next job."""
        following: Job | None = None
        try:
            try:
                send = job.work()
            finally:
                following = self._next()
            send()
        except Exception:
            logger.exception("handling a request failed")
        return following

    def _next(self) -> Job | None:
        with self._lock:
            following = self._waiting.next()
            if following is None:
                self._running -= 1
            return following
