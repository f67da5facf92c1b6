"""A signature of a loaded model: the named tensors that go in and come out, and calls of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from sealserve.serving.runtime.data_types import is_known, type_name, value_type
from sealserve.serving.runtime.libtensorflow import Endpoint, TensorFlowError
from sealserve.serving.runtime.protos import SignatureDef, TensorInfo
from sealserve.serving.runtime.session import DeclaredShape, Runnable, Session, declared_shape
from sealserve.serving.runtime.tensors import Tensor

MOST_SELECTIONS: Final = 64
"""Selections of a signature's outputs that are computed alone. For each, TensorFlow keeps an executor for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTensor:
    """One input of a signature.

    Args:
        tensor_name: The tensor's name in the graph.
        endpoint: Where it is put in.
        dtype: Its data type.
        shape: The size of each dimension, None where any will do; None as a whole where the rank is open.
        default: The serialised TensorProto to take when a request leaves it out, or None where it may not.
        tolerant: Whether any other shape may be tried.
    """

    tensor_name: str
    endpoint: Endpoint
    dtype: int
    shape: DeclaredShape
    default: bytes | None
    tolerant: bool = False

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of ``shape`` may be put in."""
        if self.shape is None or self.tolerant:
            return True
        return len(shape) == len(self.shape) and all(
            expected in (None, size) for expected, size in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a signature cannot be called.

    Args:
        reason: The end of a sentence that begins with "The signature cannot be called:".
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature whose tensors were found in the graph.

    Args:
        name: Its name.
        inputs: By alias, in the aliases' order.
        outputs: By alias, in the aliases' order.
    """

    name: str
    inputs: Mapping[str, InputTensor]
    outputs: Mapping[str, Endpoint]
    _selections: set[tuple[str, ...]] = field(default_factory=set, compare=False, repr=False)

    @classmethod
    def bind(cls, name: str, definition: SignatureDef, session: Session) -> "Self | Obstacle":
        """Return the signature, or why it cannot be called.

        A signature cannot be called if it has sparse or composite tensors, or resources, if the graph lacks one of its
        tensors (a SavedModel's initialiser is an operation without outputs), or if TensorFlow could not stop its runs.
        """
        if name in session.unstoppable:
            return Obstacle(f"its operation {session.unstoppable[name]} cannot be stopped at a deadline")
        for kind, infos in (("input", definition.inputs), ("output", definition.outputs)):
            for alias, info in sorted(infos.items()):
                if obstacle := _obstacle(info, session):
                    return Obstacle(f"its {kind} {alias!r} is {obstacle}")
        defaults = definition.defaults
        inputs = {
            alias: InputTensor(
                tensor_name=info.name,
                endpoint=session.endpoint(info.name),
                dtype=value_type(info.dtype),
                shape=declared_shape(info),
                default=defaults[alias].SerializeToString() if alias in defaults else None,
                tolerant=name in session.tolerant,
            )
            for alias, info in sorted(definition.inputs.items())
        }
        outputs = {alias: session.output(name, info.name) for alias, info in sorted(definition.outputs.items())}
        return cls(name=name, inputs=inputs, outputs=outputs)

    def run(
        self, session: Runnable, values: Mapping[str, Tensor], outputs: Sequence[str], *, timeout: float | None
    ) -> dict[str, Tensor]:
        """Return the tensors of the aliases in ``outputs``.

        Args:
            session: The model.
            values: A tensor for each input.
            outputs: Aliases of outputs.
            timeout: Seconds that it may take; None for any.

        Raises:
            TensorFlowError: TensorFlow refused the inputs, failed or gave up.
        """
        feeds = [(self.inputs[alias].endpoint, tensor) for alias, tensor in values.items()]
        fetched = self._fetched(outputs)
        results = session.run(feeds, [self.outputs[alias] for alias in fetched], timeout=timeout)
        found = dict(zip(fetched, results, strict=True))
        return {alias: found[alias] for alias in outputs}

    def _fetched(self, outputs: Sequence[str]) -> tuple[str, ...]:
        """Return the outputs to compute for ``outputs``: those, in one order, or all after many other selections."""
        if len(outputs) == len(self.outputs):
            return tuple(self.outputs)
        wanted = set(outputs)
        selection = tuple(alias for alias in self.outputs if alias in wanted)
        if len(self._selections) < MOST_SELECTIONS:
            self._selections.add(selection)  # threads that add at the same moment exceed the number by a few
        return selection if selection in self._selections else tuple(self.outputs)


def _obstacle(info: TensorInfo, session: Session) -> str | None:
    """Return what a tensor is that cannot be sent or received, or None."""
    encoding = info.WhichOneof("encoding")
    if encoding in {"coo_sparse", "composite_tensor"}:
        return f"a {'sparse' if encoding == 'coo_sparse' else 'composite'} tensor"
    if not is_known(value_type(info.dtype)):
        return f"a tensor of the type {type_name(info.dtype)}"
    try:
        session.endpoint(info.name)
    except TensorFlowError:
        return f"the tensor {info.name!r}, which the graph does not have"
    return None
