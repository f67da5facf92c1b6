"""JSON parser with TensorFlow Serving's behavior: the accepted input, its meaning, and each error's message and offset.

The parser uses its own stack, so the nesting depth is not limited. It checks members that no method uses, but does not
store them. Lists of numbers and of strings are parsed many values at a time.

Source: RapidJSON 1.1.0, ``reader.h`` (``IterativeParse``), with the flags of tensorflow/serving,
``util/json_tensor.cc`` (``ParseJson``). Bytes after the document are ignored.
"""

import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any, Final

from sealserve.serving.http.json_errors import HIDDEN_VALUE, JsonFormError, syntax_error
from sealserve.serving.http.json_nodes import JsonObject, closed
from sealserve.serving.http.json_numbers import ArrayReader, Text, number
from sealserve.serving.http.json_runs import RunReader, as_object
from sealserve.serving.http.json_strings import string
from sealserve.serving.request_errors import RequestCode

SIGNATURE: Final = "signature_name"
INSTANCES: Final = "instances"
INPUTS: Final = "inputs"
EXAMPLES: Final = "examples"
CONTEXT: Final = "context"

MEMBERS: Final = frozenset(name.encode() for name in (SIGNATURE, INSTANCES, INPUTS, EXAMPLES, CONTEXT))
"""The members of TensorFlow Serving's requests."""
_MARK: Final = b"\xef\xbb\xbf"
_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
_STRINGS: Final = re.compile(rb'(?:"[^"\\\x00-\x1f]*+"[ \t\n\r]*+,[ \t\n\r]*+)++')
_STRING: Final = re.compile(rb'"([^"]*+)"')
_WORDS: Final = {ord("t"): (b"true", True), ord("f"): (b"false", False), ord("n"): (b"null", None)}

_ARRAY, _ARRAY_END, _OBJECT, _OBJECT_END, _QUOTE, _COMMA, _COLON = b'[]{}",:'
_NODE: Final = 120
"""Bytes that Python needs for a list or an object, including its place in the enclosing list."""
_SMALL: Final = 56
"""The same for a number or an empty string."""
_STEP: Final = 64 * 1024

Charge = Callable[[int], None]


def read(
    body: Text, charge: Charge = lambda _: None, *, single: bool = False, members: AbstractSet[bytes] = MEMBERS
) -> JsonObject:
    """Parse the JSON object in ``body``; return it with the members that a method uses.

    Args:
        body: The document.
        single: Whether single precision is enough for fractions, which halves their memory.
        charge: Called periodically with the bytes of memory that the document uses in addition to its text.
        members: The names of the members to store.

    Raises:
        RequestError: `request.json-syntax`: The document is not valid JSON.
        JsonFormError: The document is not an object.
        RequestError: The errors of ``charge``.
    """
    if not body:
        raise RequestCode.JSON_SYNTAX.error("JSON Parse error: The document is empty")
    return _Reader(body, charge, single=single, members=members).document()


