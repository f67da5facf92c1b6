"""Read files with inputs: JSON, or bytes that a model receives as one string. `sealserve.array_file` reads arrays.

The files are not trusted. Each reader checks sizes before it allocates memory.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final

from sealserve.client.tensors import MAX_BYTES
from sealserve.regular_file import InputFileSizeError, open_regular

STANDARD_INPUT: Final = "-"
LARGEST_JSON: Final = 64 * 2**20
"""Maximum size of a JSON document in bytes. Parsed, it needs about ten times as much memory."""
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


def _check_size(name: str, size: int) -> None:
    if size > MAX_BYTES:
        reason = f"it has {size} bytes, and a request can have at most {MAX_BYTES}"
        raise InputFileSizeError(f"{name} cannot be sent: {reason}.", reason=reason)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a repeated key")
    return found
