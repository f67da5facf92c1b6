"""The store: versitygw, built from its Go module and kept by version.

Source: github.com/versity/versitygw, embedgw/embedgw.go; `module/go.mod` pins it, and `module/go.sum` its digest.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from testbed.kubernetes import tools
from testbed.kubernetes.layout import CACHE

from sealserve.cluster import ports
from sealserve.cluster.local.processes import wait_until

MODULE: Final = Path(__file__).resolve().parent / "module"
REGION: Final = "us-east-1"
_SECONDS: Final = 30


class StoreError(Exception):
    """The store cannot be built, or does not start; the message says why."""


@dataclass(frozen=True, slots=True)
class Store:
    """A store that runs.

    Args:
        address: ``http://ADDRESS:PORT``.
        folder: Its sub-folders are buckets, and their files objects.
        access_key: The name of its one user.
        secret_key: What that user signs with.
    """

    address: str
    folder: Path
    access_key: str
    secret_key: str = field(repr=False)


def build() -> Path:
    """Build the program if it is not there yet. The first time takes a minute or two.

    Raises:
        StoreError: It cannot be built.
        ToolsError: There is no Go, or it is too old.
    """
    digest = hashlib.sha256()
    for path in sorted(MODULE.iterdir()):
        digest.update(path.read_bytes())
    program = CACHE / f"s3-{digest.hexdigest()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.is_file():
            tools.require_go(MODULE)
            partial = program.with_suffix(".partial")
            command = ["go", "build", "-mod=readonly", "-trimpath", "-ldflags", "-s -w", "-o", str(partial), "."]
            if subprocess.run(command, cwd=MODULE, env=dict(os.environ, CGO_ENABLED="0"), check=False).returncode != 0:
                raise StoreError("The S3 store could not be built: Go's messages are above.")
            partial.rename(program)
    return program


@contextlib.contextmanager
def running(address: str, folder: Path) -> Iterator[Store]:
    """Serve a folder's sub-folders as buckets until the block ends.

    Args:
        address: Of this machine, where it listens on a free port.
        folder: The folder.

    Raises:
        StoreError, ToolsError: It cannot be built, or does not start.
    """
    listen = f"{address}:{ports.find_free(address)}"
    store = Store(f"http://{listen}", folder, access_key="owner", secret_key=secrets.token_hex(20))
    environment = {"ROOT_ACCESS_KEY": store.access_key, "ROOT_SECRET_KEY": store.secret_key}
    with tempfile.TemporaryDirectory(prefix="sealserve-s3-") as metadata:
        command = [str(build()), listen, str(folder), metadata]
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
            try:
                host, _, port = listen.rpartition(":")
                if not wait_until(lambda: not ports.is_free(int(port), host), seconds=_SECONDS):
                    raise StoreError(f"The S3 store does not listen on {listen}.")
                yield store
            finally:
                process.terminate()
