"""Search the host's files for secret data.

The search finds each 16-byte window of the secret data that has at least eight distinct byte values. Windows with fewer
values, such as a run of zeros, occur in every file. The search is exact, and fast enough for models of several
gigabytes:

1. Each 16-byte window contains an 8-byte word that is aligned in the secret data. The search therefore looks only for
   these words, at every offset of the host's files, for all secrets in one pass.
2. A filter rejects most words: a hash of the word selects 32 bits of a table, and two of these bits must be set. About
   1 of 500 words that are not in a secret passes the filter.
3. A word that passes the filter is looked up in a sorted index of the secrets' words.
4. Around a word of a secret, each 16-byte window is compared in full with the positions in the index.

numpy carries out steps 2 and 3 in several threads.
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
_CHUNK = 1 << 20  # the arrays for a chunk fit into the second-level cache of a processor
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

_MANY = 10_000

Words: TypeAlias = npt.NDArray[np.uint64]
Known: TypeAlias = dict[tuple[bytes, int], str | None]
"""Cached results: the window, and the offset of the aligned word in it; the value is the secret that contains it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A position of secret data in a file of the host. The finding names the secret but does not contain it."""

    secret: str
    path: Path
    offset: int


class Exposure:
    """A search for secrets in files.

    Args:
        secrets: Name and content of each secret. A secret must have at least 16 bytes, because a shorter secret could
            match by chance.
        public: Texts that the host has independently of the secrets, such as file names. A window that occurs in one
            of these texts is ignored.
        places: Texts that a model can also contain, such as the path of the workspace. A window that overlaps such a
            text in a host's file is ignored, because the bytes around a path can be equal by chance (for example a
            quotation mark). Texts of fewer than 8 bytes are not used.
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
            # The index is sorted by the hash, and the slot is the hash's upper bits: entries of a slot are adjacent.
            slots = self._slots(self._index)
            both = (np.uint32(1) << self._bit(self._index, 0)) | (np.uint32(1) << self._bit(self._index, 1))
            starts = np.flatnonzero(np.diff(slots, prepend=-1))
            self._filter[slots[starts]] = np.bitwise_or.reduceat(both, starts)

    def search(self, roots: Iterable[Path], *, progress: Callable[[int], None] = lambda _: None) -> list[Finding]:
        """Search the files under ``roots``, and return at most one finding for each file.

        Args:
            roots: Folders or files. A file with several hard links is searched once.
            progress: Called after each chunk with the number of bytes in it.
        """
        files = distinct(files_under(roots))
        return [found for path in files if (found := self.search_bytes(path.read_bytes(), path, progress=progress))]

    def search_bytes(
        self, content: bytes, path: Path, *, progress: Callable[[int], None] = lambda _: None
    ) -> Finding | None:
        """Return the first finding in ``content``, or None. ``path`` names the file in the finding."""
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
        """Return the position of the first (0) or second (1) bit of each hash in its slot."""
        return (hashed >> np.uint64(59 - self._bits - 5 * which)).astype(np.uint32) & np.uint32(31)

    def _known(self, hashed: Words) -> npt.NDArray[np.bool_]:
        """Return for each hash, without its lower bits, whether the index contains it."""
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
        """Return the name of a secret that contains a window. None means that no secret does, or that it is public.

        Args:
            window: 16 bytes of a host's file.
            word: An 8-byte word in the window. Only positions at which it is aligned in a secret are compared.
            before: The number of bytes of the window before the word.
        """
        hashed = (np.frombuffer(word, np.uint64) * _MULTIPLIER) & ~self._mask
        first = np.searchsorted(self._index, hashed)[0]
        last = np.searchsorted(self._index, hashed | self._mask, side="right")[0]
        if last - first > _MANY:  # a frequent word, such as eight zeros: a plain search is faster
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
        """Return whether a window of a host's file overlaps one of the texts in ``places``."""
        for place in self._places:
            reach = len(place) - 1
            if place in content[max(0, offset - reach) : offset + WINDOW + reach]:
                return True
        return False


def distinct(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield one path for each file. For a file with several hard links, this is the first path."""
    seen = set()
    for path in paths:
        status = path.stat()
        if (identity := (status.st_dev, status.st_ino)) not in seen:
            seen.add(identity)
            yield path


def files_under(roots: Iterable[Path]) -> Iterator[Path]:
    """Yield every regular file under ``roots``, sorted. A root may be a file. Symbolic links are not followed."""
    for root in roots:
        candidates = [root] if root.is_file() else sorted(root.rglob("*"))
        yield from (path for path in candidates if path.is_file() and not path.is_symlink())
