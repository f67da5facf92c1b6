"""Generate inputs that fit the types and shapes of a signature, if the user does not give any.

A signature leaves many things open: the size of a picture, the length of a text. A string can be a text, a number, a
picture or a serialized ``tf.Example``. The module therefore makes several guesses, the most likely guess first.
"""

import importlib
import math
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from sealserve.client import examples
from sealserve.client.credentials import printable
from sealserve.client.examples import Values
from sealserve.client.predict import Signature, TensorSpec
from sealserve.client.tensors import MAX_BYTES
from sealserve.errors import InputError

Arrays = Mapping[str, npt.NDArray[Any]]
_Result = TypeVar("_Result")

_PICTURE_SIZE: Final = 64
_CHANNELS: Final = (1, 3, 4)
_PICTURE_RANK: Final = 4
_MOST_WORDS: Final = 12
WORDS: Final = (
    "a", "good", "bad", "movie", "story", "about", "the", "old", "house", "and", "new", "light", "in", "water", "time",
    "never", "ends", "great", "music", "plays", "loud", "red", "blue", "city", "green", "river", "small", "bird", "one",
    "two", "three", "four", "hello", "world", "not", "this", "is", "was", "it", "day", "night", "cold", "warm",
)  # fmt: skip
_EXAMPLE_METHODS: Final = ("tensorflow/serving/classify", "tensorflow/serving/regress")
_EXAMPLE_NAME: Final = re.compile(r"example|serialized", re.IGNORECASE)
_PICTURE_NAME: Final = re.compile(r"image|img|picture|photo|jpe?g|png|(^|_)bytes$", re.IGNORECASE)


class TensorInputError(InputError):
    """An input on the command line is invalid, or a required input is missing."""

    code = "predict.input"


class Text(StrEnum):
    """Kind of content of a generated string."""

    WORDS = "words"
    NUMBER = "a number as text"
    PICTURE = "a PNG picture"
    EXAMPLE = "a serialised tf.Example"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """Assumptions about everything that a signature leaves open.

    Args:
        size: Size of each open dimension except the batch.
        picture: Height and width of a picture, in pixels.
        text: Kind of strings. None means that the input's name and the signature's method decide.
        words: The words of generated texts.
        features: The features of a ``tf.Example``: each function returns the values of a feature.
    """

    size: int = 16
    picture: int = 224
    text: Text | None = None
    words: Sequence[str] = WORDS
    features: Mapping[str, Callable[[np.random.Generator], Values]] | None = None


def guesses(signature: Signature, first: Guess | None = None) -> list[Guess]:
    """Return the guesses for a signature's inputs, the most likely guess first.

    Args:
        signature: The model's signature.
        first: First guess, for example with the words that the model knows. None means the default guess.
    """
    start = first or Guess()
    found = [start]
    inputs = signature.inputs.items()
    if any(None in spec.shape[1:] for _, spec in inputs if spec.shape is not None):
        found += [replace(start, size=size, picture=size) for size in (32, 128, 299)]
    likely = {_text_of(name, signature.method) for name, spec in inputs if spec.dtype == "string"}
    if likely:
        found += [replace(start, text=text) for text in Text if {text} != likely]
    return found


def first_accepted(
    found: Sequence[Guess], attempt: Callable[[Guess], _Result], refused: tuple[type[Exception], ...]
) -> _Result:
    """Try guesses until one is accepted, and return its result.

    Args:
        found: At least one guess.
        attempt: Tries a guess, and returns the result.
        refused: Exceptions that mean that the guess does not fit. If no guess fits, the first exception is raised.
    """
    refusal: Exception | None = None
    for guess in found:
        try:
            return attempt(guess)
        except refused as error:
            refusal = refusal or error
    raise refusal or ValueError("at least one guess is needed")


def random_arrays(signature: Signature, generator: np.random.Generator, batch: int, guess: Guess) -> Arrays:
    """Return a random array for each input of a signature; see `random_array`."""
    return {
        name: random_array(spec, generator, batch, name=name, method=signature.method, guess=guess)
        for name, spec in signature.inputs.items()
    }


