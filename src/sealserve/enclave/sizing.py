"""The required size of an enclave, as a sum of items that can be displayed.

The size is address space. Without EDMM, the whole size is committed when the enclave is created, and it must be a
power of two (SECS.SIZE). With EDMM, it is only the limit up to which pages are added, so spare room costs nothing.

The constants are for the larger build, the package ``tensorflow`` 2.21. The server can also be installed with it,
although images and lock files have ``tensorflow-cpu``. All figures are from ``/proc/PID/status`` of
sealserve-model-server with MALLOC_ARENA_MAX=4:

- ``tensorflow``: 1.44 GB of address space (VmPeak) with a model of 1 KB. ``tensorflow-cpu``: 1.11 GB.
- A ResNet50 of 103 MB takes 605 MB more while it is loaded (VmHWM), and about twelve times its files after its first
  call (docs/decisions/0008-tensorflow-through-its-c-api.md). These two figures were measured with ``tensorflow``.

Compared with ``tensorflow``, the stripped libraries of the images save 368 MiB of address space and 83 MiB of resident
memory (docs/decisions/0088-tensorflow-without-gpu-code.md).

Source: Gramine 1.9, manifest-syntax.rst, "Enclave size", "EDMM" and "Stack size"; Intel SDM volume 3D, "SECS".
"""

import math
from dataclasses import dataclass
from typing import Final

from sealserve.terms import ServerKind

MEBIBYTE: Final = 2**20
STACK: Final = 2 * MEBIBYTE
"""Bytes of each thread's stack. Gramine's default of 256 KiB is too small for Python; its Python example uses 2 MiB."""
ARENAS: Final = 4
"""``MALLOC_ARENA_MAX``. Each of glibc's arenas reserves 64 MiB of address space; the default is 8 per processor."""

_PYTHON_AND_TENSORFLOW: Final = 1400 * MEBIBYTE  # for the package ``tensorflow``; ``tensorflow-cpu`` needs less
_SERVING_HEAP: Final = 512 * MEBIBYTE
_SERVING_PROGRAM: Final = 512 * MEBIBYTE  # used if the binary's own size is not known
_MODEL_FACTOR: Final = 12
_CONSTANTS_FACTOR: Final = 20
"""TensorFlow Serving holds more copies of a constant than of a variable (docs/how-to/optimize-a-model.md)."""
_REQUESTS: Final = 512 * MEBIBYTE
# Gramine 1.9, pal/src/host/linux-sgx/pal_linux_defs.h: each thread has two stacks, two SSA frames, TCS and TLS.
_SGX_THREAD: Final = (64 + 16 + 2 * 4 + 2) * 4096
# aiohttp and its imports; a body of 32 MiB (--rest_api_max_body_bytes) uses three times its size as JSON.
_REST: Final = (32 + 3 * 32) * MEBIBYTE
_LIBRARY_OS: Final = 64 * MEBIBYTE
_EDMM_FACTOR: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeItem:
    """An item of the sum: its name, its size in bytes, and the reason for the size."""

    what: str
    size: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveSize:
    """The size of an enclave in bytes, and its derivation.

    Args:
        size: The size, a power of two.
        items: The items of the sum.
        rule: How the size follows from the sum.
    """

    size: int
    items: tuple[SizeItem, ...]
    rule: str

    @property
    def needed(self) -> int:
        """The sum of the items, in bytes."""
        return sum(item.size for item in self.items)


def size_enclave(
    server: ServerKind,
    *,
    model: int,
    optimized: int = 0,
    threads: int,
    program: int = 0,
    rest: bool = False,
    edmm: bool = False,
    wanted: int | None = None,
) -> EnclaveSize:
    """Return the required size of an enclave.

    Args:
        server: The kind of model server.
        model: The size in bytes of the SavedModels that it loads.
        optimized: The part of this size that belongs to models from ``sealserve model optimize``.
        threads: The value of ``sgx.max_threads``.
        program: The size in bytes of the server's binary, or 0 if it is not known.
        rest: Whether the REST API is on.
        edmm: Whether pages are added when they are used.
        wanted: A size in bytes that the owner chose, or None to compute it.
    """
    if server is ServerKind.EMBEDDED:
        base = SizeItem(what="Python and TensorFlow", size=_PYTHON_AND_TENSORFLOW, why="measured, libraries and heap")
    else:
        known = program or _SERVING_PROGRAM
        base = SizeItem(what="TensorFlow Serving", size=known + _SERVING_HEAP, why="its binary, and 512 MiB of heap")
    items = (
        base,
        _size_of_models(server, model, optimized),
        SizeItem(what="requests", size=_REQUESTS, why="inputs and outputs: twice the largest message"),
        *([SizeItem(what="REST", size=_REST, why="its libraries, and three times the largest body")] if rest else []),
        SizeItem(
            what="threads",
            size=threads * (STACK + _SGX_THREAD),
            why=f"{threads} times a stack of 2 MiB and 360 KiB for SGX",
        ),
        SizeItem(what="library OS", size=_LIBRARY_OS, why="Gramine's own memory, and the manifest"),
    )
    needed = sum(item.size for item in items)
    if wanted is not None:
        return EnclaveSize(size=wanted, items=items, rule="set in sealserve.toml (enclave.size)")
    if edmm:
        size, rule = (
            _power_of_two(_EDMM_FACTOR * needed),
            "with EDMM a limit only: 4 times the sum, up to a power of two",
        )
    else:
        size, rule = _power_of_two(needed), "rounded up to a power of two, committed at the start"
    return EnclaveSize(size=size, items=items, rule=rule)


def _size_of_models(server: ServerKind, model: int, optimized: int) -> SizeItem:
    constants = optimized if server is ServerKind.TENSORFLOW_SERVING else 0
    size = _MODEL_FACTOR * (model - constants) + _CONSTANTS_FACTOR * constants
    if not constants:
        factors = f"{_MODEL_FACTOR}"
    elif constants == model:
        factors = f"{_CONSTANTS_FACTOR}"
    else:
        factors = f"{_MODEL_FACTOR} and {_CONSTANTS_FACTOR}"
    reason = "constants are copied more often" if constants else "read, parsed, optimized"
    return SizeItem(what="the model", size=size, why=f"{factors} times its files: {reason}")


def _power_of_two(size: int) -> int:
    return 1 << math.ceil(math.log2(size))
