"""Loads and unloads versions. Its inputs are the wanted versions; its outputs are states and servables.

Each change (other versions are wanted, a load or an unload ended) goes to the state machine of the model
(`model_versions`). Threads carry out the steps that it returns. The published states are in `Servables`.

Source: tensorflow/serving, ``core/aspired_versions_manager.cc``, ``core/basic_manager.cc``, ``core/loader_harness.cc``
and ``util/retrier.cc``.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.errors import InputError, SealserveError, UnavailableError, VerificationError
from sealserve.serving.lifecycle.model_versions import ModelVersions, Version
from sealserve.serving.lifecycle.transition import Action, Phase, Policy
from sealserve.serving.log import text_for_log
from sealserve.serving.request_errors import Status
from sealserve.serving.servables import Health, Servable, Servables, State, VersionState

logger = logging.getLogger(__name__)

Load = Callable[[str, int, Path], Servable]
"""Loads a version: takes the model's name, the version and its folder, and returns the servable."""

_CANCELLED: Final = Health(status=Status.CANCELLED, message="Loading of servable cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """The retries of a failed load.

    Args:
        count: Maximum number of retries after the first failure.
        interval: Seconds before each retry.
    """

    count: int
    interval: float


class Manager:
    """Manages the versions of any number of models.

    Args:
        servables: The published states and servables.
        load: Loads a version. Its errors become the version's state.
        policy: Decides the order of loads and unloads.
        retries: The retries of a failed load.
        load_threads: Number of versions that load at the same time.
        unload_threads: Number of versions that are freed at the same time.
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
        self._models: dict[str, ModelVersions] = {}
        self._changed = threading.Condition()
        self._loads = ThreadPoolExecutor(load_threads, thread_name_prefix="load")
        self._unloads = ThreadPoolExecutor(unload_threads, thread_name_prefix="unload")
        self._closed = False

    def aspire(self, name: str, folders: Mapping[int, Path]) -> None:
        """Set the wanted versions of a model, with their folders. An empty mapping removes the model.

        See `ModelVersions.aspire`.
        """
        with self._changed:
            if self._closed:
                return
            self._model(name).aspire(folders)
            self._advance(name)

    def settled(self, name: str) -> bool:
        """Return whether each wanted version of a model is available or failed. False if no version is wanted."""
        with self._changed:
            return name in self._models and self._models[name].settled

    def errors(self, name: str) -> Mapping[int, SealserveError]:
        """Return the errors of a model's wanted versions by version; empty if a version is available."""
        with self._changed:
            versions = self._models[name].versions if name in self._models else {}
            wanted = {number: version for number, version in versions.items() if version.aspired}
            if any(version.phase is Phase.READY for version in wanted.values()):
                return {}
            return {number: version.error for number, version in wanted.items() if version.error is not None}

    def wait(self, reached: Callable[[], bool]) -> None:
        """Wait until ``reached`` returns true or the manager is closed. It is called after each change and `wake`."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or reached())

    def wake(self) -> None:
        """Make each `wait` check its condition again."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Start no more loads, and free each loaded version after its last request."""
        with self._changed:
            self._closed = True
            for versions in self._models.values():
                versions.aspire({})
            self._changed.notify_all()
            ready = [
                (name, number, version)
                for name, versions in self._models.items()
                for number, version in versions.versions.items()
                if version.phase is Phase.READY
            ]
        self._loads.shutdown(cancel_futures=True)
        self._unloads.shutdown()
        for name, number, version in ready:
            self._free(name, number, version)

    def _model(self, name: str) -> ModelVersions:
        if name not in self._models:

            def tell(number: int, state: State) -> None:
                self._servables.set_state(name, number, VersionState(state=state))

            self._models[name] = ModelVersions(self._policy, tell)
        return self._models[name]

    def _advance(self, name: str) -> None:
        """Take every step that the policy allows now. The caller holds the lock."""
        model = self._models[name]
        while not self._closed and (decision := model.step()) is not None:
            action, number = decision
            version = model.versions[number]
            if action is Action.LOAD:
                self._servables.set_state(name, number, VersionState(state=State.LOADING))
                self._loads.submit(self._load, name, number, version)
            else:
                self._servables.set_state(name, number, VersionState(state=State.UNLOADING))
                self._unloads.submit(self._unload, name, number, version)
        self._changed.notify_all()

    def _load(self, name: str, number: int, version: Version) -> None:
        try:
            servable = self._try(name, number, version)
        except SealserveError as error:
            self._end(name, number, _health(error), error)
            return
        except Exception:
            logger.exception("loading %s version %d failed with an unexpected error", name, number)
            unforeseen = SealserveError(
                f"{name} version {number} cannot be loaded: unexpected error. See the log for details."
            )
            self._end(name, number, Health(status=Status.INTERNAL, message="internal"), unforeseen)
            return
        if servable is None:
            self._end(name, number, _CANCELLED)
            return
        with self._changed:
            serves = self._models[name].loaded(number, servable)
            if serves:
                self._servables.set_state(name, number, VersionState(state=State.AVAILABLE, servable=servable))
                logger.info("%s version %d is available", name, number)
                self._advance(name)
        if not serves:
            self._free(name, number, version)
            self._end(name, number, _CANCELLED)

    def _try(self, name: str, number: int, version: Version) -> Servable | None:
        """Load a version with retries; return None if it is no longer wanted before a load begins."""
        attempt = 0
        while not version.unwanted.is_set():
            try:
                return self._load_version(name, number, version.folder)
            except SealserveError as error:
                reason = text_for_log(error)
                logger.error("%s version %d cannot be loaded: %s", name, number, reason)  # noqa: TRY400  # one line
                attempt += 1
                if attempt > self._retries.count or isinstance(error, VerificationError):
                    raise
            if not version.unwanted.wait(self._retries.interval):
                logger.info("retrying to load %s version %d (%d of %d)", name, number, attempt, self._retries.count)
        return None

    def _unload(self, name: str, number: int, version: Version) -> None:
        self._free(name, number, version)
        logger.info("%s version %d is unloaded", name, number)
        self._end(name, number, Health())

    def _free(self, name: str, number: int, version: Version) -> None:
        servable, version.servable = version.servable, None
        self._servables.set_state(name, number, VersionState(state=State.UNLOADING))
        if servable is None:
            return
        servable.users.retire()
        try:
            servable.session.close()
        except Exception:
            logger.exception("freeing %s version %d failed", name, number)

    def _end(self, name: str, number: int, health: Health, error: SealserveError | None = None) -> None:
        with self._changed:
            self._servables.set_state(name, number, VersionState(state=State.END, health=health))
            self._models[name].ended(number, error)
            self._advance(name)


def _health(error: SealserveError) -> Health:
    """Return the health in the version's state for an error, with TensorFlow's own message if the error has one."""
    status = getattr(error, "status", None)
    if not isinstance(status, Status):
        if isinstance(error, VerificationError):
            status = Status.DATA_LOSS
        elif isinstance(error, UnavailableError):
            status = Status.UNAVAILABLE
        else:
            status = Status.INVALID_ARGUMENT if isinstance(error, InputError) else Status.INTERNAL
    return Health(status=status, message=str(getattr(error, "text", error.message)))
