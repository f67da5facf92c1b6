"""The served models by name, their versions and states, and the selection of the servable for a request.

Source: tensorflow/serving, ``core/servable_state.h`` (states), ``core/basic_manager.cc`` and
``model_servers/server_core.cc`` (how a request selects its servable, and the error messages).
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

from sealserve.serving.metrics import Metrics
from sealserve.serving.request_errors import RequestCode, Status
from sealserve.serving.runtime.protos import ModelSpec, SignatureDef
from sealserve.serving.runtime.session import Runnable
from sealserve.serving.runtime.signature import Signature


class State(IntEnum):
    """The state of a version, with the numbers of ``ModelVersionStatus.State``."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


class Users:
    """Counts the requests that use a servable, so that it is freed after the last one."""

    __slots__ = ("_condition", "_count", "_retired")

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0
        self._retired = False

    def enter(self) -> bool:
        """Begin a use. Return False if the servable is being retired."""
        with self._condition:
            if self._retired:
                return False
            self._count += 1
            return True

    def leave(self) -> None:
        """End a use."""
        with self._condition:
            self._count -= 1
            if self._retired and not self._count:
                self._condition.notify_all()

    def retire(self) -> None:
        """Stop accepting new users, and wait for current users to finish."""
        with self._condition:
            self._retired = True
            self._condition.wait_for(lambda: not self._count)


class ServedVersion(NamedTuple):
    """A version of a model as receipts name it.

    Args:
        model: The model's name.
        version: The version.
        digest: The digest of the version's files, or None if the server has no file list.
    """

    model: str
    version: int
    digest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Servable:
    """A loaded version of a model.

    Args:
        name: The model's name.
        version: The version.
        session: The model in TensorFlow.
        definitions: Its signatures as in the meta graph.
        signatures: The signatures that can be called.
        obstacles: For each other signature, the reason why it cannot be called.
        check_method_names: Whether Classify and Regress require the signature's method name.
        users: The requests that use it.
        metrics: The metrics for its runs.
        digest: The digest of its files, or None if the server has no file list. See `sealserve.model_digest`.

    Attributes:
        served_version: The version as receipts name it.
    """

    name: str
    version: int
    session: Runnable
    definitions: Mapping[str, SignatureDef]
    signatures: Mapping[str, Signature]
    obstacles: Mapping[str, str] = field(default_factory=dict)
    check_method_names: bool = False
    users: Users = field(default_factory=Users)
    metrics: Metrics = field(default_factory=Metrics)
    digest: str | None = None
    served_version: ServedVersion = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "served_version", ServedVersion(self.name, self.version, self.digest))


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The error of a version, in the form of ``StatusProto``.

    Args:
        status: The canonical code.
        message: The reason. Every client that may ask for the state can read it.
    """

    status: Status = Status.OK
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionState:
    """The state of a version.

    Args:
        state: The state.
        health: Its error, if it has one.
        servable: The model, while it is available.
    """

    state: State
    health: Health = Health()
    servable: Servable | None = None


_NONE: Mapping[int, VersionState] = MappingProxyType({})


class Servables:
    """All models. Many threads read it; a change replaces a model's whole entry.

    Args:
        metrics: The metrics for requests. By default new metrics that are not published.
    """

    def __init__(self, metrics: Metrics | None = None) -> None:
        self.metrics = Metrics() if metrics is None else metrics
        self._models: dict[str, Mapping[int, VersionState]] = {}
        self._latest: dict[str, Servable] = {}
        self._labels: Mapping[str, Mapping[str, int]] = {}
        self._writing = threading.Lock()
        self._used = threading.local()

    def publish(self, servable: Servable) -> None:
        """Make a loaded version available to requests."""
        self.set_state(servable.name, servable.version, VersionState(state=State.AVAILABLE, servable=servable))

    def set_state(self, name: str, version: int, state: VersionState) -> None:
        """Set the state of a version."""
        with self._writing:
            states = {**self._models.get(name, _NONE), version: state}
            self._models[name] = states
            served = [number for number, entry in states.items() if entry.servable]
            latest = states[max(served)].servable if served else None
            if latest is None:
                self._latest.pop(name, None)
            else:
                self._latest[name] = latest

    def set_labels(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Replace the labels of all models: by model, the versions by label."""
        self._labels = labels

    def label(self, name: str, label: str) -> int | None:
        """Return the version with a label of a model, or None if the label does not exist."""
        return self._labels.get(name, {}).get(label)

    def states(self, name: str) -> Mapping[int, VersionState]:
        """Return the states of a model's versions; empty if the model does not exist."""
        return self._models.get(name, _NONE)

    def find(self, spec: ModelSpec) -> Servable:
        """Return the servable that ``spec`` selects: the given version, the labeled version, or the latest version.

        Raises:
            RequestError: `request.model-spec`: The name is empty, or the label does not exist.
            RequestError: `request.servable-not-found`: The version is not available.
        """
        name = spec.name
        if not name:
            raise RequestCode.MODEL_SPEC.error("ModelSpec has no name specified.")
        choice = spec.WhichOneof("version_choice")
        if choice is None:
            servable = self._latest.get(name)
            if servable is None:
                raise RequestCode.SERVABLE_NOT_FOUND.error(f"Servable not found for request: Latest({name})")
            return servable
        if choice == "version":
            version = spec.version.value
        else:
            labelled = self.label(name, spec.version_label)
            if labelled is None:
                raise RequestCode.MODEL_SPEC.error(f"Unrecognized servable version label: {spec.version_label}")
            version = labelled
        entry = self.states(name).get(version)
        if entry is None or entry.servable is None:
            raise RequestCode.SERVABLE_NOT_FOUND.error(f"Servable not found for request: Specific({name}, {version})")
        return entry.servable

    def take_used(self) -> ServedVersion | None:
        """Return the version that this thread used last since the previous call, or None. It may be unloaded now."""
        version: ServedVersion | None = getattr(self._used, "version", None)
        self._used.version = None
        return version

    @contextmanager
    def use(self, spec: ModelSpec) -> Iterator[Servable]:
        """Yield the servable that ``spec`` selects. It stays loaded until the end of the block.

        Raises:
            RequestError: See `find`.
        """
        servable = self.find(spec)
        while not servable.users.enter():  # it was retired a moment ago, so look again for a newer servable
            servable = self.find(spec)
        self._used.version = servable.served_version
        try:
            yield servable
        finally:
            servable.users.leave()
