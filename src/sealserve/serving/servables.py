"""What is served: models by name, their versions and states, and the one that a request means.

Source: tensorflow/serving, ``core/servable_state.h`` (states), ``core/basic_manager.cc`` and
``model_servers/server_core.cc`` (how a request finds its servable, and the messages when it does not).
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType

from sealserve.serving.metrics import Metrics
from sealserve.serving.request_errors import RequestCode, Status
from sealserve.serving.runtime.protos import ModelSpec, SignatureDef
from sealserve.serving.runtime.session import Runnable
from sealserve.serving.runtime.signature import Signature


class State(IntEnum):
    """Where a version stands, as ``ModelVersionStatus.State`` numbers it."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


class Users:
    """How many requests use a servable right now, so that it is freed after the last one."""

    __slots__ = ("_condition", "_count", "_retired")

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0
        self._retired = False

    def enter(self) -> bool:
        """Begin a use; False where the servable is going."""
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
        """Let nobody in any more, and wait until the last one left."""
        with self._condition:
            self._retired = True
            self._condition.wait_for(lambda: not self._count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Servable:
    """One version of a model, loaded.

    Args:
        name: The model's name.
        version: The version.
        session: The model in TensorFlow.
        definitions: Its signatures as the meta graph has them.
        signatures: Those of them that can be called.
        obstacles: Why each of the others cannot be called.
        check_method_names: Whether Classify and Regress insist on the signature's method name.
        users: The requests that use it.
        metrics: Where its runs are counted.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What went wrong with a version, as ``StatusProto`` carries it.

    Args:
        status: The canonical code.
        message: The reason. Whoever may ask for the state reads it.
    """

    status: Status = Status.OK
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionState:
    """Where a version stands.

    Args:
        state: Its state.
        health: What went wrong with it.
        servable: The model, while it is available.
    """

    state: State
    health: Health = Health()
    servable: Servable | None = None


_NONE: Mapping[int, VersionState] = MappingProxyType({})


class Servables:
    """All models. It is read by many threads; a change replaces a whole model's entry.

    Args:
        metrics: Where requests for the models are counted; by default metrics that nobody reads.
    """

    def __init__(self, metrics: Metrics | None = None) -> None:
        self.metrics = Metrics() if metrics is None else metrics
        self._models: dict[str, Mapping[int, VersionState]] = {}
        self._latest: dict[str, Servable] = {}
        self._labels: Mapping[str, Mapping[str, int]] = {}
        self._writing = threading.Lock()

    def publish(self, servable: Servable) -> None:
        """Make a loaded version available to requests."""
        self.set_state(servable.name, servable.version, VersionState(state=State.AVAILABLE, servable=servable))

    def set_state(self, name: str, version: int, state: VersionState) -> None:
        """Say where a version stands from now on."""
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
        """Replace the labels of all models: versions by label, by model."""
        self._labels = labels

    def label(self, name: str, label: str) -> int | None:
        """Return the version that a label of a model means, or None where there is no such label."""
        return self._labels.get(name, {}).get(label)

    def states(self, name: str) -> Mapping[int, VersionState]:
        """Return the versions of a model and where they stand; empty where there is no such model."""
        return self._models.get(name, _NONE)

    def find(self, spec: ModelSpec) -> Servable:
        """Return the servable that ``spec`` means: the given version, the labelled one, or the latest one.

        Raises:
            RequestError: `request.model-spec`: It has no name, or a label that no version has.
            RequestError: `request.servable-not-found`: No such version is available.
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

    @contextmanager
    def use(self, spec: ModelSpec) -> Iterator[Servable]:
        """Lend the servable that ``spec`` means: it stays loaded until the end of the block.

        Raises:
            RequestError: As `find`.
        """
        servable = self.find(spec)
        while not servable.users.enter():  # it left the table a moment ago: another one may have come
            servable = self.find(spec)
        try:
            yield servable
        finally:
            servable.users.leave()
