"""The processor of this machine, from ``/proc/cpuinfo``. The module needs no other package, as `probe` does.

Source: Linux, ``arch/x86/kernel/cpu/proc.c``.
"""

from pathlib import Path
from typing import Final

from sealserve.host.facts import Processor

_ROOT: Final = Path("/")
_MAX_BYTES: Final = 65536  # the first of possibly hundreds of processors


def read_processor(*, root: Path = _ROOT) -> Processor:
    """Return the first processor of this machine. The fields are empty if they cannot be read.

    Args:
        root: The root of the machine's file system.
    """
    try:
        with (root / "proc/cpuinfo").open("rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8", "replace").partition("\n\n")[0]
    except OSError:
        text = ""
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    return Processor(model=fields.get("model name", ""), flags=frozenset(fields.get("flags", "").split()))
