"""Parse inputs from the command line: single inputs, or a complete request.

Single inputs have the form ``NAME=VALUE``:

- ``NAME=@FILE``: an array (``.npy``, ``.npz``) or a value (``.json``). For a string input, any other file is one
  string: ``image_bytes=@photo.jpg``. ``@-`` is standard input.
- ``NAME=JSON``. Bytes that are not text are ``{"b64": "..."}``. A serialized ``tf.Example`` is an object with its
  features: ``NAME=[{"age": 41, "city": "Rome"}]``.
- ``NAME=TEXT`` for a string input, unless the text begins with ``[``, ``{``, ``"`` or ``@``.
- ``NAME=random``.

A complete request is ``{"instances": [...]}`` or ``{"inputs": ...}``, ``@FILE`` with one of these objects, or
``@FILE.npz`` with an array for each input.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sealserve.array_file import NPY, NPZ, read_npy, read_npz
from sealserve.cli.generated_input import Arrays, Guess, TensorInputError, random_array
from sealserve.cli.input_files import STANDARD_INPUT, Source, read_json, read_source
from sealserve.cli.request_body import columns_of
from sealserve.client.credentials import printable
from sealserve.client.examples import bytes_from_json, from_json
from sealserve.client.predict import Signature, TensorSpec
from sealserve.regular_file import InputFileError
from sealserve.serving_interface import DEFAULT_SIGNATURE

RANDOM = "random"
_FILE: Final = "@"
_JSON_BEGINS: Final = ("[", "{", '"')
_UNREADABLE: Final = (InputFileError, OSError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The inputs that the user gave, and the names of the inputs to generate.

    Args:
        signature: The signature that is called.
        arrays: The given inputs.
        generated: Names of the inputs that `complete` generates.
    """

    signature: Signature
    arrays: Arrays
    generated: tuple[str, ...]

    def complete(self, *, batch: int, seed: int, guess: Guess | None = None) -> Arrays:
        """Return the given arrays, and random arrays for the inputs to generate.

        Args:
            batch: Size of the first dimension of generated inputs, if the model leaves it open.
            seed: Random seed of generated inputs.
            guess: Assumptions about everything else that the signature leaves open.

        Raises:
            TensorInputError: No random value can be generated for the type or shape of an input.
        """
        generator = np.random.default_rng(seed)
        made = dict(self.arrays)
        for name in self.generated:
            spec = self.signature.inputs[name]
            made[name] = random_array(spec, generator, batch, name=name, method=self.signature.method, guess=guess)
        return made


def read_inputs(texts: Sequence[str], signature: Signature, *, signature_name: str = DEFAULT_SIGNATURE) -> Given:
    """Read the inputs of a request. Each file, and standard input, is read once.

    Args:
        texts: ``NAME=VALUE`` for each input, or one complete request. If empty, every input is generated. An input with
            a default value can be left out.
        signature: The signature that is called.
        signature_name: Name of this signature. A complete request may contain it.

    Raises:
        TensorInputError: An input is unknown or missing, or a value cannot be read.
    """
    if not texts:
        return Given(signature=signature, arrays={}, generated=tuple(signature.inputs))
    if any(_is_whole(text, signature) for text in texts):
        if len(texts) > 1:
            raise TensorInputError(
                "A complete request was given together with other inputs: expected either.",
                hint="Give only the complete request, or NAME=VALUE for each input.",
            )
        arrays = _whole(texts[0], signature, signature_name)
        _check_complete(arrays, signature)
        return Given(signature=signature, arrays=arrays, generated=())
    given = _named(texts, signature)
    _check_complete(given, signature)
    return Given(
        signature=signature,
        arrays={name: _array(name, value, signature.inputs[name]) for name, value in given.items() if value != RANDOM},
        generated=tuple(name for name in signature.inputs if given.get(name) == RANDOM),
    )


def _is_whole(text: str, signature: Signature) -> bool:
    return text.startswith((_FILE, "{")) and text.partition("=")[0] not in signature.inputs


