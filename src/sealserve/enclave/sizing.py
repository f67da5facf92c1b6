"""How large an enclave must be: a sum that can be shown, item by item.

The size is address space: without EDMM all of it is committed when the enclave is created, and it is a power of two
(SECS.SIZE). With EDMM it is only the limit up to which pages are added, so there is room to spare for nothing.

Figures: sealserve-model-server with TensorFlow 2.21 and MALLOC_ARENA_MAX=4, from ``/proc/PID/status``: 1.44 GB of
address space (VmPeak) with a model of 1 KB; ResNet50 of 103 MB takes 605 MB more while it is loaded (VmHWM), and about
twelve times its files after its first call (docs/decisions/0008-tensorflow-through-its-c-api.md).

Source: Gramine 1.9, manifest-syntax.rst, "Enclave size", "EDMM" and "Stack size"; Intel SDM volume 3D, "SECS".
"""

import math
from dataclasses import dataclass
from typing import Final

from sealserve.terms import ServerKind

MEBIBYTE: Final = 2**20
STACK: Final = 2 * MEBIBYTE
"""Of each thread. Gramine's default of 256 KiB is too small for Python, whose example in Gramine takes 2 MiB."""
ARENAS: Final = 4
"""``MALLOC_ARENA_MAX``: each of glibc's arenas reserves 64 MiB of address space, by default 8 for each processor."""

_PYTHON_AND_TENSORFLOW: Final = 1400 * MEBIBYTE
_SERVING_HEAP: Final = 512 * MEBIBYTE
_SERVING_PROGRAM: Final = 512 * MEBIBYTE  # where the binary's own size is not known
_MODEL_FACTOR: Final = 12
_REQUESTS: Final = 512 * MEBIBYTE
# Gramine 1.9, pal/src/host/linux-sgx/pal_linux_defs.h: two stacks, two SSA frames, TCS and TLS of each thread.
_SGX_THREAD: Final = (64 + 16 + 2 * 4 + 2) * 4096
# aiohttp and what it imports; a body of 32 MiB (--rest_api_max_body_bytes) takes three times its size as JSON.
_REST: Final = (32 + 3 * 32) * MEBIBYTE
_LIBRARY_OS: Final = 64 * MEBIBYTE
_EDMM_FACTOR: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeItem:
    """A part of the sum: what for, how many bytes, and why so many."""

    what: str
    size: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveSize:
    """The size of an enclave, in bytes, and how it came about.

    Args:
        size: A power of two.
        items: What was added up.
        rule: What was done with the sum.
    """

    size: int
    items: tuple[SizeItem, ...]
    rule: str

    @property
    def needed(self) -> int:
        """The sum, in bytes."""
        return sum(item.size for item in self.items)


def size_enclave(
    server: ServerKind,
    *,
    model: int,
    threads: int,
    program: int = 0,
    rest: bool = False,
    edmm: bool = False,
    wanted: int | None = None,
) -> EnclaveSize:
    """Return how large an enclave must be.

    Args:
        server: Which model server.
        model: Bytes of the SavedModels that it loads.
        threads: ``sgx.max_threads``.
        program: Bytes of the server's binary, or 0 if that is not known.
        rest: Whether it has a REST API.
        edmm: Whether pages are added when they are used.
        wanted: A size that was chosen, in bytes, or None for the rule's.
    """
    if server is ServerKind.EMBEDDED:
        base = SizeItem(what="Python and TensorFlow", size=_PYTHON_AND_TENSORFLOW, why="measured, libraries and heap")
    else:
        known = program or _SERVING_PROGRAM
        base = SizeItem(what="TensorFlow Serving", size=known + _SERVING_HEAP, why="its binary, and 512 MiB of heap")
    items = (
        base,
        SizeItem(
            what="the model",
            size=_MODEL_FACTOR * model,
            why=f"{_MODEL_FACTOR} times its files: read, parsed, optimised",
        ),
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
        return EnclaveSize(size=wanted, items=items, rule="as sealserve.toml says (enclave.size)")
    if edmm:
        size, rule = _power_of_two(_EDMM_FACTOR * needed), "with EDMM a limit only: four times, to a power of two"
    else:
        size, rule = _power_of_two(needed), "to a power of two, all of it committed at the start"
    return EnclaveSize(size=size, items=items, rule=rule)


def _power_of_two(size: int) -> int:
    return 1 << math.ceil(math.log2(size))
