"""The inputs that the owner gives for the comparison: read, and checked against the signatures."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sealserve.array_file import NPY, read_npz
from sealserve.model.codes import ModelCode
from sealserve.model.saved_model import SavedSignature
from sealserve.regular_file import InputFileError, read_regular

LARGEST: Final = 2**31
"""Maximum size of the given inputs in bytes."""
_BFLOAT16: Final = "bfloat16"

Array = npt.NDArray[Any]


def read_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays in a file (``.npz``) by name.

    Raises:
        InputError: `model.optimization-inputs`: The file does not exist, is not in this form, is too large, or contains
            objects.
    """
    try:
        return _archive(read_regular(path, limit=LARGEST))
    except (InputFileError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        reason = error.reason if isinstance(error, InputFileError) else str(error) or type(error).__name__
        raise ModelCode.OPTIMIZATION_INPUTS.error(
            f"The inputs for the comparison cannot be read from {path}: {reason.rstrip('.')}.",
            hint="Write them with numpy.savez(FILE, NAME=array). For text, use an array of bytes.",
        ) from error


def _archive(content: bytes) -> dict[str, Array]:
    if content.startswith(NPY):
        raise ValueError("it contains one array without the name of an input")
    return read_npz(content, limit=LARGEST)


def check_given(given: Mapping[str, Array], signatures: Collection[SavedSignature]) -> None:
    """Check that each array is an input of a signature, with the type and shape of the input.

    Several signatures can have inputs with the same name. An array must fit at least one of them. The signatures that
    it does not fit are not compared.

    Raises:
        InputError: `model.optimization-inputs`.
    """
    specs = [(signature.name, spec) for signature in signatures for spec in signature.inputs]
    names = ", ".join(repr(name) for name in sorted({spec.name for _, spec in specs})) or "none"
    for name, array in sorted(given.items()):
        misfits = [(signature, misfit(array, spec.dtype, spec.shape)) for signature, spec in specs if spec.name == name]
        if not misfits:
            raise ModelCode.OPTIMIZATION_INPUTS.error(
                f"The inputs for the comparison do not fit the model: it has no input {name!r}.",
                hint=f"Use the names of its inputs: {names}.",
            )
        signature, reason = misfits[0]
        if all(found is not None for _, found in misfits):
            raise ModelCode.OPTIMIZATION_INPUTS.error(
                f"The inputs for the comparison do not fit the model: the input {name!r} of {signature!r}: {reason}.",
                hint="Give an array with the type and the shape of the input. Convert its type with `astype`.",
            )


def misfit(array: Array, dtype: str, shape: Sequence[int | None] | None) -> str | None:
    """Return why an array cannot be an input, or None if it can. Values are never converted.

    Args:
        array: The array.
        dtype: The input's type, by TensorFlow's name.
        shape: The input's dimensions, with None for any size. None instead of a sequence means any shape.
    """
    if not _has_type(array, dtype):
        return f"expected {dtype}, got {_type_of(array)}"
    fits = shape is None or (
        len(shape) == array.ndim
        and all(expected in {None, size} for expected, size in zip(shape, array.shape, strict=True))
    )
    if not fits:
        expected = ", ".join("any" if size is None else str(size) for size in shape or ())
        return f"expected the shape [{expected}], got {list(array.shape)}"
    return None if array.size else f"it has no values, because its shape is {list(array.shape)}"


def _has_type(array: Array, dtype: str) -> bool:
    if dtype == "string":
        return array.dtype.kind in "OSU"
    if dtype == _BFLOAT16:  # numpy's files do not have this type: it is two bytes of an unknown type
        return array.dtype.name == _BFLOAT16 or array.dtype == np.dtype("V2")
    expected = np.sctypeDict.get(dtype)
    return expected is not None and array.dtype.newbyteorder("=") == np.dtype(expected)


def _type_of(array: Array) -> str:
    return "text" if array.dtype.kind in "OSU" else str(array.dtype)
