"""A model's outputs in a file: several as ``.npz``, a single one as ``.npy``."""

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
    """Check that the name of a file says which format the outputs are to have, and that the format has room for them.

    Args:
        path: The file.
        outputs: How many outputs there are; None if that is not known.

    Raises:
        InputError: `predict.output-format`: The name ends neither in ``.npz`` nor ``.npy``, or ``.npy`` is not for
            exactly one output.
    """
    if outputs not in {None, 1} and path.suffix.lower() == _ONE:
        raise CliCode.PREDICT_OUTPUT_FORMAT.error(
            f"{path} cannot hold {outputs} outputs.", hint=f"Save them to {path.with_suffix(_SEVERAL)}."
        )
    if path.suffix.lower() not in {_ONE, _SEVERAL}:
        raise CliCode.PREDICT_OUTPUT_FORMAT.error(
            f"{path} does not end in {_SEVERAL} or {_ONE}.",
            hint=f"Name the file {path.name}{_SEVERAL}, or use --json for another program.",
        )


def write_outputs(outputs: Mapping[str, npt.NDArray[Any]], stream: BinaryIO, *, path: Path) -> None:
    """Write the outputs in the format that the file's name says.

    `numpy.savez` would take an output ``file`` for its own argument, and pickle strings.

    Args:
        outputs: The outputs by name.
        stream: The open file.
        path: Its name.

    Raises:
        InputError: `predict.output-format`: There is not exactly one output for a ``.npy`` file.
        UnavailableError: `predict.output`: A string ends in a zero byte: numpy pads strings with them.
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
            f"The output {printable(name)!r} cannot be saved: a string in it ends in a zero byte.",
            hint="Print it with --json instead.",
        )
    return array
