"""Returns memory that TensorFlow has freed to the operating system.

While TensorFlow loads a graph and prepares its first run, it makes several copies of the graph and frees most of them.
glibc keeps freed memory for later, but a server does not need it again. For ResNet50 with constants, it was more than
half of the process's memory (docs/decisions/0162-models-are-optimized-before-they-are-sealed.md).

Source: malloc_trim(3). Other C libraries do not have this function.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Any


def return_freed_memory() -> None:
    """Return freed memory to the operating system, if the C library can."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], Any] | None:
    function: Callable[[int], Any] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return function
