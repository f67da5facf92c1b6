"""TensorFlow's own answers, computed in this process, to compare the served ones with."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sealserve.cli.tensor_input import random_array
from sealserve.client.predict import TensorSpec
from sealserve.errors import InputError, VerificationError
from sealserve.model.saved_model import DEFAULT_SIGNATURE, describe
from sealserve.model.tensorflow_import import import_tensorflow

Arrays = Mapping[str, npt.NDArray[Any]]
TOLERANCE = 0.01


class NotComparableError(InputError):
    """The model's answers do not depend on its input enough to tell one from another."""

    code = "demo.not-comparable"


class WrongAnswerError(VerificationError):
    """An answer is not TensorFlow's for that input."""

    code = "demo.wrong-answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Inputs, TensorFlow's answers to them, and how much an answer may differ.

    Args:
        signature: Which signature was called.
        inputs: One mapping for each request; each is different.
        answers: TensorFlow's outputs for each.
        smallest_difference: Between the answers to any two inputs: the largest difference of two elements.
        rate: Requests per second in a plain loop around TensorFlow, in this process.
        threads: How many threads TensorFlow used for one operation.
    """

    signature: str
    inputs: Sequence[Arrays]
    answers: Sequence[Arrays]
    smallest_difference: float
    rate: float
    threads: int

    @property
    def tolerance(self) -> float:
        """The most that a served answer may differ: no other input's answer is so near."""
        return TOLERANCE * self.smallest_difference if math.isfinite(self.smallest_difference) else 0.0

    def check(self, number: int, outputs: Arrays) -> float:
        """Return by how much the answer to request ``number`` differs.

        Raises:
            WrongAnswerError: By more than the tolerance.
        """
        expected = self.answers[number]
        if set(outputs) != set(expected):
            raise WrongAnswerError(f"Request {number} got the outputs {sorted(outputs)}, not {sorted(expected)}.")
        difference = _difference(outputs, expected)
        if not difference <= self.tolerance:
            raise WrongAnswerError(
                f"The answer to request {number} differs from TensorFlow's by {difference:.3g}; "
                f"allowed are {self.tolerance:.3g}."
            )
        return difference


def compute(folder: Path, requests: int) -> Reference:
    """Call TensorFlow once for each request, in this process.

    Args:
        folder: The SavedModel.
        requests: How many different inputs.

    Raises:
        NotComparableError: Two answers are equal, so a wrong one could not be told.
    """
    tf = import_tensorflow()
    signatures = {item.name: item for item in describe(folder).serving_graph.signatures}
    name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else next(iter(signatures))
    specs = {item.name: TensorSpec(item.dtype, item.shape) for item in signatures[name].inputs}
    inputs = [
        {
            key: random_array(spec, np.random.default_rng([number, index]), 1)
            for index, (key, spec) in enumerate(specs.items())
        }
        for number in range(requests)
    ]
    loaded = tf.saved_model.load(str(folder))
    call = loaded.signatures[name]
    call(**{key: tf.constant(value) for key, value in inputs[0].items()})  # the first call is slow
    answers = []
    started = time.perf_counter()
    for arrays in inputs:
        outputs = call(**{key: tf.constant(value) for key, value in arrays.items()})
        answers.append({key: value.numpy() for key, value in outputs.items()})
    seconds = time.perf_counter() - started
    smallest = min(_difference(answers[left], answers[right]) for right in range(requests) for left in range(right))
    if not smallest > 0:
        raise NotComparableError(
            "Two different inputs have the same answer, so a wrong answer could not be told from a right one.",
            hint="Give a model whose outputs depend on its inputs.",
        )
    threads = tf.config.threading.get_intra_op_parallelism_threads() or _processors()
    return Reference(
        signature=name, inputs=inputs, answers=answers, smallest_difference=smallest, rate=requests / seconds,
        threads=threads,
    )  # fmt: skip


def _difference(left: Arrays, right: Arrays) -> float:
    return max(_distance(left[name], right[name]) for name in right)


def _distance(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> float:
    """Return the largest difference of two elements; infinite where there is no number to tell it by."""
    if left.shape != right.shape:
        return math.inf
    if left.dtype.kind not in "fiubc":  # texts are equal or not
        return 0.0 if np.array_equal(left, right) else math.inf
    wide = np.complex128 if left.dtype.kind == "c" else np.float64
    one, other = left.astype(wide), right.astype(wide)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        differences = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, np.abs(one - other))
    return math.inf if np.isnan(differences).any() else float(np.max(differences, initial=0.0))


def _processors() -> int:
    return len(os.sched_getaffinity(0))
