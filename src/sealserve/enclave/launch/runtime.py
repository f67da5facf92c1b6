"""The protocol of runtimes, which run an enclave of a release on this machine.

Three runtimes exist: Gramine on SGX (`gramine_sgx.GramineSgx`), and two runtimes of the simulated platform, which may
not be installed (`simulator.load_simulator`): sealserve's own loader, and Gramine's library OS without SGX.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from sealserve.enclave.findings import Danger


class Runtime(Protocol):
    """Runs enclaves in the main thread of this process. The process must not have started other threads."""

    def run(self, bundle: Path, name: str, *, dangerous: Collection[Danger]) -> int:
        """Start an enclave, pass signals on to its server, and wait for the server's end.

        Args:
            bundle: The release's folder, with ``enclave/`` in it.
            name: The enclave's name.
            dangerous: The classes of insecure settings that are allowed in the manifest.

        Returns:
            The server's exit status; 128 + N if signal N ended it, or stopped the launcher before the server ran.
        """
        ...