def random_array(
    spec: TensorSpec,
    generator: np.random.Generator,
    batch: int,
    *,
    name: str = "",
    method: str = "",
    guess: Guess | None = None,
) -> npt.NDArray[Any]:
    """Return an array that fits ``spec``: floats from 0 to 1, integers 0 and 1, or strings.

    Args:
        spec: Type and shape of the input.
        generator: Source of the random values.
        batch: Size of the first dimension, if ``spec`` leaves it open.
        name: Name of the input.
        method: Method of the signature.
        guess: Assumptions about everything else that ``spec`` leaves open.

    Raises:
        TensorInputError: No random value exists for this type or shape, or the array is too large for a request.
    """
    assumed = guess or Guess()
    is_text = spec.dtype == "string"
    shape = (batch,) if spec.shape is None and is_text else _shape(spec, batch, assumed)
    kind = None if is_text else _kind(spec)
    if shape is None or (kind is None and not is_text):
        where = f" for the input {printable(repr(name), 60)}" if name else ""
        raise TensorInputError(
            f"A random value cannot be generated{where}: its type is {printable(spec.dtype)}, its shape "
            f"{printable(str(spec.shape))}.",
            hint=f"Give a value: --input {printable(name, 60) or 'NAME'}=VALUE.",
        )
    if math.prod(shape) * (kind.itemsize if kind is not None else 8) > MAX_BYTES:  # before memory is allocated
        raise TensorInputError(
            f"A random {spec.dtype} of shape {printable(str(tuple(shape)))} is too large: expected at most {MAX_BYTES} "
            "bytes in a request.",
            hint="Give a smaller --batch.",
        )
    if kind is None:
        text = assumed.text or _text_of(name, method)
        strings = np.empty(math.prod(shape), object)
        strings[:] = [_string(text, generator, assumed) for _ in range(len(strings))]
        return strings.reshape(shape)
    if kind.kind in "iub":
        return generator.integers(0, 2, shape).astype(kind)
    return generator.random(shape).astype(kind)


def _kind(spec: TensorSpec) -> np.dtype[Any] | None:
    if spec.dtype == "bfloat16":  # numpy does not have this type; ml_dtypes is installed with TensorFlow
        try:
            known: np.dtype[Any] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
        except ImportError:
            return None
        return known
    if spec.dtype not in np.sctypeDict or spec.dtype in ("str", "object"):
        return None
    return np.dtype(spec.dtype)


def _shape(spec: TensorSpec, batch: int, guess: Guess) -> tuple[int, ...] | None:
    if spec.shape is None:
        return None
    rest = spec.shape[1:]
    is_picture = len(spec.shape) == _PICTURE_RANK and (rest[-1] in _CHANNELS or rest[0] in _CHANNELS)
    open_size = guess.picture if is_picture else guess.size
    return tuple(
        size if size is not None else (batch if index == 0 else open_size) for index, size in enumerate(spec.shape)
    )


def _text_of(name: str, method: str) -> Text:
    if method in _EXAMPLE_METHODS or _EXAMPLE_NAME.search(name):
        return Text.EXAMPLE
    return Text.PICTURE if _PICTURE_NAME.search(name) else Text.WORDS


def _string(text: Text, generator: np.random.Generator, guess: Guess) -> bytes:
    if text is Text.EXAMPLE:
        return examples.serialize({name: make(generator) for name, make in (guess.features or {}).items()})
    if text is Text.PICTURE:
        return _png(generator)
    if text is Text.NUMBER:
        return f"{generator.random():.6f}".encode()
    chosen = generator.integers(0, len(guess.words), generator.integers(1, _MOST_WORDS + 1))
    return " ".join(guess.words[index] for index in chosen).encode()


def _png(generator: np.random.Generator) -> bytes:
    """Return a PNG picture of random colors. Source: PNG (W3C, third edition), 5.2, 11.2 and 12."""
    pixels = generator.integers(0, 256, (_PICTURE_SIZE, _PICTURE_SIZE * 3), np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # filter type 0: none
    header = struct.pack(">IIBBBBB", _PICTURE_SIZE, _PICTURE_SIZE, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
