"""Reference answers: TensorFlow computes them in this process, and the demo compares the served answers with them."""

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
"""Number of requests that are computed twice, to find the outputs that change from call to call.

An output that changes more rarely is compared like the others. A difference is then reported as a wrong answer, so the
check is stricter in this case.
"""
_ROUNDING: Final = {2: 1e-2, 4: 1e-5, 8: 1e-9, 16: 1e-9}
"""Allowed difference between two computations of a number, relative to the largest number, by the number's size in
bytes."""
_DISCRETE: Final = "iubOSU"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Inputs, TensorFlow's answers to them, and the allowed difference of a served answer.

    Args:
        signature: Name of the signature that was called.
        inputs: The inputs of each request. Generated inputs differ from request to request.
        answers: TensorFlow's outputs for each request.
        smallest_difference: Smallest difference between two different answers. The difference of two answers is the
            largest difference of their fractional numbers. Infinite if no two answers differ in a fractional number.
        rate: Requests per second of TensorFlow in this process, called in a loop.
        threads: Number of threads that TensorFlow used for one operation.
        rounding: Largest difference that is allowed between two computations of the same answer.
        changing: Outputs that differ between two calls with the same input, because the model is random or has a
            state. The values of these outputs are not compared.
        distinct: Number of different answers. None if unknown.
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
        """Largest allowed difference of a fractional number. It is smaller than the distance to any other answer."""
        usual = TOLERANCE * self.smallest_difference if math.isfinite(self.smallest_difference) else 0.0
        return max(usual, self.rounding)

    @property
    def exact(self) -> Sequence[str]:
        """The outputs that must be equal: integers, booleans and strings."""
        return [name for name, value in self.answers[0].items() if name not in self.changing and _is_discrete(value)]

    @property
    def near(self) -> Sequence[str]:
        """The outputs that may differ by `tolerance`."""
        return [name for name in self.answers[0] if name not in (*self.changing, *self.exact)]

    def check(self, number: int, outputs: Arrays) -> float:
        """Return the difference between a served answer and TensorFlow's answer.

        Args:
            number: Number of the request, from 0.
            outputs: The served answer.

        Raises:
            VerificationError: `demo.wrong-answer`: The difference exceeds the tolerance, or the answer has other
                outputs or types.
        """
        expected = self.answers[number]
        if set(outputs) != set(expected):
            raise CliCode.DEMO_WRONG_ANSWER.error(
                f"The answer to request {number} has the wrong outputs: expected {sorted(expected)}, got "
                f"{sorted(outputs)}."
            )
        largest = 0.0
        for name, value in expected.items():
            if name in self.changing:
                if outputs[name].dtype != value.dtype:
                    raise CliCode.DEMO_WRONG_ANSWER.error(
                        f"The answer to request {number} has the wrong type in the output {printable(name)}: expected "
                        f"{value.dtype}, got {outputs[name].dtype}."
                    )
                continue
            difference = _distance(outputs[name], value)
            allowed = 0.0 if _is_discrete(value) else self.tolerance
            if not difference <= allowed:
                raise CliCode.DEMO_WRONG_ANSWER.error(
                    f"The answer to request {number} differs from TensorFlow's answer: expected a difference of at "
                    f"most {allowed:.3g}, got {difference:.3g}."
                )
            largest = max(largest, difference)
        return largest

    def limits(self) -> list[str]:
        """Return sentences that describe how answers are compared, and what the comparison cannot detect."""
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
                "model is random or has a state); only its type is checked"
            )
        if (self.near or self.exact) and self.distinct is not None and self.distinct < len(self.answers):
            lines.append(
                "all answers are the same, so the comparison cannot detect that two answers were interchanged"
                if self.distinct == 1
                else f"{self.distinct} different answers to {len(self.answers)} requests"
            )
        return lines

    def verdict(self, checked: int, largest: float) -> str:
        """Return the result of the comparison as a sentence.

        Args:
            checked: Number of answers that were compared.
            largest: Largest difference that was found.
        """
        of = f"{checked} of {len(self.answers)}"
        if not (self.near or self.exact):
            return (
                f"{of} have TensorFlow's outputs and types; their values change from call to call and are not compared"
            )
        if not self.near:
            return f"{of} equal TensorFlow's own exactly"
        return f"{of} equal TensorFlow's own (largest difference {largest:.2g}, allowed {self.tolerance:.2g})"


def compute(folder: Path, requests: int, given: Sequence[str] = ()) -> Reference:
    """Compute the reference answers with TensorFlow in this process.

    The first requests are computed twice, to find the outputs that change from call to call.

    Args:
        folder: The SavedModel.
        requests: Number of requests.
        given: Inputs as ``NAME=VALUE``; the other inputs are generated. If the model takes any number of rows, the
            rows of given inputs rotate from request to request.

    Raises:
        InputError: `demo.not-comparable`: All answers are equal, so the comparison could not detect a wrong answer.
        ModelFailsError: TensorFlow cannot load the model, or cannot run it on these inputs.
        TensorInputError: A given input does not fit the signature.
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
            model.call(inputs[0])  # fails if the guess does not fit; and the first call is slow, so it is not measured
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
            "The model returns the same answer to different inputs, so the demo cannot tell a wrong answer from a "
            "right answer.",
            hint="Use a model whose outputs depend on its inputs, or give other inputs with --input.",
        )
    threads = tf.config.threading.get_intra_op_parallelism_threads() or _processors()
    return Reference(
        signature=model.name, inputs=inputs, answers=answers, smallest_difference=smallest, rate=requests / seconds,
        threads=threads, rounding=rounding, changing=changing, distinct=distinct,
    )  # fmt: skip


def _turned(arrays: Arrays, signature: Signature, generated: Sequence[str], number: int) -> Arrays:
    """Return the inputs of a request: the rows of given inputs are rotated by the request's number."""
    given = {name: value for name, value in arrays.items() if name not in generated}
    for name in given:
        shape = signature.inputs[name].shape
        if shape is None or not shape or shape[0] is not None:
            return arrays
    return {name: np.roll(value, -number, axis=0) if name in given else value for name, value in arrays.items()}


def _differences(answers: Sequence[Arrays], fractional: Sequence[Arrays], rounding: float) -> tuple[int, float]:
    """Return the number of different answers, and the smallest difference between two different answers."""
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
    """Return the largest difference of two elements. It is infinite if the shapes or the texts differ."""
    if left.shape != right.shape:
        return math.inf
    if left.dtype.kind not in "fiubc" or right.dtype.kind not in "fiubc":  # texts are equal or different
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
    # Different 64-bit integers may be equal as floats: report at least 1 for integers that differ.
    return float(np.max(differences, initial=1.0 if whole else 0.0))


def _is_discrete(value: npt.NDArray[Any]) -> bool:
    return value.dtype.kind in _DISCRETE


def _allowed(value: npt.NDArray[Any]) -> float:
    """Return the allowed difference between two computations of an output."""
    if _is_discrete(value) or not value.size:
        return 0.0
    sizes = np.abs(value)
    finite = sizes[np.isfinite(sizes)]
    part = value.dtype.itemsize // 2 if value.dtype.kind == "c" else value.dtype.itemsize
    return float(_ROUNDING[part] * np.max(finite, initial=0.0))


def _processors() -> int:
    return len(os.sched_getaffinity(0))
