"""Files with arrays (``.npy`` and ``.npz``): each is read completely, or rejected before memory is allocated."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np

from sealserve.array_file import LARGEST_ARCHIVE, read_npy, read_npz
from sealserve.cli.input_files import read_json

_REJECTED = (ValueError, TypeError, ArithmeticError)


def seeds() -> Iterator[bytes]:
    """Yield arrays of several types, alone and packed."""
    arrays = {"a": np.arange(3, dtype=">f4"), "b": np.array(["x", "é"]), "c": np.zeros((0, 2), np.int8)}
    for array in arrays.values():
        single = io.BytesIO()
        np.save(single, array)
        yield single.getvalue()
    for save in (np.savez, np.savez_compressed):
        packed = io.BytesIO()
        save(packed, **arrays)  # type: ignore[arg-type]  # the stubs confuse a file name with an array
        yield packed.getvalue()
    yield b'{"instances": [[1, 2], {"b64": "AA=="}]}'


def fuzz(data: bytes) -> None:
    """Read ``data`` in each format."""
    with contextlib.suppress(*_REJECTED):
        assert read_npy(data).nbytes <= len(data)
    with contextlib.suppress(*_REJECTED):
        assert sum(array.nbytes for array in read_npz(data).values()) <= LARGEST_ARCHIVE
    with contextlib.suppress(*_REJECTED):
        read_json(data)
