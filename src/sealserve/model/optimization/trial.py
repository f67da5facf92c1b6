"""Runs the original and the optimized model on the same inputs, and compares the outputs."""

import base64
import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sealserve.model.optimization.agreement import Agreement, Comparison, IncomparableError
from sealserve.model.optimization.given_inputs import misfit
from sealserve.model.optimization.order import FailedError, Failure, Order
from sealserve.model.tensorflow_import import import_tensorflow
from sealserve.serving_interface import INTERNAL_SIGNATURES

Array = npt.NDArray[Any]
_PICTURE: Final = 224
_OPEN: Final = 16
_PICTURE_RANK: Final = 4
_CHANNELS: Final = (1, 3, 4)
_LONGEST_TEXT: Final = 500
_MOST_BYTES: Final = 2**31


class _NoInputError(Exception):
    """An input has no value. The text is the reason."""


class _RejectedError(Exception):
    """The original model fails with these inputs. The text is TensorFlow's reason."""


def compare(order: Order) -> tuple[dict[str, dict[str, Agreement]], dict[str, str]]:
    """Run each signature of both models, and return the agreement of each output, and the signatures without inputs.

    Raises:
        FailedError: No signature could be compared, two outputs cannot be compared, an output had no values, or the
            original rejects given inputs.
        Exception: Any exception of TensorFlow.
    """
    given = _given(order)
    found: dict[str, dict[str, Agreement]] = {}
    skipped: dict[str, str] = {}
    with _loaded(order.folder, order.tags) as original, _loaded(order.destination, ["serve"]) as optimized:
        for name, signature in sorted(original.signatures.items()):
            if name in INTERNAL_SIGNATURES or not signature.outputs:
                continue
            try:
                feeds = _feeds(signature, given, order)
                found[name] = _compared(name, feeds, original, optimized, order.batch)
            except _NoInputError as error:
                skipped[name] = str(error)
            except _RejectedError as error:
                if named := sorted(given.keys() & signature.inputs.keys()):
                    text = f"{name!r} of the original model rejects them ({', '.join(map(repr, named))}): {error}"
                    raise FailedError(Failure.INPUTS, text) from error
                skipped[name] = f"the original model rejects generated inputs: {error}"
    if not found:
        reasons = "; ".join(f"{name!r}: {reason}" for name, reason in skipped.items())
        raise FailedError(Failure.UNPROVEN, reasons or "it has no signature with outputs")
    return found, skipped


def _compared(
    name: str, feeds: Mapping[str, Array], original: "_Model", optimized: "_Model", batch: int
) -> dict[str, Agreement]:
    """Run a signature of both models, and return the agreement of each output."""
    signature = original.signatures[name]
    comparisons = {key: Comparison() for key in sorted(signature.outputs)}
    for values in _batches(feeds, signature, batch):
        try:
            before = original.run(name, values)
        except import_tensorflow().errors.OpError as error:
            raise _RejectedError(first_line(error)) from error
        after = optimized.run(name, values)
        for key, comparison in comparisons.items():
            try:
                comparison.add(before[key], after[key])
            except IncomparableError as error:
                raise FailedError(Failure.UNPROVEN, f"the output {key!r} of {name!r}: {error}") from error
    if empty := [key for key, comparison in comparisons.items() if not comparison.values]:
        raise FailedError(Failure.UNPROVEN, f"the output {empty[0]!r} of {name!r} has no values for these inputs")
    return {key: comparison.result() for key, comparison in comparisons.items()}


def first_line(error: Exception) -> str:
    """Return the first line of an exception's text. It is cut, because a model can choose it."""
    return str(error).strip().partition("\n")[0][:_LONGEST_TEXT]


