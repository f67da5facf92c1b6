"""The versions of one model as a state machine without threads, clocks or I/O.

Inputs are the versions that are wanted (`ModelVersions.aspire`) and the ends of loads and unloads. Outputs are the next
steps (`ModelVersions.step`) and a call for each new state. `Manager` carries the steps out.

The rules differ from TensorFlow Serving in one point. A request may name a version that an earlier request removed and
that is not unloaded yet. TensorFlow Serving postpones such a request until the version is unloaded. This module uses
the version again immediately if it is loaded or still loading. A rollback therefore takes effect immediately, even if
the newer version fails to load.

Source: tensorflow/serving, ``core/aspired_versions_manager.cc`` (``ProcessAspiredVersionsRequest``,
``ContainsAnyReaspiredVersions``, ``FlushServables``).
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from sealserve.errors import SealserveError
from sealserve.serving.lifecycle.transition import Action, Decision, Phase, Policy, Snapshot
from sealserve.serving.servables import Servable, State


@dataclass(slots=True, kw_only=True)
class Version:
    """One version of a model.

    Args:
        folder: The folder that the version is loaded from.
        wanted: The folder from which the latest request wants this version. None if it does not want the version.
        phase: The phase of its loading or unloading.
        servable: The loaded version.
        error: Why the version was not loaded.
        unwanted: Set while the version is not wanted from `folder`. It ends the wait before the next retry of a load.
    """

    folder: Path
    wanted: Path | None
    phase: Phase = Phase.NEW
    servable: Servable | None = None
    error: SealserveError | None = None
    unwanted: threading.Event = field(default_factory=threading.Event)

    @property
    def aspired(self) -> bool:
        """Whether the latest request wants the version as it is now, or as it will be after the pending steps."""
        if self.phase in {Phase.LOADING, Phase.UNLOADING}:  # afterwards it can be loaded again from any folder
            return self.wanted is not None
        return self.wanted == self.folder

    def want(self, folder: Path | None) -> None:
        """Set the folder from which the version is wanted; None if it is not wanted."""
        self.wanted = folder
        if folder == self.folder:
            self.unwanted.clear()
        else:
            self.unwanted.set()


class ModelVersions:
    """The versions of one model. The caller serializes all calls.

    Args:
        policy: Decides the order of loads and unloads.
        tell: Called with a version and its new state when it is added, and when it is removed without a load.
    """

    def __init__(self, policy: Policy, tell: Callable[[int, State], None]) -> None:
        self._policy = policy
        self._tell = tell
        self._versions: dict[int, Version] = {}
        self._postponed: Mapping[int, Path] | None = None

    @property
    def versions(self) -> Mapping[int, Version]:
        """The versions that are wanted, loaded, loading or unloading."""
        return MappingProxyType(self._versions)

    @property
    def settled(self) -> bool:
        """Whether each wanted version is available or failed. False if no version is wanted."""
        wanted = [version for version in self._versions.values() if version.aspired]
        ended = all(version.phase in {Phase.READY, Phase.ENDED} for version in wanted)
        return bool(wanted) and ended and self._postponed is None

    def aspire(self, folders: Mapping[int, Path]) -> None:
        """Set the wanted versions and their folders. An empty mapping removes the model.

        As in TensorFlow Serving, a version that is loaded and was wanted until now stays loaded, even if its folder
        changed. A version that was removed, still serves, and is now wanted from a different folder must be loaded
        again. Such a request is postponed while other versions are loading, so that one of them can serve first.
        """
        self._postponed = None
        if self._moved(folders) and self._coming():
            self._postponed = folders
            return
        for number, version in self._versions.items():
            if number not in folders or version.phase is not Phase.READY or not version.aspired:
                version.want(folders.get(number))
        self._forget()
        for number, folder in folders.items():
            if number not in self._versions:
                self._versions[number] = Version(folder=folder, wanted=folder)
                self._tell(number, State.START)

    def step(self) -> Decision:
        """Take the next step that the policy allows now, and return it; None if no step is possible."""
        decision = self._policy(
            {number: Snapshot(version.phase, version.aspired) for number, version in self._versions.items()}
        )
        if decision is not None:
            action, number = decision
            self._versions[number].phase = Phase.LOADING if action is Action.LOAD else Phase.UNLOADING
        return decision

    def loaded(self, number: int, servable: Servable) -> bool:
        """Record that a version is loaded, and return whether it serves. If not, free it, and then call `ended`."""
        version = self._versions[number]
        version.servable = servable
        version.phase = Phase.READY if version.wanted == version.folder else Phase.UNLOADING
        return version.phase is Phase.READY

    def ended(self, number: int, error: SealserveError | None = None) -> None:
        """Record that a version was unloaded, that its load was cancelled, or that its load failed with ``error``."""
        version = self._versions[number]
        if error is not None and version.wanted == version.folder:
            version.phase, version.error = Phase.ENDED, error
        elif version.wanted is None:
            del self._versions[number]
        else:
            self._versions[number] = Version(folder=version.wanted, wanted=version.wanted)
            self._tell(number, State.START)
        if self._postponed is not None:
            self.aspire(self._postponed)

    def _moved(self, folders: Mapping[int, Path]) -> bool:
        """Return whether ``folders`` wants a removed version that still serves, but from a different folder."""
        return any(
            version.phase is Phase.READY and not version.aspired and version.folder != folders[number]
            for number, version in self._versions.items()
            if number in folders
        )

    def _coming(self) -> bool:
        """Return whether a version of the previous request may still become available."""
        coming = {Phase.NEW, Phase.LOADING, Phase.UNLOADING}
        return any(version.aspired and version.phase in coming for version in self._versions.values())

    def _forget(self) -> None:
        """Remove the versions that are not wanted, and are neither loaded nor loading nor unloading."""
        for number, version in list(self._versions.items()):
            if not version.aspired and version.phase in {Phase.NEW, Phase.ENDED}:
                if version.phase is Phase.NEW:
                    self._tell(number, State.END)
                del self._versions[number]
