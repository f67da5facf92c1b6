"""Read numpy's files: one array (``.npy``), or several arrays by name (``.npz``).

The files are not trusted. Each reader checks sizes before it allocates memory, and nothing is unpickled.
"""

import io
import math
import zipfile
import zlib
from tokenize import TokenError
from typing import Any, Final

import numpy as np
import numpy.typing as npt

LARGEST_ARCHIVE: Final = 2**30
"""Maximum size of all arrays of a ``.npz`` file in bytes. Deflate can compress by a factor of up to a thousand."""
MOST_MEMBERS: Final = 1000

NPY: Final = b"\x93NUMPY"
NPZ: Final = (b"PK\x03\x04", b"PK\x05\x06")
_PACKINGS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED: Final = 1  # bit 0 of a member's flags


def read_npy(content: bytes) -> npt.NDArray[Any]:
    """Return the array of a ``.npy`` file.

    Source: NEP 1, https://numpy.org/neps/nep-0001-npy-format.html.

    Raises:
        ValueError, TypeError, ArithmeticError: The file is damaged or does not contain an array of plain values.
    """
    stream = io.BytesIO(content)
    if not content.startswith(NPY):
        raise ValueError("it is not a .npy file")
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
    except (TokenError, SyntaxError, LookupError, AttributeError) as error:  # numpy parses the header as Python source
        raise ValueError("its header is damaged") from error
    if dtype.hasobject:
        raise ValueError("it contains Python objects, which sealserve does not unpickle (allow_pickle=False)")
    expected, got = math.prod(shape) * dtype.itemsize, len(content) - stream.tell()
    if expected != got or min(shape, default=0) < 0:
        raise ValueError(f"its header declares {dtype} of shape {shape}: expected {expected} bytes, got {got}")
    if not dtype.itemsize and all(shape):  # a small file could declare any number of empty elements
        raise ValueError(f"its header declares {dtype} of shape {shape}, whose elements are empty")
    return np.ndarray(shape, dtype, content, stream.tell(), order="F" if fortran else "C")


def read_npz(content: bytes, *, limit: int = LARGEST_ARCHIVE) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a ``.npz`` file by name.

    Args:
        content: The file.
        limit: Maximum size of all arrays in bytes.

    Raises:
        ValueError, TypeError, ArithmeticError: The file is damaged, is not an archive of arrays, or is too large.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if len(members) > MOST_MEMBERS or sum(member.file_size for member in members) > limit:
                raise ValueError(f"it has more than {MOST_MEMBERS} arrays, or its arrays have more than {limit} bytes")
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name in arrays or name == member.filename:
                    raise ValueError("it has two arrays of the same name, or a member that is not an array")
                if member.flag_bits & _ENCRYPTED or member.compress_type not in _PACKINGS:
                    raise ValueError("its arrays are encrypted, or use a compression method that numpy does not use")
                with archive.open(member) as stream:
                    unpacked = stream.read(member.file_size)
                if len(unpacked) != member.file_size:
                    raise ValueError("an array is shorter than the archive declares")
                arrays[name] = read_npy(unpacked)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError("it is not a .npz file, or it is damaged") from error
    return arrays
