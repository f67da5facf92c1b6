"""What is served: models by name, their versions and states, and the one that a request means.

Source: tensorflow/serving, ``core/servable_state.h`` (states), ``core/basic_manager.cc`` and
``model_servers/server_core.cc`` (how a request finds its servable, and the messages when it does not).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from sealserve.serving.protos import ModelSpec, SignatureDef
from sealserve.serving.request_errors import ModelSpecError, RequestError, Status
from sealserve.serving.session import Session
from sealserve.serving.signature import Signature


class ServableNotFoundError(RequestError):
    """There is no such model, or not in that version."""

    code = "request.servable-not-found"
    status = Status.NOT_FOUND


class State(IntEnum):
    """Where a version stands, as ``ModelVersionStatus.State`` numbers it."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Servable:
    """One version of a model, loaded.

    Args:
        name: The model's name.
        version: The version.
        session: The model in TensorFlow.
        definitions: Its signatures as the meta graph has them.
        signatures: Those of them that can be called.
    """

    name: str
    version: int
    session: Session
    definitions: Mapping[str, SignatureDef]
    signatures: Mapping[str, Signature]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionState:
    """Where a version stands.

    Args:
        state: Its state.
        servable: The model, while it is available.
    """

    state: State
    servable: Servable | None = None


class Servables:
    """All models. It is read by many threads; a change replaces a whole model's entry."""

    def __init__(self) -> None:
        self._models: dict[str, Mapping[int, VersionState]] = {}

    def publish(self, servable: Servable) -> None:
        """Make a loaded version available to requests."""
        states = dict(self._models.get(servable.name, {}))
        states[servable.version] = VersionState(state=State.AVAILABLE, servable=servable)
        self._models[servable.name] = states

    def states(self, name: str) -> Mapping[int, VersionState]:
        """Return the versions of a model and where they stand; empty where there is no such model."""
        return self._models.get(name, {})

    def find(self, spec: ModelSpec) -> Servable:
        """Return the servable that ``spec`` means: the given version, or the latest one.

        Raises:
            ModelSpecError: It has no name, or a label that no version has.
            ServableNotFoundError: No such version is available.
        """
        if not spec.name:
            raise ModelSpecError("ModelSpec has no name specified.")
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            raise ModelSpecError(f"Unrecognized servable version label: {spec.version_label}")
        states = self.states(spec.name)
        if choice == "version":
            version = spec.version.value
            servable = states[version].servable if version in states else None
            request = f"Specific({spec.name}, {version})"
        else:
            available = [state.servable for _, state in sorted(states.items()) if state.servable]
            servable = available[-1] if available else None
            request = f"Latest({spec.name})"
        if servable is None:
            raise ServableNotFoundError(f"Servable not found for request: {request}")
        return servable
