"""What brings versions up and takes them down: the aspired versions in, states and servables out.

Each change (other versions are wanted, a load or an unload ended) asks the policy (`transition`) for the next steps,
and hands them to threads. The states that others see are in `Servables`.

Source: tensorflow/serving, ``core/aspired_versions_manager.cc``, ``core/basic_manager.cc``, ``core/loader_harness.cc``
and ``util/retrier.cc``.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sealserve.errors import InputError, SealserveError, UnavailableError, VerificationError
from sealserve.serving.lifecycle.transition import Action, Phase, Policy, Snapshot
from sealserve.serving.log import text_for_log
from sealserve.serving.request_errors import Status
from sealserve.serving.servables import Health, Servable, Servables, State, VersionState

logger = logging.getLogger(__name__)

Load = Callable[[str, int, Path], Servable]
"""The model's name, the version and its folder to the loaded servable."""

_CANCELLED: Final = Health(status=Status.CANCELLED, message="Loading of servable cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often a load that failed is tried again.

    Args:
        count: How many times after the first failure.
        interval: Seconds before each.
    """

    count: int
    interval: float


@dataclass(slots=True, kw_only=True)
class _Version:
    folder: Path
    aspired: bool = True
    phase: Phase = Phase.NEW
    servable: Servable | None = None
    error: SealserveError | None = None
    unwanted: threading.Event = field(default_factory=threading.Event)


class Manager:
    """Versions of any number of models.

    Args:
        servables: Where states and servables are published.
        load: How a version is loaded. Its errors become the version's state.
        policy: In which order versions come and go.
        retries: What happens after a failure.
        load_threads: How many versions load at once.
        unload_threads: How many are freed at once.
    """

    def __init__(
        self,
        servables: Servables,
        load: Load,
        *,
        policy: Policy,
        retries: Retries,
        load_threads: int = 1,
        unload_threads: int = 1,
    ) -> None:
        self._servables = servables
        self._load_version = load
        self._policy = policy
        self._retries = retries
        self._models: dict[str, dict[int, _Version]] = {}
        self._pending: dict[str, Mapping[int, Path]] = {}
        self._changed = threading.Condition()
        self._loads = ThreadPoolExecutor(load_threads, thread_name_prefix="load")
        self._unloads = ThreadPoolExecutor(unload_threads, thread_name_prefix="unload")
        self._closed = False

    def aspire(self, name: str, folders: Mapping[int, Path]) -> None:
        """Say which versions of a model are wanted from now on, and where they are. None: it goes away.

        A version that is just going, and is wanted again, comes back once it is gone.
        """
        with self._changed:
            versions = self._models.setdefault(name, {})
            self._pending.pop(name, None)
            for number, version in versions.items():
                if number not in folders:
                    version.aspired = False
                    version.unwanted.set()
            self._forget(name)
            for number, folder in folders.items():
                if number not in versions:
                    versions[number] = _Version(folder=folder)
                    self._servables.set_state(name, number, VersionState(state=State.START))
                elif not versions[number].aspired:
                    self._pending[name] = folders
            self._advance(name)

    def settled(self, name: str) -> bool:
        """Whether each wanted version of a model is available or failed, and there is one."""
        wanted = [version for version in self._models.get(name, {}).values() if version.aspired]
        return bool(wanted) and all(version.phase in {Phase.READY, Phase.ENDED} for version in wanted)

    def errors(self, name: str) -> Mapping[int, SealserveError]:
        """Return why versions of a model failed, if none is available; else nothing."""
        wanted = {number: version for number, version in self._models.get(name, {}).items() if version.aspired}
        if any(version.phase is Phase.READY for version in wanted.values()):
            return {}
        return {number: version.error for number, version in wanted.items() if version.error is not None}

    def wait(self, reached: Callable[[], bool]) -> None:
        """Wait until ``reached`` (looked at after each change) or until the manager is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or reached())

    def close(self) -> None:
        """Bring up nothing more, and free what is loaded, each after its last request."""
        with self._changed:
            self._closed = True
            for versions in self._models.values():
                for version in versions.values():
                    version.unwanted.set()
            self._changed.notify_all()
            ready = [
                (name, number, version)
                for name, versions in self._models.items()
                for number, version in versions.items()
                if version.phase is Phase.READY
            ]
        self._loads.shutdown(cancel_futures=True)
        self._unloads.shutdown()
        for name, number, version in ready:
            self._free(name, number, version)

    def _forget(self, name: str) -> None:
        """Drop the versions that are not wanted any more and of which nothing is left."""
        versions = self._models[name]
        for number in [number for number, version in versions.items() if not version.aspired]:
            if versions[number].phase in {Phase.NEW, Phase.ENDED}:
                if versions[number].phase is Phase.NEW:
                    self._servables.set_state(name, number, VersionState(state=State.END))
                del versions[number]

    def _advance(self, name: str) -> None:
        """Take every step that the policy allows now. The lock is held."""
        versions = self._models[name]
        while not self._closed:
            decision = self._policy(
                {number: Snapshot(version.phase, version.aspired) for number, version in versions.items()}
            )
            if decision is None:
                break
            action, number = decision
            version = versions[number]
            if action is Action.LOAD:
                version.phase = Phase.LOADING
                self._servables.set_state(name, number, VersionState(state=State.LOADING))
                self._loads.submit(self._load, name, number, version)
            else:
                version.phase = Phase.UNLOADING
                self._servables.set_state(name, number, VersionState(state=State.UNLOADING))
                self._unloads.submit(self._unload, name, number, version)
        self._changed.notify_all()

    def _load(self, name: str, number: int, version: _Version) -> None:
        try:
            servable = self._try(name, number, version)
        except SealserveError as error:
            version.error = error
            self._end(name, number, version, _health(error))
            return
        except Exception:
            logger.exception("loading %s version %d failed for a reason that is not the model's", name, number)
            version.error = SealserveError(f"{name} version {number} was not loaded; the log has more.")
            self._end(name, number, version, Health(status=Status.INTERNAL, message="internal"))
            return
        if servable is None:
            self._end(name, number, version, _CANCELLED)
            return
        with self._changed:
            version.servable, version.phase = servable, Phase.READY
            self._servables.set_state(name, number, VersionState(state=State.AVAILABLE, servable=servable))
            logger.info("%s version %d is available", name, number)
            self._advance(name)

    def _try(self, name: str, number: int, version: _Version) -> Servable | None:
        """Return the servable, or None where nobody wants it any more."""
        attempt = 0
        while True:
            try:
                servable = self._load_version(name, number, version.folder)
            except SealserveError as error:
                reason = text_for_log(error)
                logger.error("%s version %d was not loaded: %s", name, number, reason)  # noqa: TRY400  # one line
                attempt += 1
                if attempt > self._retries.count or isinstance(error, VerificationError):
                    raise
                if version.unwanted.wait(self._retries.interval):
                    return None
                logger.info("trying %s version %d again (%d of %d)", name, number, attempt, self._retries.count)
                continue
            if version.unwanted.is_set():
                servable.session.close()
                return None
            return servable

    def _unload(self, name: str, number: int, version: _Version) -> None:
        self._free(name, number, version)
        self._end(name, number, version, Health())
        logger.info("%s version %d is unloaded", name, number)

    def _free(self, name: str, number: int, version: _Version) -> None:
        servable, version.servable = version.servable, None
        self._servables.set_state(name, number, VersionState(state=State.UNLOADING))
        if servable is None:
            return
        servable.users.retire()
        try:
            servable.session.close()
        except Exception:
            logger.exception("freeing %s version %d failed", name, number)

    def _end(self, name: str, number: int, version: _Version, health: Health) -> None:
        with self._changed:
            version.phase = Phase.ENDED
            self._servables.set_state(name, number, VersionState(state=State.END, health=health))
            self._forget(name)
            if name in self._pending:
                self.aspire(name, self._pending[name])
            else:
                self._advance(name)


def _health(error: SealserveError) -> Health:
    """Return what the version's state says of an error: TensorFlow's own words where it has some."""
    status = getattr(error, "status", None)
    if not isinstance(status, Status):
        if isinstance(error, VerificationError):
            status = Status.DATA_LOSS
        elif isinstance(error, UnavailableError):
            status = Status.UNAVAILABLE
        else:
            status = Status.INVALID_ARGUMENT if isinstance(error, InputError) else Status.INTERNAL
    return Health(status=status, message=str(getattr(error, "text", error.message)))
