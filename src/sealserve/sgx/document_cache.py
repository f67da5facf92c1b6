"""A cache of collateral: one download per document at a time, refresh in the background, and back-off after failures.

- A document is used until its next-update time, even while the service is down.
- It is refreshed after half of its remaining validity, and at the latest after `max_age`, so that a revocation takes
  effect soon. Requests use the cached document during the refresh.
- Requests that need the same missing document wait for one download.
- A refusal (not found, invalid) is remembered for a minute. After other failures the pause grows from 2 to 60 seconds.
  The pauses use the monotonic clock, so a jump of the system's clock neither extends nor shortens them.
- A document that failed to verify is distrusted: it is downloaded again for the next request, at most once a minute.
  It stays in the cache, because the cause may be the clock or another document.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sealserve.errors import SealserveError
from sealserve.sgx.codes import SgxCode
from sealserve.sgx.collateral_folder import CollateralFolder, Reply
from sealserve.sgx.collateral_requests import Document, check_current
from sealserve.sgx.pcs_responses import Listed, Signed
from sealserve.sgx.trust_anchor import TrustAnchor

_LOG: Final = logging.getLogger(__name__)
_MAX_CACHED: Final = 256
_DOWNLOADS: Final = 8
_REFUSAL: Final = 60.0
_FIRST_PAUSE: Final = 2.0
_LONGEST_PAUSE: Final = 60.0
_TEMPORARY: Final = frozenset({SgxCode.PCS_UNREACHABLE, SgxCode.PCS_TOO_SLOW, SgxCode.PCS_STATUS})
_CLOSE_SECONDS: Final = 1.0
_LOOK: Final = 1.0  # seconds

Value = Signed | Listed


@dataclass(slots=True)
class _Entry:
    value: Value
    url: str
    fetched: datetime
    distrusted: bool = False


@dataclass(frozen=True, slots=True)
class _Failure:
    error: SealserveError
    until: float  # on the monotonic clock
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """A cached document: its value, its URL and the time of its download."""

    value: Value
    url: str
    fetched: datetime


class DocumentCache:
    """Caches documents in memory, and in a folder if there is one. Several threads may use it.

    Args:
        download: Downloads a document. It raises a `SealserveError` with a code of `SgxCode`.
        anchor: The trusted root. Documents that the vendor did not sign are not cached. `None` omits this check.
        folder: The folder for the documents. `None` caches only in memory.
        max_age: The longest time until a document is refreshed.
        patience: How long a request waits for a download, in seconds.
        clock: Returns the current time.
        ticks: Returns the seconds of a monotonic clock.
    """

    def __init__(
        self,
        download: Callable[[Document], Reply],
        *,
        anchor: TrustAnchor | None,
        folder: CollateralFolder | None,
        max_age: timedelta,
        patience: float,
        clock: Callable[[], datetime],
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._download = download
        self._anchor = anchor
        self._folder = folder
        self._max_age = max_age
        self._patience = patience
        self._clock = clock
        self._ticks = ticks
        self._entries: dict[Document, _Entry] = {}
        self._failures: dict[Document, _Failure] = {}
        self._flights: dict[Document, Future[Value]] = {}
        self._stamps: dict[Document, tuple[int, int] | None] = {}  # of the files that were read or written
        self._looked: dict[Document, float] = {}  # when `cached` last looked for a file, on the monotonic clock
        self._distrusted: dict[Document, float] = {}  # when a document was last distrusted, on the monotonic clock
        self._threads: set[threading.Thread] = set()
        self._places = threading.BoundedSemaphore(_DOWNLOADS)
        self._lock = threading.Lock()
        self._disk = threading.Lock()  # held while this process writes a file or reads a file that changed

    def cached(self, document: Document) -> Value | None:
        """Return a document without waiting, or `None` if a download is necessary. Starts a refresh if it is due."""
        now = self._clock()
        with self._lock:
            entry = self._entries.get(document)
            paused = self._paused(document)
        # Another process may have stored a newer document, for example `sealserve broker collateral --refresh`. While
        # the cached document needs no refresh, look at most once a second: under load, looking takes processor time.
        if entry is None or entry.distrusted or self._due(entry, now) or self._looks_again(document):
            entry = self._stored(document, entry)
        if entry is None or now > entry.value.next_update:
            return None
        if entry.distrusted:
            return None if paused is None else entry.value
        if paused is None and self._due(entry, now):
            self._start(document)
        return entry.value

    def start(self, documents: Iterable[Document]) -> None:
        """Start the downloads of documents that are not cached, so that they run at the same time."""
        for document in documents:
            if self.cached(document) is None:
                with self._lock:
                    paused = self._paused(document)
                if paused is None:
                    self._start(document)

    def get(self, document: Document) -> Value:
        """Return a document from the cache, or wait for its download.

        Raises:
            UnavailableError: The download failed, or failed a short time ago.
            VerificationError: The document is invalid, or was invalid within the last minute.
        """
        if (value := self.cached(document)) is not None:
            return value
        with self._lock:
            paused = self._paused(document)
        try:
            if paused is not None:
                raise paused.error
            return self._start(document).result(self._patience)
        except TimeoutError as error:
            raise SgxCode.PCS_TOO_SLOW.error(
                f"The download of the {document.title} is too slow: no complete reply within {self._patience:g} s.",
                hint="Check the load of the PCS or PCCS and the network connection, then try again.",
            ) from error
        except SealserveError as error:
            with self._lock:
                entry = self._entries.get(document)
            if entry is not None and self._clock() <= entry.value.next_update:
                return entry.value  # distrusted, and the service has no newer document: the verification decides
            raise _again(error) from error

    def refresh(self, document: Document) -> Value:
        """Download a document now, whether it is cached or not.

        Raises:
            SealserveError: The errors of `get`.
        """
        return self._fetch(document, forced=True)

    def distrust(self, documents: Iterable[Document]) -> None:
        """Download these documents again for the next request, because they failed to verify."""
        now = self._ticks()
        with self._lock:
            for document in documents:
                last = self._distrusted.get(document)
                if document in self._entries and (last is None or now - last >= _REFUSAL):
                    self._entries[document].distrusted = True
                    self._distrusted[document] = now

    def all(self) -> Mapping[Document, Cached]:
        """Return the documents in memory."""
        with self._lock:
            return {
                document: Cached(value=entry.value, url=entry.url, fetched=entry.fetched)
                for document, entry in self._entries.items()
            }

    def wait(self, seconds: float) -> None:
        """Wait until no download is in progress, for at most ``seconds``."""
        deadline = time.monotonic() + seconds
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Wait a short time for downloads in progress. Their threads do not keep the process alive."""
        self.wait(_CLOSE_SECONDS)

    def _due(self, entry: _Entry, now: datetime) -> bool:
        rest = min((entry.value.next_update - entry.fetched) / 2, self._max_age)
        return not entry.fetched <= now < entry.fetched + rest  # also if the clock was set back

    def _paused(self, document: Document) -> _Failure | None:
        failure = self._failures.get(document)
        return failure if failure is not None and self._ticks() < failure.until else None

    def _looks_again(self, document: Document) -> bool:
        now = self._ticks()
        with self._lock:
            if now - self._looked.get(document, -_LOOK) < _LOOK:
                return False
            self._looked[document] = now
            return True

    def _stored(self, document: Document, entry: _Entry | None) -> _Entry | None:
        """Return the document on disk if it is newer than ``entry``, else ``entry``."""
        if self._folder is None:
            return entry
        # Never wait here. If another thread is at the files, it puts what it finds into the cache.
        if not self._disk.acquire(blocking=False):
            return entry
        try:
            return self._read(self._folder, document, entry)
        finally:
            self._disk.release()

    def _read(self, folder: CollateralFolder, document: Document, entry: _Entry | None) -> _Entry | None:
        # Read a file only once, whatever it contains.
        stamp = folder.stamp(document.name)
        if stamp == self._stamps.get(document):
            return entry
        self._stamps[document] = stamp
        if (reply := folder.read(document.name)) is None or (entry and reply.fetched <= entry.fetched):
            return entry
        try:
            value = document.read(reply.body, reply.headers, anchor=self._anchor)
            if entry is not None and not entry.distrusted:
                _check_not_older(document, value, entry.value)
        except SealserveError as error:
            _LOG.warning("the stored collateral %s is ignored: %s", document.name, error.message)
            return entry
        found = _Entry(value, reply.url, reply.fetched)
        self._put(document, found)
        return found

    def _start(self, document: Document) -> Future[Value]:
        with self._lock:
            if (running := self._flights.get(document)) is not None:
                return running
            flight: Future[Value] = Future()
            thread = threading.Thread(target=self._fly, args=(document, flight), name="collateral", daemon=True)
            self._flights[document] = flight
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the limit of threads is reached
            with self._lock:
                del self._flights[document]
                self._threads.discard(thread)
            raise
        return flight

    def _fly(self, document: Document, flight: Future[Value]) -> None:
        try:
            with self._places:
                value = self._fetch(document, forced=False)
        except BaseException as error:  # noqa: BLE001  # the waiting requests get it
            if not isinstance(error, SealserveError):
                _LOG.exception("internal error while downloading the %s", document.title)
            self._land(document)
            flight.set_exception(error)
        else:
            self._land(document)
            flight.set_result(value)

    def _land(self, document: Document) -> None:
        with self._lock:
            self._flights.pop(document, None)
            self._threads.discard(threading.current_thread())

    def _fetch(self, document: Document, *, forced: bool) -> Value:
        # One process at a time downloads a document. The others then find it in the folder.
        with (
            contextlib.nullcontext()
            if self._folder is None
            else self._folder.alone(document.name, seconds=self._patience / 2)
        ):
            return self._fetch_alone(document, forced=forced)

    def _fetch_alone(self, document: Document, *, forced: bool) -> Value:
        with self._lock:
            before = self._entries.get(document)
            paused = self._paused(document)
        if not forced:
            # Another download may have ended between the look into the cache and the start of this one.
            if paused is not None:
                raise paused.error
            if before is not None and not before.distrusted and not self._due(before, self._clock()):
                return before.value
            # Use a newer document that another process stored.
            stored = self._stored(document, before)
            if stored is not None and stored is not before and not self._due(stored, self._clock()):
                return stored.value
        try:
            reply = self._download(document)
            value = document.read(reply.body, reply.headers, anchor=self._anchor)
            check_current(document, value, self._clock())
            # A cache in front of the service may serve an older document than it served before.
            if before is not None and not before.distrusted and self._clock() <= before.value.next_update:
                _check_not_older(document, value, before.value)
        except SealserveError as error:
            self._failed(document, error, before)
            raise
        # Store it first, so that a document that was used survives a restart. Until it is in the cache, no other thread
        # reads the new file: an entry from that file could be distrusted, and this one would replace it.
        with self._disk:
            if self._folder is not None:
                self._folder.write(document.name, reply)
                self._stamps[document] = self._folder.stamp(document.name)
            self._put(document, _Entry(value, reply.url, reply.fetched))
        with self._lock:
            self._failures.pop(document, None)
        return value

    def _failed(self, document: Document, error: SealserveError, before: _Entry | None) -> None:
        with self._lock:
            former = self._failures.get(document)
            count = 0 if former is None else former.count + 1
            temporary = error.code in _TEMPORARY
            pause = min(_FIRST_PAUSE * 2.0 ** min(count, 10), _LONGEST_PAUSE) if temporary else _REFUSAL
            self._failures[document] = _Failure(error, self._ticks() + pause, count)
            while len(self._failures) > _MAX_CACHED:
                del self._failures[next(iter(self._failures))]  # the oldest failure
        if before is not None:
            _LOG.warning(
                "the %s cannot be refreshed, and the cached document is used until %s UTC: %s",
                document.title, f"{before.value.next_update:%Y-%m-%d %H:%M}", error.message,
            )  # fmt: skip

    def _put(self, document: Document, entry: _Entry) -> None:
        with self._lock:
            self._entries.pop(document, None)
            self._entries[document] = entry
            while len(self._entries) > _MAX_CACHED:
                del self._entries[next(iter(self._entries))]  # the oldest entry


def _check_not_older(document: Document, value: Value, before: Value) -> None:
    if value.issued < before.issued:
        raise SgxCode.COLLATERAL_ROLLED_BACK.error(
            f"The {document.title} is older than the cached document: expected an issue date of "
            f"{before.issued:%Y-%m-%dT%H:%M:%SZ} or later, got {value.issued:%Y-%m-%dT%H:%M:%SZ}.",
            hint="Refresh the cache of the PCCS.",
        )


def _again(error: SealserveError) -> SealserveError:
    """Return a new error for a request: several threads must not raise the same object."""
    with contextlib.suppress(ValueError):
        return SgxCode(error.code).error(error.message, hint=error.hint)  # type: ignore[call-arg]  # a look-up
    return error
