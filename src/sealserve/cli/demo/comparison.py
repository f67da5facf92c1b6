"""TensorFlow's own answers, computed in this process, to compare the served ones with."""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sealserve.cli.codes import CliCode
from sealserve.cli.demo.local_model import LocalModel, ModelFailsError
from sealserve.cli.generated_input import Arrays, Guess, first_accepted, guesses
from sealserve.cli.tensor_input import read_inputs
from sealserve.client.credentials import printable
from sealserve.client.predict import Signature
from sealserve.model.tensorflow_import import import_tensorflow

TOLERANCE: Final = 0.01
_REPEATED: Final = 10
"""How many requests are computed a second time, to see which outputs change from call to call.

If an output changes in rarer cases only, a served answer that differs is reported as wrong: the check is stricter then.
"""
_ROUNDING: Final = {2: 1e-2, 4: 1e-5, 8: 1e-9, 16: 1e-9}
"""How much two computations of a number may differ in relation to the largest one, by the size of a number in bytes."""
_DISCRETE: Final = "iubOSU"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Inputs, TensorFlow's answers to them, and how much an answer may differ.

    Args:
        signature: Which signature was called.
        inputs: One mapping for each request; each is different if the inputs are generated.
        answers: TensorFlow's outputs for each.
        smallest_difference: Between any two different answers: the largest difference of two fractional numbers.
            Infinite if there are none.
        rate: Requests per second in a plain loop around TensorFlow, in this process.
        threads: How many threads TensorFlow used for one operation.
        rounding: By how much two computations of the same answer may differ.
        changing: The outputs that are not the same in two calls with the same input: the model is random, or has a
            state. Their values are not compared.
        distinct: How many answers are different from all others.
    """

    signature: str
    inputs: Sequence[Arrays]
    answers: Sequence[Arrays]
    smallest_difference: float
    rate: float
    threads: int
    rounding: float = 0.0
    changing: frozenset[str] = frozenset()
    distinct: int | None = None

    @property
    def tolerance(self) -> float:
        """The most that a fractional number of a served answer may differ: no other answer is so near."""
        usual = TOLERANCE * self.smallest_difference if math.isfinite(self.smallest_difference) else 0.0
        return max(usual, self.rounding)

    @property
    def exact(self) -> Sequence[str]:
        """The outputs that must be equal: whole numbers, truth values and strings."""
        return [name for name, value in self.answers[0].items() if name not in self.changing and _is_discrete(value)]

    @property
    def near(self) -> Sequence[str]:
        """The outputs that may differ by `tolerance`."""
        return [name for name in self.answers[0] if name not in (*self.changing, *self.exact)]

    def check(self, number: int, outputs: Arrays) -> float:
        """Return by how much the answer to request ``number`` differs.

        Raises:
            VerificationError: `demo.wrong-answer`: By more than the tolerance, or the answer has other outputs or
                types.
        """
        expected = self.answers[number]
        if set(outputs) != set(expected):
            raise CliCode.DEMO_WRONG_ANSWER.error(
                f"Request {number} got the outputs {sorted(outputs)}, not {sorted(expected)}."
            )
        largest = 0.0
        for name, value in expected.items():
            if name in self.changing:
                if outputs[name].dtype != value.dtype:
                    raise CliCode.DEMO_WRONG_ANSWER.error(
                        f"The answer to request {number} has {outputs[name].dtype} in {printable(name)}; "
                        f"TensorFlow's has {value.dtype}."
                    )
                continue
            difference = _distance(outputs[name], value)
            allowed = 0.0 if _is_discrete(value) else self.tolerance
            if not difference <= allowed:
                raise CliCode.DEMO_WRONG_ANSWER.error(
                    f"The answer to request {number} differs from TensorFlow's by {difference:.3g}; "
                    f"allowed are {allowed:.3g}."
                )
            largest = max(largest, difference)
        return largest

    def limits(self) -> list[str]:
        """Return, as sentences, how answers are compared, and what the comparison does not show."""
        lines = []
        if self.near and math.isfinite(self.smallest_difference):
            lines.append(
                f"answers to different inputs differ by at least {self.smallest_difference:.3g}; "
                f"a served answer may differ by {self.tolerance:.3g}"
            )
        if self.exact:
            lines.append(f"compared exactly: {printable(', '.join(self.exact))} (whole numbers or strings)")
        if self.changing:
            lines.append(
                f"not comparable: {printable(', '.join(sorted(self.changing)))}, which changes from call to call (the "
                "model is random, or has a state); only its type is checked"
            )
        if (self.near or self.exact) and self.distinct is not None and self.distinct < len(self.answers):
            lines.append(
                "all answers are the same, so that a mix-up of two requests would not be noticed"
                if self.distinct == 1
                else f"{self.distinct} different answers to {len(self.answers)} requests"
            )
        return lines

    def verdict(self, checked: int, largest: float) -> str:
        """Return, as a sentence, what comparing ``checked`` answers showed; ``largest`` is the largest difference."""
        of = f"{checked} of {len(self.answers)}"
        if not (self.near or self.exact):
            return (
                f"{of} have TensorFlow's outputs and types; their values change from call to call and are not compared"
            )
        if not self.near:
            return f"{of} equal TensorFlow's own exactly"
        return f"{of} equal TensorFlow's own: they differ by {largest:.2g} at most, {self.tolerance:.2g} was allowed"


def compute(folder: Path, requests: int, given: Sequence[str] = ()) -> Reference:
    """Call TensorFlow for each request, in this process, and for some again, to see which outputs change.

    Args:
        folder: The SavedModel.
        requests: How many requests there are.
        given: Inputs in place of generated ones, ``NAME=VALUE`` each. The rows of given inputs rotate from request to
            request, if the model takes any number of rows.

    Raises:
        InputError: `demo.not-comparable`: All answers are equal, so a wrong one could not be told.
        ModelFailsError: TensorFlow cannot load the model, or cannot run it on these inputs.
        TensorInputError: A given input does not fit.
    """
    tf = import_tensorflow()
    with LocalModel.load(tf, folder) as model:
        signature = model.signature
        read = read_inputs(given, signature)
        generated = read.generated

        def prepare(guess: Guess) -> Sequence[Arrays]:
            inputs = [
                _turned(read.complete(batch=1, seed=number, guess=guess), signature, generated, number)
                for number in range(requests)
            ]
            model.call(inputs[0])  # it shows whether the guess fits; and the first call is slow
            return inputs

        possible = guesses(signature, model.first_guess(folder)) if generated else [Guess()]
        inputs = first_accepted(possible, prepare, (ModelFailsError,))
        started = time.perf_counter()
        answers = [model.call(arrays) for arrays in inputs]
        seconds = time.perf_counter() - started
        again = [model.call(arrays) for arrays in inputs[:_REPEATED]]
    changing = frozenset(
        name
        for name in answers[0]
        if any(
            not _distance(one[name], two[name]) <= _allowed(one[name]) for one, two in zip(answers, again, strict=False)
        )
    )
    compared = [{name: value for name, value in answer.items() if name not in changing} for answer in answers]
    fractional = [{name: value for name, value in answer.items() if not _is_discrete(value)} for answer in compared]
    rounding = max((_allowed(value) for answer in fractional for value in answer.values()), default=0.0)
    distinct, smallest = _differences(compared, fractional, rounding)
    textual = any(signature.inputs[name].dtype == "string" for name in generated)
    if distinct == 1 and requests > 1 and any(fractional) and generated and not textual:
        raise CliCode.DEMO_NOT_COMPARABLE.error(
            "Two different inputs have the same answer, so a wrong answer could not be told from a right one.",
            hint="Give a model whose outputs depend on its inputs, or other inputs with --input.",
        )
    threads = tf.config.threading.get_intra_op_parallelism_threads() or _processors()
    return Reference(
        signature=model.name, inputs=inputs, answers=answers, smallest_difference=smallest, rate=requests / seconds,
        threads=threads, rounding=rounding, changing=changing, distinct=distinct,
    )  # fmt: skip


def _turned(arrays: Arrays, signature: Signature, generated: Sequence[str], number: int) -> Arrays:
    """Return given inputs with their rows in another order for each request."""
    given = {name: value for name, value in arrays.items() if name not in generated}
    for name in given:
        shape = signature.inputs[name].shape
        if shape is None or not shape or shape[0] is not None:
            return arrays
    return {name: np.roll(value, -number, axis=0) if name in given else value for name, value in arrays.items()}


def _differences(answers: Sequence[Arrays], fractional: Sequence[Arrays], rounding: float) -> tuple[int, float]:
    """Return how many different answers there are, and the smallest difference between two that are different."""
    distinct: list[int] = []
    smallest = math.inf
    for right, answer in enumerate(answers):
        same = False
        for left in range(right):
            if all(_distance(answers[left][name], answer[name]) <= (rounding if name in fractional[right] else 0)
                   for name in answer):  # fmt: skip
                same = True
            elif (difference := _difference(fractional[left], fractional[right])) > rounding:
                smallest = min(smallest, difference)
        if not same:
            distinct.append(right)
    return len(distinct), smallest


def _difference(left: Arrays, right: Arrays) -> float:
    return max((_distance(left[name], right[name]) for name in right), default=0.0)


def _distance(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> float:
    """Return the largest difference of two elements; infinite where there is no number to tell it by."""
    if left.shape != right.shape:
        return math.inf
    if left.dtype.kind not in "fiubc" or right.dtype.kind not in "fiubc":  # texts are equal or not
        return 0.0 if np.array_equal(left, right) else math.inf
    whole = left.dtype.kind in "iub" and right.dtype.kind in "iub"
    if whole and np.array_equal(left, right):
        return 0.0
    wide = np.complex128 if left.dtype.kind == "c" else np.float64
    one, other = left.astype(wide), right.astype(wide)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        differences = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, np.abs(one - other))
    if np.isnan(differences).any():
        return math.inf
    return float(np.max(differences, initial=1.0 if whole else 0.0))  # numbers of 64 bits may look equal as floats


def _is_discrete(value: npt.NDArray[Any]) -> bool:
    return value.dtype.kind in _DISCRETE


def _allowed(value: npt.NDArray[Any]) -> float:
    """Return by how much two computations of an output may differ."""
    if _is_discrete(value) or not value.size:
        return 0.0
    sizes = np.abs(value)
    finite = sizes[np.isfinite(sizes)]
    part = value.dtype.itemsize // 2 if value.dtype.kind == "c" else value.dtype.itemsize
    return float(_ROUNDING[part] * np.max(finite, initial=0.0))


def _processors() -> int:
    return len(os.sched_getaffinity(0))
