"""The store: versitygw, built from its Go module and cached by version.

Source: github.com/versity/versitygw, embedgw/embedgw.go. `module/go.mod` pins it, and `module/go.sum` its digest.
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
    """The store cannot be built or does not start. The message contains the reason."""


@dataclass(frozen=True, slots=True)
class Store:
    """A running store.

    Args:
        address: ``http://ADDRESS:PORT``.
        folder: The folder whose subfolders are buckets. Their files are objects.
        access_key: The name of its only user.
        secret_key: The user's signing key.
    """

    address: str
    folder: Path
    access_key: str
    secret_key: str = field(repr=False)


def build() -> Path:
    """Build the program if it is missing. The first build takes a minute or two.

    Raises:
        StoreError: The build failed.
        ToolsError: Go is missing or too old.
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
                raise StoreError("The S3 store could not be built: see Go's messages above.")
            partial.rename(program)
    return program


@contextlib.contextmanager
def running(address: str, folder: Path) -> Iterator[Store]:
    """Serve a folder's subfolders as buckets until the block ends.

    Args:
        address: An address of this machine, where the store listens on a free port.
        folder: The folder.

    Raises:
        StoreError, ToolsError: The store cannot be built or does not start.
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
