"""Rows of a list that Python's parser can parse many at a time: short objects and lists without escapes.

If Python's parser could differ from RapidJSON's, a run is not parsed here, but value by value.
"""

import json
import re
from typing import Any, Final

from sealserve.serving.http.json_nodes import GREATEST, LEAST, Base64, JsonObject, closed
from sealserve.serving.http.json_numbers import LARGE, PartReader
from sealserve.serving.http.json_strings import decode_base64

_RUN: Final = re.compile(rb"(?:(?:\{[^{}\\]*+\}|\[[^\[\]{}\\]*+\])[ \t\n\r]*+,[ \t\n\r]*+)++")
_LENGTH: Final = 64 * 1024
"""Maximum bytes of a run, which limits how many values are Python objects before they become nodes."""
_BASE64: Final = b"b64"
_NODE: Final = 176
"""Bytes that Python needs for an object or a list, or for a member."""
_ELEMENT: Final = 56


class RunReader(PartReader):
    """Parses runs of rows, each of which ends with a comma."""

    def read(self, start: int, *, keep: bool) -> tuple[list[Any], int]:
        """Return the rows at ``start``, and the position of the next value, or 0 if they must be parsed one by one."""
        found = _RUN.match(self._text, start, start + _LENGTH) if start >= self._tried else None
        if found is None:
            return [], 0
        run, end = bytes(found.group()), found.end()
        del found
        if keep:
            rows = run.count(b":") + run.count(b"{") + run.count(b"[")
            self._charge(rows * _NODE + run.count(b",") * _ELEMENT + len(run))
        if LARGE.search(run):  # a number that RapidJSON checks by its own rules
            self._tried = end
            return [], 0
        try:
            text = run.decode("utf-8", "surrogateescape").rstrip(" \t\n\r").removesuffix(",")
            rows_read: list[Any] = json.loads(f"[{text}]", object_pairs_hook=self._object)
            nodes = [row if isinstance(row, JsonObject | Base64) else self._node(row) for row in rows_read]
        except (ValueError, OverflowError):
            self._tried = end
            return [], 0
        return nodes, end

    def _object(self, members: list[tuple[str, Any]]) -> JsonObject | Base64:
        return as_object([(_bytes(name), self._node(value)) for name, value in members])

    def _node(self, value: Any) -> Any:
        if isinstance(value, str):
            return _bytes(value)
        if isinstance(value, list):
            if not set(map(type, value)) <= {int, float}:
                value = [self._node(element) for element in value]
            return closed(value, single=self._single)
        return float(value) if type(value) is int and not LEAST <= value <= GREATEST else value


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def as_object(members: list[tuple[bytes, Any]]) -> JsonObject | Base64:
    """Return an object in its stored form: as bytes if it is a base64 object."""
    if len(members) == 1 and members[0][0] == _BASE64 and isinstance(members[0][1], bytes):
        return Base64(decode_base64(members[0][1]))
    return JsonObject(members)
