"""Inputs as they are written on the command line: ``NAME=@file.npy``, ``NAME=[1, 2]``, ``NAME=random``.

Strings are written as JSON texts, and bytes that are not text as ``{"b64": "..."}``. A serialised ``tf.Example`` is
written as an object with its features: ``NAME=[{"age": 41, "city": "Rome"}]``.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sealserve.cli.generated_input import Arrays, Guess, TensorInputError, random_array
from sealserve.client.credentials import printable
from sealserve.client.examples import bytes_from_json, from_json
from sealserve.client.predict import Signature, TensorSpec
from sealserve.regular_file import InputFileError, open_regular

RANDOM = "random"


def read_inputs(
    texts: Sequence[str], signature: Signature, *, batch: int, seed: int, guess: Guess | None = None
) -> Arrays:
    """Return the arrays for a signature's inputs.

    Args:
        texts: ``NAME=VALUE`` for each input. Without any, every input is generated. An input with a default value can
            be left out.
        signature: What the model takes.
        batch: The first dimension of generated inputs, where the model leaves it open.
        seed: Of generated inputs.
        guess: What is assumed for generated inputs, where the signature leaves something open.

    Raises:
        TensorInputError: No such input, an input that is missing, or a value that cannot be read.
    """
    given = _given(texts, signature)
    generator = np.random.default_rng(seed)
    arrays = {}
    for name, spec in signature.inputs.items():
        value = given.get(name)
        if value is None and given:
            continue  # the model has a default value for it
        if value in {None, RANDOM}:
            arrays[name] = random_array(spec, generator, batch, name=name, method=signature.method, guess=guess)
        else:
            arrays[name] = _array(name, str(value), spec)
    return arrays


def generated_names(texts: Sequence[str], signature: Signature) -> Sequence[str]:
    """Return the names of the inputs that `read_inputs` generates.

    Raises:
        TensorInputError: As `read_inputs`.
    """
    given = _given(texts, signature)
    return [name for name in signature.inputs if not given or given.get(name) == RANDOM]


def _given(texts: Sequence[str], signature: Signature) -> Mapping[str, str]:
    given: dict[str, str] = {}
    known = printable(", ".join(signature.inputs)) or "none"
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name not in signature.inputs:
            raise TensorInputError(
                f"{printable(repr(text), 60)} is not NAME=VALUE with a name of the model's inputs ({known})."
            )
        if name in given:
            raise TensorInputError(f"The input {name!r} is given twice.")
        given[name] = value
    missing = [name for name in signature.inputs if name not in given and name not in signature.optional]
    if given and missing:
        raise TensorInputError(
            f"{printable(', '.join(missing))} {'is' if len(missing) == 1 else 'are'} missing: "
            f"this signature takes the inputs {known}.",
            hint=f"Give a value for each input. Write --input {printable(missing[0], 60)}={RANDOM} for a random value.",
        )
    return given


def _array(name: str, value: str, spec: TensorSpec) -> npt.NDArray[Any]:
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
    raise ValueError('the model takes strings, in lists of one length (bytes are written {"b64": "..."})')
