"""Read files with inputs: ``.npy``, ``.npz``, JSON, or bytes that a model receives as one string.

The files are not trusted. Each reader checks sizes before it allocates memory, and nothing is unpickled.
"""

import io
import json
import math
import os
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePath
from tokenize import TokenError
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sealserve.client.tensors import MAX_BYTES
from sealserve.regular_file import InputFileSizeError, open_regular

STANDARD_INPUT: Final = "-"
LARGEST_JSON: Final = 64 * 2**20
"""Maximum size of a JSON document in bytes. Parsed, it needs about ten times as much memory."""
LARGEST_ARCHIVE: Final = 2**30
"""Maximum size of all arrays of a ``.npz`` file in bytes. Deflate can compress by a factor of up to a thousand."""
MOST_MEMBERS: Final = 1000

NPY: Final = b"\x93NUMPY"
NPZ: Final = (b"PK\x03\x04", b"PK\x05\x06")
_PACKINGS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED: Final = 1  # bit 0 of a member's flags
_PICTURES: Final = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF", b"RIFF": "WebP", b"BM": "BMP"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The content of a file or of standard input.

    Args:
        name: Name in error messages.
        suffix: Suffix of the file name in lower case, such as ``.npy``; empty for standard input.
        content: The bytes.
    """

    name: str
    suffix: str
    content: bytes

    @property
    def picture(self) -> str | None:
        """The format of a picture, or None."""
        return next((kind for magic, kind in _PICTURES.items() if self.content.startswith(magic)), None)


def read_source(name: str) -> Source:
    """Read a file, or standard input if ``name`` is ``-``.

    Raises:
        InputFileError: The file is missing, not a regular file, or cannot be read.
        InputFileSizeError: The file is larger than a request can be.
    """
    if name == STANDARD_INPUT:
        content = sys.stdin.buffer.read(MAX_BYTES + 1)
        _check_size("standard input", len(content))
        return Source(name="standard input", suffix="", content=content)
    with open_regular(Path(name)) as descriptor, open(descriptor, "rb", closefd=False) as stream:
        _check_size(name, os.fstat(descriptor).st_size)
        content = stream.read(MAX_BYTES + 1)
    _check_size(name, len(content))
    return Source(name=name, suffix=PurePath(name).suffix.lower(), content=content)


def read_json(content: bytes | str) -> Any:
    """Return the value of a JSON document.

    Raises:
        ValueError: The content is not JSON, is too large, or has an object with a repeated key.
        RecursionError: The document is nested too deeply.
    """
    if len(content) > LARGEST_JSON:
        raise ValueError(f"JSON can have at most {LARGEST_JSON} bytes, so give a .npy or .npz file instead")
    try:
        return json.loads(content, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("its lists or objects are nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None


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


def read_npz(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a ``.npz`` file by name.

    Raises:
        ValueError, TypeError, ArithmeticError: The file is damaged, is not an archive of arrays, or is too large.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if len(members) > MOST_MEMBERS or sum(member.file_size for member in members) > LARGEST_ARCHIVE:
                raise ValueError(
                    f"it has more than {MOST_MEMBERS} arrays, or its arrays have more than {LARGEST_ARCHIVE} bytes"
                )
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


def _check_size(name: str, size: int) -> None:
    if size > MAX_BYTES:
        reason = f"it has {size} bytes, and a request can have at most {MAX_BYTES}"
        raise InputFileSizeError(f"{name} cannot be sent: {reason}.", reason=reason)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a repeated key")
    return found
