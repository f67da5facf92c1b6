"""The demo's model, loaded by TensorFlow in this process."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sealserve.cli.generated_input import WORDS, Arrays, Guess
from sealserve.client.credentials import printable
from sealserve.client.examples import Values
from sealserve.client.predict import Signature, TensorSpec
from sealserve.errors import InputError
from sealserve.model.example_features import Feature, known_words, parsed_features
from sealserve.model.saved_model import MetaGraph, describe
from sealserve.serving_interface import DEFAULT_SIGNATURE


class ModelFailsError(InputError):
    """TensorFlow cannot load the model, or cannot run it on the inputs."""

    code = "demo.model-fails"


class LocalModel:
    """A SavedModel in a TensorFlow session of this process, loaded as a model server loads it.

    Attributes:
        name: Name of the signature that is called: the default signature, else a signature that has inputs.
        signature: Inputs and outputs of this signature.
    """

    def __init__(self, tf: Any, session: Any, meta: Any, graph: MetaGraph) -> None:
        self._tf, self._session, self._graph = tf, session, meta.graph_def
        usable = [item for item in graph.signatures if item.outputs]
        usable.sort(key=lambda item: (item.name != DEFAULT_SIGNATURE, not item.inputs))
        if not usable:
            raise ModelFailsError(
                "The model cannot be called: expected a signature with at least one output, got none.",
                hint="Export the model with a signature such as serving_default.",
            )
        chosen = usable[0]
        self.name = chosen.name
        definition = meta.signature_def[chosen.name]
        self._feeds = {alias: info.name for alias, info in definition.inputs.items()}
        self._fetches = {alias: info.name for alias, info in sorted(definition.outputs.items())}
        self.signature = Signature(
            method=chosen.method,
            inputs={item.name: TensorSpec(item.dtype, item.shape) for item in chosen.inputs},
            outputs={item.name: TensorSpec(item.dtype, item.shape) for item in chosen.outputs},
        )

    @classmethod
    @contextlib.contextmanager
    def load(cls, tf: Any, folder: Path) -> Iterator[Self]:
        """Load a SavedModel, and close its session when the context ends.

        Args:
            tf: The module ``tensorflow``.
            folder: The SavedModel.

        Raises:
            ModelFailsError: TensorFlow cannot load it.
        """
        graph = describe(folder).serving_graph
        config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
        with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
            with _failing(tf, "TensorFlow cannot load the model"):
                meta = tf.compat.v1.saved_model.loader.load(session, list(graph.tags), str(folder))
            yield cls(tf, session, meta, graph)

    def call(self, arrays: Arrays) -> Arrays:
        """Run the signature on inputs, and return its outputs by name.

        Raises:
            ModelFailsError: TensorFlow cannot compute them.
        """
        feeds = {self._feeds[name]: value for name, value in arrays.items()}
        with _failing(self._tf, f"TensorFlow cannot run the signature {printable(self.name)!r} on these inputs"):
            outputs = self._session.run(self._fetches, feeds)
        return {name: _plain(value) for name, value in outputs.items()}

    def first_guess(self, folder: Path) -> Guess:
        """Return a guess of valid inputs from the model's graph: its vocabulary, and the features that it parses."""
        words = tuple(known_words(self._graph, folder, self._tf))
        features = {name: _maker(item, words) for name, item in parsed_features(self._graph, self._tf).items()}
        return Guess(words=words or WORDS, features=features)


@contextlib.contextmanager
def _failing(tf: Any, what: str) -> Iterator[None]:
    try:
        yield
    except (tf.errors.OpError, ValueError, TypeError, RuntimeError, OSError, KeyError) as error:
        kind, text = type(error).__name__, printable(str(getattr(error, "message", error)).rstrip("."))
        raise ModelFailsError(
            f"{what}: {kind}: {text}.", hint="Give inputs that the model accepts: --input NAME=VALUE."
        ) from error


def _maker(feature: Feature, words: Sequence[str]) -> Callable[[np.random.Generator], Values]:
    def make(generator: np.random.Generator) -> Values:
        if feature.dtype == "string":
            known = words or WORDS
            return [known[index].encode() for index in generator.integers(0, len(known), feature.count)]
        if feature.dtype == "int64":
            whole: list[int] = generator.integers(0, 2, feature.count).tolist()
            return whole
        fractions: list[float] = generator.random(feature.count).tolist()
        return fractions

    return make


def _plain(value: Any) -> npt.NDArray[Any]:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array  # clients also receive float32