def _named(texts: Sequence[str], signature: Signature) -> Mapping[str, str]:
    given: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name not in signature.inputs:
            raise TensorInputError(
                f"An input is invalid: expected NAME=VALUE with the name of one of the model's inputs "
                f"({_names(signature)}), got {printable(repr(text), 60)}.",
                hint="Show the inputs of the model: `sealserve model show`, or `sealserve client show BUNDLE`.",
            )
        if name in given:
            raise TensorInputError(f"The input {name!r} was given twice.", hint="Give each input only once.")
        given[name] = value
    if list(given.values()).count(_FILE + STANDARD_INPUT) > 1:
        raise TensorInputError(
            "Several inputs use standard input (@-): expected at most one.", hint="Read the other inputs from files."
        )
    return given


def _check_complete(given: Mapping[str, object], signature: Signature) -> None:
    missing = [name for name in signature.inputs if name not in given and name not in signature.optional]
    if missing:
        raise TensorInputError(
            f"Inputs are missing: the signature needs {_names(signature)}, but no value was given for "
            f"{printable(', '.join(missing))}.",
            hint=f"Give a value for each input. For a random value, use --input {printable(missing[0], 60)}={RANDOM}.",
        )


def _names(signature: Signature) -> str:
    return printable(", ".join(signature.inputs)) or "none"


def _whole(text: str, signature: Signature, signature_name: str) -> Arrays:
    """Return the arrays of a complete request."""
    try:
        if text.startswith(_FILE):
            source = read_source(text.removeprefix(_FILE))
            if source.suffix == ".npz" or source.content.startswith(NPZ):
                return _archive(source, signature)
            if source.suffix == ".npy" or source.content.startswith(NPY):
                raise ValueError("it contains one array without the name of an input: write NAME=@FILE")
            body = read_json(source.content)
        else:
            body = read_json(text)
        columns = columns_of(body, signature, signature_name)
    except _UNREADABLE as error:
        raise TensorInputError(
            f"The request {printable(text, 60)} cannot be read: {_reason(error)}.",
            hint='Give {"instances": [...]} or {"inputs": ...}, a file with one of them, or a .npz file.',
        ) from error
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, value in columns.items():
        with _reading(name):
            arrays[name] = _converted(value, signature.inputs[name])
    return arrays


def _archive(source: Source, signature: Signature) -> Arrays:
    arrays = read_npz(source.content)
    if unknown := arrays.keys() - signature.inputs.keys():
        raise ValueError(
            f"it has the array {printable(repr(min(unknown)), 60)}, which is not an input of the signature "
            f"({_names(signature)})"
        )
    return {name: _typed(array, signature.inputs[name]) for name, array in arrays.items()}


def _array(name: str, value: str, spec: TensorSpec) -> npt.NDArray[Any]:
    """Return the array for ``NAME=VALUE``."""
    with _reading(name):
        if value.startswith(_FILE):
            return _from_file(name, read_source(value.removeprefix(_FILE)), spec)
        if spec.dtype == "string" and not value.startswith(_JSON_BEGINS):
            return _one_string(value.encode(), spec)
        return _converted(read_json(value), spec)


def _from_file(name: str, source: Source, spec: TensorSpec) -> npt.NDArray[Any]:
    """Return a file's content as an array for an input.

    For a string input, only the suffix decides how the file is read. For other inputs, the content decides as well.
    """
    is_text = spec.dtype == "string"
    if source.suffix == ".npz" or (not is_text and source.suffix != ".npy" and source.content.startswith(NPZ)):
        arrays = read_npz(source.content)
        if name not in arrays and len(arrays) != 1:
            raise ValueError(f"the file has {len(arrays)} arrays, but no array with the name {name}")
        return _typed(arrays[name] if name in arrays else next(iter(arrays.values())), spec)
    if source.suffix == ".npy" or (not is_text and source.content.startswith(NPY)):
        return _typed(read_npy(source.content), spec)
    if is_text and source.suffix != ".json":
        return _one_string(source.content, spec)
    if source.suffix != ".json" and (picture := source.picture):
        raise ValueError(
            f"{source.name} is a {picture} picture, but the model expects {spec.dtype} of shape {_shape(spec)}. Decode "
            "and scale the picture as in the model's training, and save it with `numpy.save`"
        )
    return _converted(read_json(source.content), spec)