class _Reader:
    def __init__(self, text: Text, charge: Charge, *, single: bool, members: AbstractSet[bytes]) -> None:
        self._text = text
        self._members = members
        self._size = len(text)
        self._charge_now = charge
        self._owed = 0
        self._arrays = ArrayReader(text, single=single, charge=self._charge)
        self._runs = RunReader(text, single=single, charge=self._charge)
        self._single = single

    def document(self) -> JsonObject:
        position = 0
        for byte in _MARK:
            position += self._at(position) == byte
        position = self._space(position)
        first = self._at(position)
        if not first or first in b"]},:":
            raise syntax_error("The document is empty.", position)
        if first != _OBJECT:
            self._value(position, keep=False)
            raise JsonFormError(f"{HIDDEN_VALUE} Is not object")
        members: dict[bytes, Any] = {}
        position = self._space(position + 1)
        if self._at(position) == _OBJECT_END:
            return JsonObject(())
        while True:
            name, position = self._name(position, keep=True)
            keep = name in self._members and name not in members  # the first member with a name counts
            value, position = self._value(position, keep=keep)
            if keep:
                members[name] = value
            position = self._space(position)
            if self._at(position) == _OBJECT_END:
                self._charge(_STEP)
                return JsonObject(tuple(members.items()))
            position = self._comma(position, "Missing a comma or '}' after an object member.")

    def _value(self, position: int, *, keep: bool) -> tuple[Any, int]:
        """Return the value at ``position`` (None if it is not kept), and its end."""
        around = _Around(keep=keep)
        while True:
            whole, node, position = self._begin(position, around)
            if whole:
                ended, node, position = self._follow(node, position, around)
                if ended:
                    return node, position

    def _begin(self, position: int, around: "_Around") -> tuple[bool, Any, int]:
        """Parse a value, or many rows, or open the list or object at ``position``.

        Returns:
            Whether a value is complete, the value, and its end. If it is not complete, the position of the next value.
        """
        byte = self._at(position)
        if around.kinds[-1:] == b"[" and byte in {_ARRAY, _OBJECT}:
            rows, end = self._runs.read(position, keep=around.keep)
            if end:
                if around.keep:
                    around.lists[-1].extend(rows)
                return False, None, end
        if byte == _ARRAY:
            numbers, end = self._arrays.read(position, keep=around.keep)
            if end:
                return True, numbers, end
        if byte not in {_ARRAY, _OBJECT}:
            return True, *self._scalar(position, byte, keep=around.keep)
        if around.keep:
            self._charge(_NODE)
        position = self._space(position + 1)
        if self._at(position) == (_ARRAY_END if byte == _ARRAY else _OBJECT_END):
            return True, [] if byte == _ARRAY else JsonObject(()), position + 1
        around.open(byte)
        if byte == _OBJECT:
            name, position = self._name(position, keep=around.keep)
            around.names.append(name)
        return False, None, position

    def _follow(self, node: Any, position: int, around: "_Around") -> tuple[bool, Any, int]:
        """Parse what follows a value: the ends of lists and objects, up to the next value.

        Returns:
            Whether all lists and objects are closed, the complete value, and its end; otherwise, the position of the
            next value.
        """
        while around.kinds:
            position = self._space(position)
            byte = self._at(position)
            around.add(node)
            if around.kinds[-1] == _ARRAY:
                if byte != _ARRAY_END:
                    position = self._comma(position, "Missing a comma or ']' after an array element.")
                    return False, None, self._strings(position, around)
                node = self._closed(around.close(), position) if around.keep else around.close()
            else:
                if byte != _OBJECT_END:
                    position = self._comma(position, "Missing a comma or '}' after an object member.")
                    around.names[-1], position = self._name(position, keep=around.keep)
                    return False, None, position
                around.names.pop()
                node = as_object(around.close()) if around.keep else around.close()
            position += 1
        return True, node, position

    def _scalar(self, position: int, byte: int, *, keep: bool) -> tuple[Any, int]:
        if keep:
            self._charge(_SMALL)
        if byte == _QUOTE:
            content, end = string(self._text, position)
            if keep:
                self._charge(len(content))
            return content, end
        if byte not in _WORDS:
            return number(self._text, position)
        word, meaning = _WORDS[byte]
        for offset, expected in enumerate(word):
            if self._at(position + offset) != expected:
                raise syntax_error("Invalid value.", position + offset)
        return meaning, position + len(word)

    def _strings(self, position: int, around: "_Around") -> int:
        """Parse the simple strings of a list, except its last one; return their end."""
        if self._at(position) != _QUOTE:
            return position
        found = _STRINGS.match(self._text, position)
        if found is None:
            return position
        end = found.end()
        del found
        while around.keep and position < end:
            cut = self._text.rfind(b",", position, min(position + _STEP, end)) + 1
            cut = cut if cut > position and self._text.count(b'"', position, cut) % 2 == 0 else end
            self._charge(self._text.count(b'"', position, cut) // 2 * _SMALL + cut - position)
            around.lists[-1].extend(map(bytes, _STRING.findall(self._text, position, cut)))
            position = cut
        return end

    def _name(self, position: int, *, keep: bool) -> tuple[bytes, int]:
        """Return the name of a member, and the position of its value."""
        if self._at(position) != _QUOTE:
            raise syntax_error("Missing a name for object member.", position)
        name, position = string(self._text, position)
        position = self._space(position)
        if self._at(position) != _COLON:
            raise syntax_error("Missing a colon after a name of object member.", position)
        if not keep:
            return b"", self._space(position + 1)
        self._charge(_SMALL + len(name))
        return name, self._space(position + 1)

    def _comma(self, position: int, message: str) -> int:
        if self._at(position) != _COMMA:
            raise syntax_error(message, position)
        return self._space(position + 1)

    def _closed(self, values: list[Any], position: int) -> Any:
        try:
            return closed(values, single=self._single)
        except OverflowError as error:
            raise syntax_error("Number too big to be stored in double.", position) from error

    def _at(self, position: int) -> int:
        """Return the byte at ``position``. At the end, return 0, which ends the document like in RapidJSON."""
        return self._text[position] if position < self._size else 0

    def _space(self, position: int) -> int:
        found = _SPACE.match(self._text, position)
        return found.end() if found else position

    def _charge(self, size: int) -> None:
        self._owed += size
        if self._owed >= _STEP:
            self._charge_now(self._owed)
            self._owed = 0


class _Around:
    """The lists and objects around a value.

    Args:
        keep: Whether their contents are stored.
    """

    def __init__(self, *, keep: bool) -> None:
        self.keep = keep
        self.kinds = bytearray()  # their opening brackets
        self.lists: list[list[Any]] = []  # their contents so far; empty if they are not stored
        self.names: list[bytes] = []  # for each object, the name of the current member

    def open(self, kind: int) -> None:
        """Begin a list or an object inside."""
        self.kinds.append(kind)
        if self.keep:
            self.lists.append([])

    def add(self, node: Any) -> None:
        """Add a value to the innermost list or object."""
        if self.keep:
            self.lists[-1].append(node if self.kinds[-1] == _ARRAY else (self.names[-1], node))

    def close(self) -> list[Any]:
        """Close the innermost list or object, and return its contents."""
        self.kinds.pop()
        return self.lists.pop() if self.keep else []
