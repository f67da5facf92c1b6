"""JSON and base64url from an untrusted peer, of which every value has exactly one reading.

Python's decoders accept more than one form: a JSON object with a name twice, NaN, base64 with foreign characters,
missing padding and bits that no byte contains. Two programs can read such values differently, so they are errors here.

Source: RFC 8259 (JSON), RFC 4648 section 5 (base64url), RFC 7515 section 2 (base64url without padding).
"""

import base64
import json
import re
from binascii import b2a_base64
from typing import Any, Final

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def parse_object(content: bytes) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        ValueError: The content is not UTF-8 or not JSON, is not an object, has a name twice, or is nested too deeply.
    """
    try:
        found = json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("it is not an object")  # noqa: TRY004  # one type of error for all causes
    return found


def encode_base64url(content: bytes) -> str:
    """Return ``content`` in base64url without padding."""
    # As `base64.urlsafe_b64encode` does, in fewer steps: each receipt of the model server needs it twice.
    return b2a_base64(content, newline=False).translate(_URL_SAFE, b"=").decode()


def decode_base64url(text: str) -> bytes:
    """Return the bytes of a text in base64url without padding.

    Raises:
        ValueError: The text contains another character, has an impossible length, or is not in canonical form.
    """
    if not _BASE64URL.fullmatch(text):
        raise ValueError("it contains a character outside of base64url")
    content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode_base64url(content) != text:
        raise ValueError("its last character has bits that no byte contains")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it has a name twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
