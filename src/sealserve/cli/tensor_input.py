"""Inputs as they are written on the command line, one by one or as a whole request.

One by one, ``NAME=VALUE``:

- ``NAME=@FILE``: an array (``.npy``, ``.npz``) or a value (``.json``). For a string input, any other file is one
  string: ``image_bytes=@photo.jpg``. ``@-`` is standard input.
- ``NAME=JSON``. Bytes that are not text are ``{"b64": "..."}``. A serialised ``tf.Example`` is an object with its
  features: ``NAME=[{"age": 41, "city": "Rome"}]``.
- ``NAME=TEXT`` for a string input, unless the text begins with ``[``, ``{``, ``"`` or ``@``.
- ``NAME=random``.

As a whole: ``{"instances": [...]}`` or ``{"inputs": ...}``, ``@FILE`` with either of them, or ``@FILE.npz`` with an
array for each input.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sealserve.cli.generated_input import Arrays, Guess, TensorInputError, random_array
from sealserve.cli.input_files import NPY, NPZ, STANDARD_INPUT, Source, read_json, read_npy, read_npz, read_source
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
    """The inputs that were given, and the names of those that are to be generated.

    Args:
        signature: What the model takes.
        arrays: The inputs that were given.
        generated: The inputs that `complete` makes.
    """

    signature: Signature
    arrays: Arrays
    generated: tuple[str, ...]

    def complete(self, *, batch: int, seed: int, guess: Guess | None = None) -> Arrays:
        """Return the given arrays, and random ones for the other inputs.

        Args:
            batch: The first dimension of generated inputs, where the model leaves it open.
            seed: Of generated inputs.
            guess: What is assumed for generated inputs, where the signature leaves something open.

        Raises:
            TensorInputError: An input has a type or a shape for which there is no random value.
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
        texts: ``NAME=VALUE`` for each input, or one whole request. Without any, every input is generated. An input with
            a default value can be left out.
        signature: What the model takes.
        signature_name: Its name: a whole request may name it.

    Raises:
        TensorInputError: No such input, an input that is missing, or a value that cannot be read.
    """
    if not texts:
        return Given(signature=signature, arrays={}, generated=tuple(signature.inputs))
    if any(_is_whole(text, signature) for text in texts):
        if len(texts) > 1:
            raise TensorInputError("A whole request was given together with other inputs: expected it alone.")
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
                f"{printable(repr(text), 60)} is not NAME=VALUE with a name of the model's inputs "
                f"({_names(signature)})."
            )
        if name in given:
            raise TensorInputError(f"The input {name!r} is given twice.")
        given[name] = value
    if list(given.values()).count(_FILE + STANDARD_INPUT) > 1:
        raise TensorInputError("Several inputs are to be read from standard input (@-): expected one.")
    return given


def _check_complete(given: Mapping[str, object], signature: Signature) -> None:
    missing = [name for name in signature.inputs if name not in given and name not in signature.optional]
    if missing:
        raise TensorInputError(
            f"{printable(', '.join(missing))} {'is' if len(missing) == 1 else 'are'} missing: "
            f"this signature takes the inputs {_names(signature)}.",
            hint=f"Give a value for each input. Write --input {printable(missing[0], 60)}={RANDOM} for a random value.",
        )


def _names(signature: Signature) -> str:
    return printable(", ".join(signature.inputs)) or "none"


def _whole(text: str, signature: Signature, signature_name: str) -> Arrays:
    """Return the arrays of a whole request."""
    try:
        if text.startswith(_FILE):
            source = read_source(text.removeprefix(_FILE))
            if source.suffix == ".npz" or source.content.startswith(NPZ):
                return _archive(source, signature)
            if source.suffix == ".npy" or source.content.startswith(NPY):
                raise ValueError("it holds one array: write NAME=@FILE")
            body = read_json(source.content)
        else:
            body = read_json(text)
        columns = columns_of(body, signature, signature_name)
    except _UNREADABLE as error:
        raise TensorInputError(
            f"The request {printable(text, 60)} cannot be read: {_reason(error)}.",
            hint='Give {"instances": [...]} or {"inputs": ...}, a file with it, or a .npz file.',
        ) from error
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, value in columns.items():
        with _reading(name):
            arrays[name] = _converted(value, signature.inputs[name])
    return arrays


def _archive(source: Source, signature: Signature) -> Arrays:
    arrays = read_npz(source.content)
    if unknown := arrays.keys() - signature.inputs.keys():
        raise ValueError(f"it has an array {printable(repr(min(unknown)), 60)}; the inputs are {_names(signature)}")
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
    """Return what a file holds for an input: for a string input, the suffix decides; for others the content too."""
    is_text = spec.dtype == "string"
    if source.suffix == ".npz" or (not is_text and source.suffix != ".npy" and source.content.startswith(NPZ)):
        arrays = read_npz(source.content)
        if name not in arrays and len(arrays) != 1:
            raise ValueError(f"the file has {len(arrays)} arrays, and none of them is called {name}")
        return _typed(arrays[name] if name in arrays else next(iter(arrays.values())), spec)
    if source.suffix == ".npy" or (not is_text and source.content.startswith(NPY)):
        return _typed(read_npy(source.content), spec)
    if is_text and source.suffix != ".json":
        return _one_string(source.content, spec)
    if source.suffix != ".json" and (picture := source.picture):
        raise ValueError(
            f"{source.name} is a {picture} picture, and the model takes {spec.dtype} of shape {_shape(spec)}: decode "
            "and scale it as the model was trained, and save it with numpy.save"
        )
    return _converted(read_json(source.content), spec)


def _typed(array: npt.NDArray[Any], spec: TensorSpec) -> npt.NDArray[Any]:
    """Return an array of a file. Its type must be the model's: no value becomes another one in silence."""
    if spec.dtype == "string":
        if array.dtype.kind not in "SU":
            raise ValueError(f"the file holds {array.dtype}, and the model takes strings")
        return array
    expected = np.sctypeDict.get(spec.dtype)
    if expected is not None and array.dtype.newbyteorder("=") != np.dtype(expected):
        raise ValueError(f"the file holds {array.dtype}, and the model takes {spec.dtype}: convert it with astype")
    return array


