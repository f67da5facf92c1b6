"""Values that the broker loads from files, and loads again when the files change, without a restart.

If a new file is invalid, the broker continues with the former value, logs the error, and reports it in its metrics. A
failed attempt is repeated once a minute, because some causes end without a change of the files: for example, a
certificate whose validity begins later.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Generic, TypeVar

from sealserve.errors import SealserveError
from sealserve.log_line import fields

_LOG: Final = logging.getLogger(__name__)
_RETRY_SECONDS: Final = 60.0

Value = TypeVar("Value")
Version = tuple[tuple[int, int, int, int] | None, ...]
"""Device, inode, size and modification time of each file in nanoseconds. `None` stands for a missing file."""


def version_of(files: Iterable[Path]) -> Version:
    """Return a value that changes when one of ``files`` is created, replaced, changed or removed.

    A link is followed: Kubernetes replaces the files of a Secret by changing a link.
    """
    return tuple(map(_version_of, files))


def _version_of(file: Path) -> tuple[int, int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Reloaded(Generic[Value]):
    """A value that is loaded from files. Several threads may use it at the same time.

    Args:
        load: Loads and checks the value. It raises an error if the value cannot be used.
        what: The value's name in the log and in the metrics, such as ``certificate``.
        files: The files that `poll` watches.
        clock: Returns a monotonic time in seconds.

    Raises:
        SealserveError: The first value cannot be loaded.
    """

    def __init__(
        self,
        load: Callable[[], Value],
        *,
        what: str,
        files: Iterable[Path] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what: Final = what
        self._load = load
        self._files = tuple(files)
        self._clock = clock
        self._lock = threading.Lock()
        self._used = self._polled = version_of(self._files)  # before the files are read, so that no change is missed
        self._value = load()
        self._problem: Exception | None = None
        self._tried = clock()

    @property
    def value(self) -> Value:
        """The newest valid value."""
        return self._value

    @property
    def problem(self) -> Exception | None:
        """The error of the last attempt to load the value, or `None` if it succeeded."""
        return self._problem

    def reload(self) -> bool:
        """Load the value again now. Return whether the value could be loaded."""
        with self._lock:
            return self._reload(tell=True)

    def replaced(self, former: Value) -> bool:
        """Return whether a value other than ``former`` is available, and load it first if the files have changed."""
        with self._lock:
            if self._value is not former:
                return True
            return version_of(self._files) != self._used and self._reload(tell=True)

    def poll(self) -> None:
        """Load the value again if its files have changed. Call this method about once a second.

        Two files of one value are replaced one after the other. Therefore the value is loaded only if the files have
        not changed since the previous call.
        """
        with self._lock:
            found, before = version_of(self._files), self._polled
            self._polled = found
            if found != self._used:
                if found == before:
                    self._reload(tell=True)
            elif self._problem is not None and self._clock() - self._tried >= _RETRY_SECONDS:
                self._reload(tell=False)

    def _reload(self, *, tell: bool) -> bool:
        self._used = self._polled = version_of(self._files)
        self._tried = self._clock()
        try:
            value = self._load()
        except Exception as error:  # noqa: BLE001  # whatever is wrong with a file must not stop the broker
            # A repeated attempt is logged only if its error differs.
            if tell or _code(error) != _code(self._problem):
                unexpected = not isinstance(error, SealserveError | OSError)
                _LOG.error(
                    "cannot reload the %s, so the broker continues with the former one: [%s] %s",
                    self.what,
                    _code(error),
                    type(error).__name__ if unexpected else error,
                    exc_info=unexpected,
                    extra=fields(code=_code(error)),
                )
            self._problem = error
            return False
        self._value, self._problem = value, None
        _LOG.info("reloaded the %s", self.what)
        return True


def _code(error: Exception | None) -> str:
    return error.code if isinstance(error, SealserveError) else type(error).__name__
