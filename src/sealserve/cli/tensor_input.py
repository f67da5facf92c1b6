"""Inputs as they are written on the command line: ``NAME=@file.npy``, ``NAME=[1, 2]``, ``NAME=random``."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sealserve.client.credentials import printable
from sealserve.client.predict import Signature, TensorSpec
from sealserve.client.tensors import MAX_BYTES
from sealserve.errors import InputError
from sealserve.regular_file import InputFileError, open_regular

RANDOM = "random"


class TensorInputError(InputError):
    """An input on the command line cannot be used."""

    code = "predict.input"


def read_inputs(texts: Sequence[str], signature: Signature, *, batch: int, seed: int) -> Mapping[str, npt.NDArray[Any]]:
    """Return the arrays for a signature's inputs.

    Args:
        texts: ``NAME=VALUE`` each; an input that none names is random.
        signature: What the model takes.
        batch: The first dimension of random inputs, where the model leaves it open.
        seed: Of random inputs.

    Raises:
        TensorInputError: No such input, or a value that cannot be read.
    """
    given = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name not in signature.inputs:
            known = printable(", ".join(signature.inputs))
            raise TensorInputError(
                f"{printable(repr(text), 60)} is not NAME=VALUE with a name of the model's inputs ({known})."
            )
        if name in given:
            raise TensorInputError(f"The input {name!r} is given twice.")
        given[name] = value
    generator = np.random.default_rng(seed)
    return {
        name: _array(name, given.get(name, RANDOM), spec, generator, batch) for name, spec in signature.inputs.items()
    }


def random_array(spec: TensorSpec, generator: np.random.Generator, batch: int) -> npt.NDArray[Any]:
    """Return an array that fits ``spec``: floats and numbers in 0..1, unknown sizes ``batch`` first and 1 after.

    Raises:
        TensorInputError: Its type or shape leaves too much open, or it fits no request.
    """
    if spec.shape is None or spec.dtype not in np.sctypeDict or spec.dtype in ("str", "object"):
        raise TensorInputError(f"No random value fits {spec.dtype} of shape {spec.shape}.", hint="Give one.")
    shape = [size if size is not None else (batch if index == 0 else 1) for index, size in enumerate(spec.shape)]
    kind = np.dtype(spec.dtype)
    if math.prod(shape) * kind.itemsize > MAX_BYTES:  # before memory is taken: the shape is the server's word
        raise TensorInputError(
            f"A random {spec.dtype} of shape {printable(str(tuple(shape)))} fits no request, which holds {MAX_BYTES} "
            "bytes.",
            hint="Give a smaller --batch.",
        )
    return generator.random(shape).astype(kind) if kind.kind in "fc" else generator.integers(0, 2, shape).astype(kind)


def _array(name: str, value: str, spec: TensorSpec, generator: np.random.Generator, batch: int) -> npt.NDArray[Any]:
    if value == RANDOM:
        return random_array(spec, generator, batch)
    try:
        if value.startswith("@"):
            with open_regular(Path(value[1:])) as descriptor, open(descriptor, "rb", closefd=False) as stream:
                return _read_npy(stream)
        return _converted(json.loads(value), spec)
    except (InputFileError, OSError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        reason = error.reason if isinstance(error, InputFileError) else error
        raise TensorInputError(
            f"The input {name!r} cannot be read: {printable(str(reason).rstrip('.'))}.",
            hint="Give @FILE.npy, a JSON value, or `random`.",
        ) from error


def _read_npy(stream: BinaryIO) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    except TokenError as error:  # numpy takes a header apart as Python's tokenizer does
        raise ValueError("its header is damaged") from error
    return array


def _converted(value: object, spec: TensorSpec) -> npt.NDArray[Any]:
    """Return JSON as an array of the model's type; no value becomes another one in silence.

    Raises:
        ValueError, TypeError, ArithmeticError: It is none.
    """
    given = np.asarray(value, dtype=object)
    if spec.dtype == "string":
        if not all(isinstance(item, str) for item in given.ravel()):
            raise ValueError("the model takes strings, in lists of one length")
        # Not numpy's own strings: they hold ASCII only, or lose zeros at their end.
        return np.array([item.encode() for item in given.ravel()], dtype=object).reshape(given.shape)
    kind = np.dtype(spec.dtype)
    with np.errstate(over="raise"):
        array = np.asarray(value, dtype=kind)
    if not all(isinstance(item, int | float) for item in given.ravel()):  # null would become NaN, "1" a number
        raise ValueError(f"the model takes {kind}")
    if kind.kind in "biu" and (array != given).any():
        raise ValueError(f"it has values that are no {kind}")
    return array
