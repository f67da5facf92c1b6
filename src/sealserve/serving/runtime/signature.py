"""A signature of a loaded model: its named input and output tensors, and calls of the signature."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from sealserve.serving.runtime.data_types import is_known, type_name, value_type
from sealserve.serving.runtime.libtensorflow import Endpoint, TensorFlowError
from sealserve.serving.runtime.protos import SignatureDef, TensorInfo
from sealserve.serving.runtime.session import DeclaredShape, Runnable, Session, declared_shape
from sealserve.serving.runtime.tensors import Tensor

MOST_SELECTIONS: Final = 64
"""Maximum number of output selections that are computed separately. TensorFlow keeps an executor for each forever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTensor:
    """An input of a signature.

    Args:
        tensor_name: The tensor's name in the graph.
        endpoint: The endpoint to feed.
        dtype: Its data type.
        shape: The size of each dimension, with None for any size. None instead of a tuple means any rank.
        default: The serialized TensorProto that is used if a request omits the input; None if it is required.
        tolerant: Whether other shapes are accepted too.
    """

    tensor_name: str
    endpoint: Endpoint
    dtype: int
    shape: DeclaredShape
    default: bytes | None
    tolerant: bool = False

    def accepts(self, shape: Sequence[int]) -> bool:
        """Return whether a tensor of ``shape`` is accepted."""
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
    """A signature whose tensors exist in the graph.

    Args:
        name: Its name.
        inputs: The inputs by alias, sorted by alias.
        outputs: The outputs by alias, sorted by alias.
    """

    name: str
    inputs: Mapping[str, InputTensor]
    outputs: Mapping[str, Endpoint]
    _selections: set[tuple[str, ...]] = field(default_factory=set, compare=False, repr=False)

    @classmethod
    def bind(cls, name: str, definition: SignatureDef, session: Session) -> "Self | Obstacle":
        """Return the signature, or the reason why it cannot be called.

        A signature cannot be called in three cases. It has sparse or composite tensors, or resources. The graph lacks
        one of its tensors (a SavedModel's initializer is an operation without outputs). TensorFlow cannot stop its
        runs.
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
        """Run the signature and return the tensors of the aliases in ``outputs``.

        Args:
            session: The model.
            values: A tensor for each input.
            outputs: Aliases of outputs.
            timeout: Maximum seconds for the run; None for the session's limit.

        Raises:
            TensorFlowError: TensorFlow rejected the inputs, failed or timed out.
        """
        feeds = [(self.inputs[alias].endpoint, tensor) for alias, tensor in values.items()]
        fetched = self._fetched(outputs)
        results = session.run(feeds, [self.outputs[alias] for alias in fetched], timeout=timeout)
        found = dict(zip(fetched, results, strict=True))
        return {alias: found[alias] for alias in outputs}

    def _fetched(self, outputs: Sequence[str]) -> tuple[str, ...]:
        """Return the outputs to compute for ``outputs``: in a fixed order, or all if many other selections exist."""
        if len(outputs) == len(self.outputs):
            return tuple(self.outputs)
        wanted = set(outputs)
        selection = tuple(alias for alias in self.outputs if alias in wanted)
        if len(self._selections) < MOST_SELECTIONS:
            self._selections.add(selection)  # concurrent threads may exceed the maximum slightly
        return selection if selection in self._selections else tuple(self.outputs)


def _obstacle(info: TensorInfo, session: Session) -> str | None:
    """Return a description of a tensor that cannot be sent or received, or None if it can."""
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
