"""Seal more than 4 GiB without the memory or disk space for it: input and output are sparse files."""

import ctypes
import hashlib
import os
import tracemalloc
from pathlib import Path

import pytest

from sealserve.sealing.codec import seal_file
from sealserve.sealing.protected_file import GROUP_PLAIN_SIZE, HEAD_SIZE, NODE_SIZE, groups, sealed_size
from sealserve.sealing.stream import open_sealed
from sealserve.secret import SecretBytes

pytestmark = pytest.mark.integration

SIZE = 4 * 2**30 + 3 * 2**20 + 5
PUNCH_HOLE_KEEP_SIZE = 3  # linux/falloc.h: FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
MARKED = (0, HEAD_SIZE, 2**31, 2**32 - 4096, 2**32, SIZE - 21)  # where the content is not zero
MARK = hashlib.sha256(b"mark").digest()[:20]


def punch(descriptor: int, offset: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = ctypes.c_int(descriptor), ctypes.c_int(PUNCH_HOLE_KEEP_SIZE), ctypes.c_long(offset), ctypes.c_long(size)
    assert libc.fallocate(*numbers) == 0, os.strerror(ctypes.get_errno())


def test_a_file_of_more_than_4_gib_is_sealed(tmp_path: Path) -> None:
    key = SecretBytes.random(16)
    with (tmp_path / "plain").open("wb") as stream:
        stream.truncate(SIZE)
        for offset in MARKED:
            os.pwrite(stream.fileno(), MARK, offset)
    kept = {max(0, offset - HEAD_SIZE) // GROUP_PLAIN_SIZE for offset in (*MARKED, SIZE)}
    pending = iter(list(groups(SIZE)))
    state = {"done": 0, "open": -1}

    def make_holes(done: int) -> None:
        """Take away the data nodes of all groups that are done, but for the marked ones."""
        state["done"] += done
        if state["open"] < 0:
            (partial,) = tmp_path.glob(".sealed.*.partial")
            state["open"] = os.open(partial, os.O_RDWR)
        while state["done"] >= HEAD_SIZE + GROUP_PLAIN_SIZE:
            state["done"] -= GROUP_PLAIN_SIZE
            passed = next(pending)
            if passed.index not in kept:
                punch(state["open"], passed.offset + NODE_SIZE, passed.data_nodes * NODE_SIZE)

    tracemalloc.start()
    try:
        result = seal_file(
            tmp_path / "plain", tmp_path / "sealed", key=key, embedded_path="p", progress=make_holes, threads=2
        )
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()
        os.close(state["open"])
    sealed = tmp_path / "sealed"
    assert (result.plain_size, result.sealed_size) == (SIZE, sealed_size(SIZE))
    assert sealed.stat().st_size == sealed_size(SIZE) > 2**32
    assert sealed.stat().st_blocks * 512 < 2**26
    with open_sealed(sealed, key=key, embedded_path="p") as content:
        for offset in MARKED:
            content.raw.seek(offset)
            assert content.raw.read(21) == MARK + b"\0"
