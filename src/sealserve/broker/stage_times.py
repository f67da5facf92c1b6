"""How long each stage of a request takes, as a histogram.

A stage is counted when it has succeeded, so that a peer that is disconnected does not change the numbers. The whole
request is counted only if its key was sent. The times include waiting for other requests.
"""

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from prometheus_client import Histogram

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Stage(StrEnum):
    """A stage of a request. The steps of a stage are in `sealserve.broker.decision`."""

    HANDSHAKE = "handshake"
    """The TLS handshake, from the peer's first byte."""
    REQUEST = "request"
    """Receiving the request."""
    QUEUE = "queue"
    """Waiting for a place among the appraisals."""
    CERTIFICATE = "certificate"
    """Parsing the certificate and the quote, and all checks that need no collateral."""
    COLLATERAL = "collateral"
    """Taking the collateral from the cache, or downloading it."""
    VERIFICATION = "verification"
    """Verifying the quote, the reference values and the policy."""
    DATABASE = "database"
    """Reading the release, the platforms and the evaluation floor, and committing the audit row."""
    KEYSTORE = "keystore"
    """Decrypting the release key, with the master key or by a key management service."""
    SEND = "send"
    """Sending the key."""
    WHOLE = "whole"
    """The whole request, from the peer's first byte until the key was sent."""


class StageTimes:
    """The histogram of all requests. Several threads may use it at the same time.

    Args:
        name: The metric's name.
        clock: Returns a monotonic time in seconds.
    """

    def __init__(self, name: str, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.histogram: Final = Histogram(
            name,
            "Duration of a stage of the requests for release keys.",
            ["stage"],
            registry=None,
            buckets=_BUCKETS,
        )
        self.clock: Final = clock
        self._stages = {stage: self.histogram.labels(stage.value) for stage in Stage}

    def request(self) -> "RequestTimes":
        """Return the times of a new request."""
        return RequestTimes(self)

    def count(self, stage: Stage, seconds: float) -> None:
        """Count a stage that succeeded."""
        self._stages[stage].observe(seconds)


class RequestTimes:
    """The times of one request. A stage begins with `begin`, and ends when the next stage begins.

    Args:
        times: The histogram.
    """

    __slots__ = ("_began", "_current", "_spent", "_started", "_times")

    def __init__(self, times: StageTimes) -> None:
        self._times = times
        self._started = self._began = times.clock()
        self._current: Stage | None = None
        self._spent: dict[Stage, float] = {}

    def begin(self, stage: Stage) -> None:
        """End the present stage successfully, and begin ``stage``. A stage may have several parts."""
        self._lap()
        self._current = stage

    def succeed(self) -> None:
        """End the last stage and the request successfully."""
        self._lap()
        self._spent[Stage.WHOLE] = self._began - self._started
        self._current = None

    def record(self) -> None:
        """Add the stages that succeeded to the histogram. Call this once, at the end of the request."""
        for stage, seconds in self._spent.items():
            self._times.count(stage, seconds)
        self._spent = {}

    def _lap(self) -> None:
        now = self._times.clock()
        if self._current is not None:
            self._spent[self._current] = self._spent.get(self._current, 0.0) + now - self._began
        self._began = now
