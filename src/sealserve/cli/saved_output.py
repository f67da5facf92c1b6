"""Write a model's outputs to a file: ``.npz``, or ``.npy`` for a single output."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from sealserve.cli.codes import CliCode
from sealserve.client.credentials import printable

_ONE: Final = ".npy"
_SEVERAL: Final = ".npz"


def check_format(path: Path, *, outputs: int | None = None) -> None:
    """Check that the file's suffix names a format, and that the format can store the outputs.

    Args:
        path: The file.
        outputs: Number of outputs, or None if it is unknown.

    Raises:
        InputError: `predict.output-format`: The suffix is neither ``.npz`` nor ``.npy``, or it is ``.npy`` and the
            model does not have exactly one output.
    """
    if outputs not in {None, 1} and path.suffix.lower() == _ONE:
        raise CliCode.PREDICT_OUTPUT_FORMAT.error(
            f"{path} cannot store the outputs: expected one output for {_ONE}, got {outputs}.",
            hint=f"Save the outputs to {path.with_suffix(_SEVERAL)}.",
        )
    if path.suffix.lower() not in {_ONE, _SEVERAL}:
        raise CliCode.PREDICT_OUTPUT_FORMAT.error(
            f"The format of the output file is unknown: expected a name that ends in {_SEVERAL} or {_ONE}, got {path}.",
            hint=f"Name the file {path.name}{_SEVERAL}, or use --json to read the outputs in another program.",
        )


def write_outputs(outputs: Mapping[str, npt.NDArray[Any]], stream: BinaryIO, *, path: Path) -> None:
    """Write the outputs in the format of the file's suffix.

    `numpy.savez` is not used, because it would interpret an output named ``file`` as its own argument, and would pickle
    strings.

    Args:
        outputs: The outputs by name.
        stream: The open file.
        path: Path of the file.

    Raises:
        InputError: `predict.output-format`: The file is ``.npy``, and the number of outputs is not one.
        UnavailableError: `predict.output`: A string ends in a zero byte, which numpy cannot store: it pads strings with
            zero bytes.
    """
    arrays = {name: _storable(name, value) for name, value in outputs.items()}
    if path.suffix.lower() == _ONE:
        check_format(path, outputs=len(arrays))
        np.lib.format.write_array(stream, next(iter(arrays.values())), allow_pickle=False)
        return
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _storable(name: str, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if value.dtype.kind != "O":
        return value
    array = value.astype("S")
    if (array != value).any():
        raise CliCode.PREDICT_OUTPUT.error(
            f"The output {printable(name)!r} cannot be saved: a string in it ends in a zero byte, which numpy's format "
            "cannot store.",
            hint="Print the outputs with --json instead.",
        )
    return array
