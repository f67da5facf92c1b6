"""Parallel work on the parts of a file, in a bounded window, with the results in the order of the parts."""

import contextlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from sealserve.sealing import protected_file
from sealserve.sealing.node_cipher import SPARE, NodeCipher
from sealserve.sealing.protected_file import DATA_PER_MHT, NODE_SIZE, Group

_RUN: Final = 8  # groups (3 MiB) per task, so that the cost of the hand-over between threads is small
Part = TypeVar("Part")
Result = TypeVar("Result")


def fitting_threads(file_size: int, cipher: NodeCipher) -> int:
    """Return the useful number of threads for a content of ``file_size`` bytes, at most one per available processor."""
    if not cipher.scales or protected_file.mht_nodes(file_size) < 2 * _RUN:
        return 1
    return len(os.sched_getaffinity(0))


def runs(file_size: int, threads: int) -> Iterator[tuple[Group, ...]]:
    """Yield the groups of a content of ``file_size`` bytes in runs. Each run is one task of one thread."""
    groups = protected_file.groups(file_size)
    while run := tuple(itertools.islice(groups, _RUN if threads > 1 else 1)):
        yield run


class GroupBuffers:
    """Buffers for the data nodes of one group, encrypted and in plaintext, separate for each thread.

    Args:
        file_size: The size of the content in bytes. Small contents need smaller buffers.
    """

    def __init__(self, file_size: int) -> None:
        self._size = min(protected_file.data_nodes(file_size), DATA_PER_MHT) * NODE_SIZE
        self._local = threading.local()

    def of_this_thread(self) -> tuple[memoryview, memoryview]:
        """Return this thread's buffers: for encrypted nodes with the cipher's spare bytes, and for plaintext."""
        if not hasattr(self._local, "sealed"):
            self._local.sealed = memoryview(bytearray(self._size + SPARE))
            self._local.plain = memoryview(bytearray(self._size))
        return self._local.sealed, self._local.plain


@contextlib.contextmanager
def in_order(
    work: Callable[[Part], Result], parts: Iterable[Part], *, threads: int
) -> Iterator[Iterator[tuple[Part, Result]]]:
    """Yield an iterator over ``parts`` and their results from ``work``, in order.

    With one thread, the caller's thread does all the work. When the context ends for any reason, no work is running.

    Args:
        work: Called with each part in one of ``threads`` threads. Its exception is raised at the position of its
            result.
        parts: Consumed in the caller's thread, at most twice ``threads`` ahead. Their exceptions are raised in order
            too.
        threads: The number of threads, at least 1.
    """
    if threads == 1:
        yield ((part, work(part)) for part in parts)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="sealing") as pool:
        pending: deque[tuple[Part, Future[Result]]] = deque()
        try:
            yield _results(work, iter(parts), pool, pending, window=2 * threads)
        finally:
            for _, future in pending:
                future.cancel()


def _results(
    work: Callable[[Part], Result],
    parts: Iterator[Part],
    pool: ThreadPoolExecutor,
    pending: deque[tuple[Part, Future[Result]]],
    *,
    window: int,
) -> Iterator[tuple[Part, Result]]:
    failure: Exception | None = None
    exhausted = False
    while pending or not exhausted:
        while len(pending) < window and not exhausted:
            try:
                part = next(parts)
            except StopIteration:
                exhausted = True
            except Exception as error:  # noqa: BLE001  # raised later, because an earlier part may have failed too
                failure, exhausted = error, True
            else:
                pending.append((part, pool.submit(work, part)))
        if pending:
            part, future = pending[0]
            result = future.result()
            pending.popleft()
            yield part, result
    if failure is not None:
        raise failure