class _Model:
    """A model in a session of TensorFlow."""

    def __init__(self, session: Any, signatures: Mapping[str, Any]) -> None:
        self._session = session
        self.signatures = signatures

    def run(self, name: str, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return a signature's outputs as arrays."""
        signature = self.signatures[name]
        feeds = {signature.inputs[key].name: value for key, value in values.items()}
        fetches = {key: info.name for key, info in signature.outputs.items()}
        results: dict[str, Any] = self._session.run(fetches, feeds)
        return {key: np.asarray(value) for key, value in results.items()}


@contextlib.contextmanager
def _loaded(folder: str, tags: list[str]) -> Iterator[_Model]:
    tf = import_tensorflow()
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        loaded = tf.compat.v1.saved_model.loader.load(session, tags, folder)
        yield _Model(session, loaded.signature_def)


def _given(order: Order) -> dict[str, Array]:
    found: dict[str, Array] = {}
    if order.numbers is not None:
        with np.load(order.numbers, allow_pickle=False) as stored:
            found.update(stored)
    for name, text in order.strings.items():
        values = np.empty(len(text["values"]), object)
        values[:] = [base64.b64decode(value) for value in text["values"]]
        found[name] = values.reshape(text["shape"])
    return found


def _feeds(signature: Any, given: Mapping[str, Array], order: Order) -> dict[str, Array]:
    """Return a value for each input of a signature. Generated inputs have as many rows as the given inputs."""
    rows = [len(given[key]) for key, info in sorted(signature.inputs.items()) if key in given and _has_open_rows(info)]
    return {
        key: _values(key, info, given, order.seed, rows[0] if rows else order.rows)
        for key, info in sorted(signature.inputs.items())
    }


def _values(name: str, info: Any, given: Mapping[str, Array], seed: int, rows: int) -> Array:
    """Return the given values of an input, or generated values."""
    tf = import_tensorflow()
    if info.WhichOneof("encoding") != "name":
        raise _NoInputError(f"the input {name!r} is not a dense tensor")
    dtype, form = tf.dtypes.as_dtype(info.dtype), info.tensor_shape
    if name in given:
        values = given[name]
        sizes = None if form.unknown_rank else [None if size.size < 0 else size.size for size in form.dim]
        if (reason := misfit(values, dtype.name, sizes)) is not None:
            raise _NoInputError(f"the value for the input {name!r} does not fit: {reason}")
        return values.view(dtype.as_numpy_dtype) if dtype == tf.bfloat16 else values
    if dtype == tf.string:
        raise _NoInputError(f"the input {name!r} is text and needs a value")
    if form.unknown_rank or not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
        raise _NoInputError(f"the input {name!r} needs a value, because its type or shape is open")
    shape = _shape([dimension.size for dimension in form.dim], rows)
    if math.prod(shape) * dtype.size > _MOST_BYTES:
        raise _NoInputError(f"the input {name!r} would have {math.prod(shape) * dtype.size} bytes")
    generator = np.random.default_rng([seed, *name.encode()])
    values = generator.random(shape) if dtype.is_floating else generator.integers(0, 2, shape)
    return np.asarray(values.astype(dtype.as_numpy_dtype))


def _shape(sizes: list[int], rows: int) -> list[int]:
    """Return the sizes of a generated input. Open sizes are the number of rows, a usual size of pictures, or 16."""
    picture = len(sizes) == _PICTURE_RANK and (sizes[-1] in _CHANNELS or sizes[1] in _CHANNELS)
    rest = [size if size >= 0 else _PICTURE if picture else _OPEN for size in sizes[1:]]
    return [rows if size < 0 else size for size in sizes[:1]] + rest


def _has_open_rows(info: Any) -> bool:
    """Return whether the model leaves the number of rows of an input open."""
    form = info.tensor_shape
    return form.unknown_rank or (bool(form.dim) and form.dim[0].size < 0)


def _batches(feeds: Mapping[str, Array], signature: Any, batch: int) -> Iterator[dict[str, Array]]:
    """Yield the inputs in batches if each input has the same number of rows, and the model accepts any number."""
    rows = {value.shape[0] if value.ndim else -1 for value in feeds.values()}
    if len(rows) != 1 or not all(map(_has_open_rows, signature.inputs.values())):
        yield dict(feeds)
        return
    (count,) = rows
    for start in range(0, max(count, 1), batch):
        yield {key: value[start : start + batch] for key, value in feeds.items()}
