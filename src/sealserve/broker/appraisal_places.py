"""Places for appraisals: only a few requests run the expensive part of the decision at the same time."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Self

from sealserve.broker.codes import BrokerCode
from sealserve.broker.server_limits import Limits


class Place:
    """The place of a request among the appraisals, or among the requests that wait for a download of collateral.

    Args:
        appraisals: The places for appraisals. The constructor waits for a place.
        downloads: The places for requests that wait for a download.
        limits: Their numbers, and how long a request waits.

    Raises:
        UnavailableError: `broker.busy` if no appraisal could begin in time.
    """

    def __init__(
        self, appraisals: threading.BoundedSemaphore, downloads: threading.BoundedSemaphore, limits: Limits
    ) -> None:
        self._appraisals = appraisals
        self._downloads = downloads
        self._limits = limits
        self._held = False
        self._enter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    @contextlib.contextmanager
    def downloading(self) -> Iterator[None]:
        """Give up the place for an appraisal during a download, and wait for a place again afterwards.

        Raises:
            UnavailableError: `broker.busy` if too many requests wait for a download, or no appraisal could continue.
        """
        # Never wait here: a slow service would otherwise hold up the requests that need no download.
        if not self._downloads.acquire(blocking=False):
            raise BrokerCode.BUSY.error(
                f"The broker is busy: {self._limits.downloads} requests already wait for a download of collateral."
            )
        try:
            self.leave()
            yield
        finally:
            self._downloads.release()
        self._enter()

    def _enter(self) -> None:
        if not self._appraisals.acquire(timeout=self._limits.queue):
            raise BrokerCode.BUSY.error(f"The broker is busy: no appraisal could begin within {self._limits.queue} s.")
        self._held = True

    def leave(self) -> None:
        """Give up the place, if the request still holds it. Requests that wait for the disk need no place."""
        if self._held:
            self._held = False
            self._appraisals.release()