def _typed(array: npt.NDArray[Any], spec: TensorSpec) -> npt.NDArray[Any]:
    """Return an array of a file if its type is the model's type. Values are never converted silently."""
    if spec.dtype == "string":
        if array.dtype.kind not in "SU":
            raise ValueError(f"the type of its array is wrong: expected strings, got {array.dtype}")
        return array
    expected = np.sctypeDict.get(spec.dtype)
    if expected is not None and array.dtype.newbyteorder("=") != np.dtype(expected):
        raise ValueError(
            f"the type of its array is wrong: expected {spec.dtype}, got {array.dtype} (convert it with `astype`)"
        )
    return array


def _converted(value: object, spec: TensorSpec) -> npt.NDArray[Any]:
    """Return a JSON value as an array of the model's type. Values are never changed silently.

    Raises:
        ValueError, TypeError, ArithmeticError: The value cannot be represented in the model's type.
    """
    if spec.dtype == "string" and not isinstance(value, list):
        return _one_string(_string(value), spec)
    given = np.asarray(value, dtype=object)
    if any(isinstance(item, list) for item in given.flat):  # numpy stores lists of different lengths as objects
        raise ValueError("its lists have different lengths")
    if spec.dtype == "string":
        # Do not use numpy's string types: they store only ASCII, or lose zero bytes at the end.
        strings = np.empty(given.size, dtype=object)
        strings[:] = [_string(item) for item in given.ravel()]
        return strings.reshape(given.shape)
    kind = np.dtype(spec.dtype)
    with np.errstate(over="raise"):
        array = np.asarray(value, dtype=kind)
    if not all(isinstance(item, int | float) for item in given.ravel()):  # null would become NaN, and "1" a number
        raise ValueError(f"it contains values that are not numbers: expected {kind}")
    if kind.kind in "biu" and (array != given).any():
        raise ValueError(f"it contains values that the type {kind} cannot represent")
    return array


def _string(item: object) -> bytes:
    """Return the bytes of a JSON value: a text, ``{"b64": "..."}``, or the features of a ``tf.Example``."""
    if isinstance(item, str):
        return item.encode()
    if (found := bytes_from_json(item)) is not None:
        return found
    if isinstance(item, dict):
        return from_json(item)
    raise ValueError('it contains values that are not strings (write bytes as {"b64": "..."})')


def _one_string(content: bytes, spec: TensorSpec) -> npt.NDArray[Any]:
    """Return one string as the smallest array that the model accepts, usually a batch of one row."""
    shape = (None,) if spec.shape is None else spec.shape
    if any(size not in {None, 1} for size in shape):
        raise ValueError(f"the shape is wrong: expected strings of shape {_shape(spec)}, got one string")
    array = np.empty((1,) * len(shape), dtype=object)
    array[...] = content
    return array


def _shape(spec: TensorSpec) -> str:
    return (
        "any" if spec.shape is None else f"({', '.join('any' if size is None else str(size) for size in spec.shape)})"
    )


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Convert an error while reading an input's value to a `TensorInputError`."""
    try:
        yield
    except _UNREADABLE as error:
        raise TensorInputError(
            f"The input {printable(repr(name), 60)} cannot be read: {_reason(error)}.",
            hint="Give @FILE (.npy, .npz, .json; any file for a string input), a JSON value, or `random`.",
        ) from error


def _reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, InputFileError) else error
    return printable(str(reason).rstrip(".")) or type(error).__name__