def _converted(value: object, spec: TensorSpec) -> npt.NDArray[Any]:
    """Return JSON as an array of the model's type; no value becomes another one in silence.

    Raises:
        ValueError, TypeError, ArithmeticError: It is none.
    """
    if spec.dtype == "string" and not isinstance(value, list):
        return _one_string(_string(value), spec)
    given = np.asarray(value, dtype=object)
    if any(isinstance(item, list) for item in given.flat):  # numpy keeps lists of different lengths as objects
        raise ValueError("its lists have different lengths")
    if spec.dtype == "string":
        # Not numpy's own strings: they hold ASCII only, or lose zeros at their end.
        strings = np.empty(given.size, dtype=object)
        strings[:] = [_string(item) for item in given.ravel()]
        return strings.reshape(given.shape)
    kind = np.dtype(spec.dtype)
    with np.errstate(over="raise"):
        array = np.asarray(value, dtype=kind)
    if not all(isinstance(item, int | float) for item in given.ravel()):  # null would become NaN, "1" a number
        raise ValueError(f"the model takes {kind}")
    if kind.kind in "biu" and (array != given).any():
        raise ValueError(f"it has values that are no {kind}")
    return array


def _string(item: object) -> bytes:
    """Return the bytes of a string in JSON: a text, ``{"b64": "..."}``, or the features of a ``tf.Example``."""
    if isinstance(item, str):
        return item.encode()
    if (found := bytes_from_json(item)) is not None:
        return found
    if isinstance(item, dict):
        return from_json(item)
    raise ValueError('the model takes strings (bytes are written {"b64": "..."})')


def _one_string(content: bytes, spec: TensorSpec) -> npt.NDArray[Any]:
    """Return one string as the smallest array that the model takes: usually a batch of one."""
    shape = (None,) if spec.shape is None else spec.shape
    if any(size not in {None, 1} for size in shape):
        raise ValueError(f"the model takes strings of shape {_shape(spec)}, not one string")
    array = np.empty((1,) * len(shape), dtype=object)
    array[...] = content
    return array


def _shape(spec: TensorSpec) -> str:
    return (
        "any" if spec.shape is None else f"({', '.join('any' if size is None else str(size) for size in spec.shape)})"
    )


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Explain an error of reading the value of an input."""
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
