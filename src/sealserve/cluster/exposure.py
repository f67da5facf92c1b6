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
        public: Texts that everybody may see, such as the names of files: what stands in one of them does not count.
    """

    def __init__(self, secrets: Sequence[tuple[str, bytes]], *, public: Sequence[bytes] = ()) -> None:
        for name, content in secrets:
            if len(content) < WINDOW:
                raise ValueError(f"{name} has {len(content)} bytes; at least {WINDOW} are needed")
        self._secrets = tuple(secrets)
        self._public = tuple(public)
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
        tried: set[bytes] = set()
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
                    if finding := self._compare(content, position, path, tried):
                        return finding
        return None

    def _slots(self, words: Words) -> Words:
        return (words * _MULTIPLIER) >> np.uint64(64 - self._bits)

    def _known(self, words: Words) -> npt.NDArray[np.bool_]:
        ordered = np.sort(words)  # looking up words in order is many times faster than at random
        place = np.minimum(np.searchsorted(self._words, ordered), len(self._words) - 1)
        known = ordered[self._words[place] == ordered] if len(self._words) else ordered[:0]
        return np.isin(words, known) if len(known) else np.zeros(len(words), np.bool_)

    def _compare(self, content: bytes, position: int, path: Path, tried: set[bytes]) -> Finding | None:
        for offset in range(max(0, position - _WORD), min(position, len(content) - WINDOW) + 1):
            window = content[offset : offset + WINDOW]
            if window in tried or len(set(window)) < DISTINCT:
                continue
            tried.add(window)
            if any(window in text for text in self._public):
                continue
            for name, secret in self._secrets:
                if window in secret:
                    return Finding(secret=name, path=path, offset=offset)
        return None


def files_under(roots: Iterable[Path]) -> Iterator[Path]:
    """Yield every regular file under ``roots`` (a root may be a file), in order; links are not followed."""
    for root in roots:
        candidates = [root] if root.is_file() else sorted(root.rglob("*"))
        yield from (path for path in candidates if path.is_file() and not path.is_symlink())
