"""Search what a host holds for anything that it must not see.

Any 16-byte window of the secret data counts, if it has at least eight distinct byte values (a run of zeros is in
every file). The search is exact, and fast enough for models of gigabytes:

1. A 16-byte window always contains an 8-byte word that is aligned in the secret data. So the host's files are searched
   for these words only, at every offset, for all secrets in one pass.
2. A filter rejects most words: a hash of the word chooses 32 bits of a table, and two of these that must be set. About
   1 of 500 foreign words passes.
3. A word that passes is looked up in a sorted index of the secrets' words.
4. Around a word of a secret, each 16-byte window is compared in full with the places that the index names.

Steps 2 and 3 are numpy's, which runs in several threads at once.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

WINDOW = 16
DISTINCT = 8
_WORD = 8
_CHUNK = 1 << 20  # the arrays that belong to it fit into a processor's second cache
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

_MANY = 10_000

Words: TypeAlias = npt.NDArray[np.uint64]
Known: TypeAlias = dict[tuple[bytes, int], str | None]
"""The secret, if there is one, that has a window around a word of it that begins at a certain byte of the window."""


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
        joined = np.concatenate(words) if words else np.empty(0, np.uint64)
        self._firsts = np.cumsum([0, *map(len, words)])  # the number of each secret's first word
        # An entry of the index: the upper bits of a word's hash, then its number.
        self._mask = np.uint64((1 << len(joined).bit_length()) - 1)
        self._index = np.sort((joined * _MULTIPLIER) & ~self._mask | np.arange(len(joined), dtype=np.uint64))
        self._bits = min(len(joined).bit_length(), 64 - len(joined).bit_length() - 10)
        self._filter = np.zeros(1 << self._bits, np.uint32)
        if len(joined):
            # The index is sorted by the hash, whose upper bits are the slot: what belongs to a slot stands together.
            slots = self._slots(self._index)
            both = (np.uint32(1) << self._bit(self._index, 0)) | (np.uint32(1) << self._bit(self._index, 1))
            starts = np.flatnonzero(np.diff(slots, prepend=-1))
            self._filter[slots[starts]] = np.bitwise_or.reduceat(both, starts)

    def search(self, roots: Iterable[Path], *, progress: Callable[[int], None] = lambda _: None) -> list[Finding]:
        """Return where the files under ``roots`` hold a window of a secret, at most one finding for each file.

        Args:
            roots: Folders or files. A file with several names (hard links) is searched once.
            progress: Called with the number of bytes of each piece when it is searched.
        """
        files = distinct(files_under(roots))
        return [found for path in files if (found := self.search_bytes(path.read_bytes(), path, progress=progress))]

    def search_bytes(
        self, content: bytes, path: Path, *, progress: Callable[[int], None] = lambda _: None
    ) -> Finding | None:
        """Return the first finding in ``content``."""
        first = None
        starts = range(0, len(content), _CHUNK)
        search = partial(self._search_chunk, content, path, {})
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            for start, finding in zip(starts, threads.map(search, starts), strict=True):
                first = first or finding
                progress(min(_CHUNK, len(content) - start))
        return first

    def _search_chunk(self, content: bytes, path: Path, known: Known, start: int) -> Finding | None:
        block = content[start : start + _CHUNK + WINDOW - 1]
        for shift in range(_WORD):
            count = (len(block) - shift) // _WORD
            if count <= 0:
                continue
            words = np.frombuffer(block, np.uint64, count, shift)
            hashed = words * _MULTIPLIER
            chosen = self._filter.take(self._slots(hashed))
            likely = np.flatnonzero((chosen >> self._bit(hashed, 0)) & np.uint32(1))
            likely = likely[(chosen[likely] >> self._bit(hashed[likely], 1)) & np.uint32(1) == 1]
            found = likely[self._known(hashed[likely] & ~self._mask)]
            for index in found.tolist():
                position = start + shift + index * _WORD
                if finding := self._compare(content, position, path, known):
                    return finding
        return None

    def _slots(self, hashed: Words) -> npt.NDArray[np.int64]:
        return (hashed >> np.uint64(64 - self._bits)).view(np.int64)

    def _bit(self, hashed: Words, which: int) -> npt.NDArray[np.uint32]:
        """Return the first (0) or the second (1) bit of a slot that belongs to each hash."""
        return (hashed >> np.uint64(59 - self._bits - 5 * which)).astype(np.uint32) & np.uint32(31)

    def _known(self, hashed: Words) -> npt.NDArray[np.bool_]:
        """Return which hashes, without their lower bits, are in the index."""
        if not len(self._index):
            return np.zeros(len(hashed), np.bool_)
        place = np.minimum(np.searchsorted(self._index, hashed), len(self._index) - 1)
        known: npt.NDArray[np.bool_] = self._index[place] & ~self._mask == hashed
        return known

    def _compare(self, content: bytes, position: int, path: Path, known: Known) -> Finding | None:
        word = content[position : position + _WORD]
        for offset in range(max(0, position - _WORD), min(position, len(content) - WINDOW) + 1):
            window = content[offset : offset + WINDOW]
            if len(set(window)) < DISTINCT:
                continue
            key = window, position - offset
            if key not in known:
                known[key] = self._secret_with(window, word, position - offset)
            if (secret := known[key]) is not None and not self._touches_place(content, offset):
                return Finding(secret=secret, path=path, offset=offset)
        return None

    def _secret_with(self, window: bytes, word: bytes, before: int) -> str | None:
        """Return the name of a secret that a window stands in, or None if there is none, or if the window is public.

        Args:
            window: 16 bytes of a host's file.
            word: An 8-byte word in it. Only places where it is aligned in the secret are compared.
            before: The number of bytes before the word.
        """
        hashed = (np.frombuffer(word, np.uint64) * _MULTIPLIER) & ~self._mask
        first = np.searchsorted(self._index, hashed)[0]
        last = np.searchsorted(self._index, hashed | self._mask, side="right")[0]
        if last - first > _MANY:  # a word such as eight zeros: a plain search is faster
            found = next((name for name, secret in self._secrets if window in secret), None)
        else:
            found = None
            for number in (self._index[first:last] & self._mask).tolist():
                at = int(np.searchsorted(self._firsts, number, side="right")) - 1
                name, secret = self._secrets[at]
                start = (number - int(self._firsts[at])) * _WORD - before
                if start >= 0 and secret[start : start + WINDOW] == window:
                    found = name
                    break
        return None if found is None or window in self._public else found

    def _touches_place(self, content: bytes, offset: int) -> bool:
        """Return whether a window of a host's file overlaps with one of the places."""
        for place in self._places:
            reach = len(place) - 1
            if place in content[max(0, offset - reach) : offset + WINDOW + reach]:
                return True
        return False


def distinct(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the paths of different files: of a file with several names, the first."""
    seen = set()
    for path in paths:
        status = path.stat()
        if (identity := (status.st_dev, status.st_ino)) not in seen:
            seen.add(identity)
            yield path


def files_under(roots: Iterable[Path]) -> Iterator[Path]:
    """Yield every regular file under ``roots`` (a root may be a file), in order; links are not followed."""
    for root in roots:
        candidates = [root] if root.is_file() else sorted(root.rglob("*"))
        yield from (path for path in candidates if path.is_file() and not path.is_symlink())
