"""Search what a host holds for anything that it must not see.

Any 16-byte window of the secret data counts, if it has at least eight distinct byte values (a run of zeros is in
every file). The search is exact, and fast enough for models of gigabytes: a 16-byte window always contains an
8-byte word that is aligned in the secret data, so the host's files are searched for those words at every offset,
first through a bitmap, and only what is left is compared in full.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

WINDOW = 16
DISTINCT = 8
_WORD = 8
_MOST_BITS = 27  # a bitmap of 128 MiB
_CHUNK = 8 << 20
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Words: TypeAlias = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A place on the host that holds something secret. It names the secret, and never shows it."""

    secret: str
    path: Path
    offset: int


class Exposure:
    """A search for secrets.

    Args:
        secrets: Name and content of each secret. Shorter than 16 bytes is refused: it would match by chance.
        public: Texts that the host has for reasons of its own, such as the names of files. A window that stands in one
            of them does not count.
        places: Texts such as the path of the workspace, which a model can contain as well. A window that touches one of
            them in a host's file does not count: what stands around a path can be the same by chance, for example a
            quotation mark. Texts of fewer than 8 bytes are ignored.
    """

    def __init__(
        self, secrets: Sequence[tuple[str, bytes]], *, public: Sequence[bytes] = (), places: Sequence[bytes] = ()
    ) -> None:
        for name, content in secrets:
            if len(content) < WINDOW:
                raise ValueError(f"{name} has {len(content)} bytes; at least {WINDOW} are needed")
        self._secrets = tuple(secrets)
        self._public = b"\0".join((*public, *places))
        self._places = tuple(place for place in places if len(place) >= _WORD)
        words = [np.frombuffer(content, np.uint64, len(content) // _WORD) for _, content in secrets]
        self._words = np.sort(np.concatenate(words)) if words else np.empty(0, np.uint64)
        self._bits = min(len(self._words).bit_length() + 5, _MOST_BITS)
        self._bitmap = np.zeros(1 << self._bits, np.bool_)
        self._bitmap[self._slots(self._words)] = True

    def search(self, roots: Iterable[Path]) -> list[Finding]:
        """Return where the files under ``roots`` hold a window of a secret, at most one finding for each file."""
        return [finding for path in files_under(roots) if (finding := self.search_bytes(path.read_bytes(), path))]

    def search_bytes(self, content: bytes, path: Path) -> Finding | None:
        """Return the first finding in ``content``."""
        known: dict[bytes, str | None] = {}
        for start in range(0, len(content), _CHUNK):
            block = content[start : start + _CHUNK + WINDOW - 1]
            for shift in range(_WORD):
                count = (len(block) - shift) // _WORD
                if count <= 0:
                    continue
                words = np.frombuffer(block, np.uint64, count, shift)
                likely = np.flatnonzero(self._bitmap[self._slots(words)])
                found = likely[self._known(words[likely])]
                for index in found.tolist():
                    position = start + shift + index * _WORD
                    if finding := self._compare(content, position, path, known):
                        return finding
        return None

    def _slots(self, words: Words) -> Words:
        return (words * _MULTIPLIER) >> np.uint64(64 - self._bits)

    def _known(self, words: Words) -> npt.NDArray[np.bool_]:
        ordered = np.sort(words)  # looking up words in order is many times faster than at random
        place = np.minimum(np.searchsorted(self._words, ordered), len(self._words) - 1)
        known = ordered[self._words[place] == ordered] if len(self._words) else ordered[:0]
        return np.isin(words, known) if len(known) else np.zeros(len(words), np.bool_)

    def _compare(self, content: bytes, position: int, path: Path, known: dict[bytes, str | None]) -> Finding | None:
        for offset in range(max(0, position - _WORD), min(position, len(content) - WINDOW) + 1):
            window = content[offset : offset + WINDOW]
            if len(set(window)) < DISTINCT:
                continue
            if window not in known:
                known[window] = self._secret_with(window)
            if (secret := known[window]) is not None and not self._touches_place(content, offset):
                return Finding(secret=secret, path=path, offset=offset)
        return None

    def _secret_with(self, window: bytes) -> str | None:
        """Return the name of the first secret that a window stands in, or None if the window is public."""
        if window in self._public:
            return None
        return next((name for name, secret in self._secrets if window in secret), None)

    def _touches_place(self, content: bytes, offset: int) -> bool:
        """Return whether a window of a host's file overlaps with one of the places."""
        for place in self._places:
            reach = len(place) - 1
            if place in content[max(0, offset - reach) : offset + WINDOW + reach]:
                return True
        return False


def files_under(roots: Iterable[Path]) -> Iterator[Path]:
    """Yield every regular file under ``roots`` (a root may be a file), in order; links are not followed."""
    for root in roots:
        candidates = [root] if root.is_file() else sorted(root.rglob("*"))
        yield from (path for path in candidates if path.is_file() and not path.is_symlink())
