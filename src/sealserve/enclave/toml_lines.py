"""Finds the line of each value in a TOML text, because the standard library's parser does not report lines.

The text must be one that ``tomllib`` accepts. So this module looks only for the beginning of keys, values and elements.

Source: TOML 1.0.0, sections "Keys", "String", "Array", "Table", "Inline Table", "Array of Tables".
"""

import re
import tomllib
from typing import Final

Path = tuple[str | int, ...]
"""Keys and positions in arrays, from the top."""

_SPACE: Final = re.compile(r"[ \t]*")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|[A-Za-z0-9_-]+')
_STRING: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}|\'\'\'(?:[^\']|\'{1,2}(?!\'))*\'{3,5}|"(?:[^"\\]|\\.)*"|\'[^\']*\'',
    re.DOTALL,
)
_SCALAR: Final = re.compile(r"[^,\]}#\r\n]+")


def find_lines(text: str) -> dict[Path, int]:
    """Return the line, from 1, of each table, key and element in ``text``, which must be valid TOML."""
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line, self._counted = 1, 0
        self._lines: dict[Path, int] = {}
        self._tables: dict[Path, int] = {}  # the number of tables so far in each array of tables

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip(_BLANK) < len(self._text):
            if self._text.startswith("[[", self._at):
                self._at += 2
                line, keys = self._current_line(), self._keys()
                self._at += 2
                array = (*self._resolve(keys[:-1]), keys[-1])
                self._lines.setdefault(array, line)
                table = (*array, self._tables.get(array, 0))
                self._tables[array] = self._tables.get(array, 0) + 1
                self._lines[table] = line
            elif self._text[self._at] == "[":
                self._at += 1
                line, keys = self._current_line(), self._keys()
                self._at += 1
                for length in range(1, len(keys) + 1):
                    self._lines.setdefault(self._resolve(keys[:length]), line)
                table = self._resolve(keys)
            else:
                self._pair(table)
        return self._lines

    def _pair(self, table: Path) -> None:
        line, keys = self._current_line(), self._keys()
        for length in range(1, len(keys) + 1):
            self._lines.setdefault((*table, *keys[:length]), line)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value((*table, *keys))

    def _value(self, path: Path) -> None:
        if self._text[self._at] == "[":
            self._at += 1
            index = 0
            while self._text[self._skip(_BLANK)] != "]":
                self._lines[*path, index] = self._current_line()
                self._value((*path, index))
                self._skip_comma(_BLANK)
                index += 1
            self._at += 1
        elif self._text[self._at] == "{":
            self._at += 1
            while self._text[self._skip(_BLANK)] != "}":
                self._pair(path)
                self._skip_comma(_BLANK)
            self._at += 1
        elif self._text[self._at] in "\"'":
            self._skip(_STRING)
        else:
            self._skip(_SCALAR)

    def _keys(self) -> Path:
        keys: list[str] = []
        while True:
            self._skip(_SPACE)
            start = self._at
            token = self._text[start : self._skip(_KEY)]
            keys.append(tomllib.loads(f"key = {token}")["key"] if token[0] in "\"'" else token)
            if not self._text.startswith(".", self._skip(_SPACE)):
                return tuple(keys)
            self._at += 1

    def _resolve(self, keys: Path) -> Path:
        """Return the path of the table with these keys. In an array of tables, this is the last table so far."""
        path: Path = ()
        for key in keys:
            path = (*path, key)
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
        return path

    def _skip_comma(self, blank: re.Pattern[str]) -> None:
        if self._text.startswith(",", self._skip(blank)):
            self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at + 1
        return self._at

    def _current_line(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line
