"""Inputs as they are written on the command line: ``NAME=@file.npy``, ``NAME=[1, 2]``, ``NAME=random``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sealserve.client.predict import Signature, TensorSpec
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
            known = ", ".join(signature.inputs)
            raise TensorInputError(f"{text!r} is not NAME=VALUE with a name of the model's inputs ({known}).")
        given[name] = value
    generator = np.random.default_rng(seed)
    return {
        name: _array(name, given.get(name, RANDOM), spec, generator, batch) for name, spec in signature.inputs.items()
    }


def random_array(spec: TensorSpec, generator: np.random.Generator, batch: int) -> npt.NDArray[Any]:
    """Return an array that fits ``spec``: floats and numbers in 0..1, unknown sizes ``batch`` first and 1 after.

    Raises:
        TensorInputError: Its type or shape leaves too much open.
    """
    if spec.shape is None or spec.dtype not in np.sctypeDict or spec.dtype in ("str", "object"):
        raise TensorInputError(f"No random value fits {spec.dtype} of shape {spec.shape}.", hint="Give one.")
    shape = [size if size is not None else (batch if index == 0 else 1) for index, size in enumerate(spec.shape)]
    kind = np.dtype(spec.dtype)
    return generator.random(shape).astype(kind) if kind.kind in "fc" else generator.integers(0, 2, shape).astype(kind)


def _array(name: str, value: str, spec: TensorSpec, generator: np.random.Generator, batch: int) -> npt.NDArray[Any]:
    if value == RANDOM:
        return random_array(spec, generator, batch)
    try:
        if value.startswith("@"):
            with open_regular(Path(value[1:])) as descriptor, open(descriptor, "rb", closefd=False) as stream:
                loaded: npt.NDArray[Any] = np.load(stream, allow_pickle=False)
            return loaded
        return np.asarray(json.loads(value), dtype=np.dtype("S") if spec.dtype == "string" else np.dtype(spec.dtype))
    except (InputFileError, OSError, ValueError, TypeError) as error:
        reason = error.reason if isinstance(error, InputFileError) else error
        raise TensorInputError(
            f"The input {name!r} cannot be read: {reason}.", hint="Give @FILE.npy, a JSON value, or `random`."
        ) from error
