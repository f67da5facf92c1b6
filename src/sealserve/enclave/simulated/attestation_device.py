"""The attestation device of a simulated enclave: Gramine's files below ``/dev/attestation`` as named pipes.

The launcher serves the pipes in the enclave's private memory, so the program inside does not know where it runs:

- It writes report data to ``user_report_data``, and reads a quote from ``quote``. If no quote can be created, the pipe
  ends without content.
- It writes the key to ``keys/NAME``. The launcher decrypts the encrypted mounts with it. Reading the same file waits
  until the mounts are decrypted, and returns the key. If they do not open, the pipe ends without content.

The encrypted mounts do not exist before the key was written, as in Gramine.

Source: Gramine 1.9, ``Documentation/attestation.rst``; Linux manual page fifo(7).
"""

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from sealserve.attestation.claims import REPORT_DATA_SIZE
from sealserve.attestation.secret_provisioning import KEY_SIZE
from sealserve.enclave.codes import EnclaveCode
from sealserve.errors import SealserveError
from sealserve.secret import SecretBytes

LOGGER: Final = logging.getLogger(__name__)


class SimulatedDevice:
    """The device of one simulated enclave. Use it as a context manager, and start it after the server's process.

    Args:
        folder: The folder of the files, in the private memory. It is created.
        key_name: The name of the release's key.
        quote_for: Returns a quote with the given report data.
        open_mounts: Decrypts the encrypted mounts with the key. The key is wiped afterwards.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key_name: str,
        quote_for: Callable[[bytes], bytes],
        open_mounts: Callable[[SecretBytes], None],
    ) -> None:
        self._report_data = folder / "user_report_data"
        self._quote = folder / "quote"
        self._key = folder / "keys" / key_name
        self._quote_for = quote_for
        self._open_mounts = open_mounts
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._serve_quotes, self._serve_key)]
        self._fault: SealserveError | None = None
        for path in (self._report_data, self._quote, self._key):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.mkfifo(path, 0o600)

    def start(self) -> None:
        """Serve the files. Call it after the server was started, because its start must not copy other threads."""
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        for path in (self._report_data, self._quote, self._key):
            with contextlib.suppress(OSError):  # it was wiped
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))  # ends the waiting of a thread

    def check(self) -> None:
        """Raise the error that prevented the decryption of the mounts, if there was one.

        Raises:
            SealserveError: The error of ``open_mounts``.
        """
        if self._fault is not None:
            raise self._fault

    def _serve_quotes(self) -> None:
        while not self._stopping.is_set():
            report_data = self._read(self._report_data, REPORT_DATA_SIZE + 1)
            if not report_data or self._stopping.is_set():
                continue
            try:
                if len(report_data) != REPORT_DATA_SIZE:
                    raise EnclaveCode.DEVICE.error(  # handled like the quoting enclave's errors
                        f"The report data is invalid: expected {REPORT_DATA_SIZE} bytes, got {len(report_data)}."
                    )
                quote = self._quote_for(report_data)
            except SealserveError as error:
                LOGGER.error("error[%s]: %s", error.code, error)  # noqa: TRY400  # one line
                quote = b""
            self._answer(self._quote, quote)

    def _serve_key(self) -> None:
        content = self._read(self._key, KEY_SIZE + 1)
        if self._stopping.is_set():
            return
        with SecretBytes(content) as key:
            try:
                if len(key) != KEY_SIZE:
                    raise EnclaveCode.DEVICE.error(  # handled like the errors of the mounts
                        f"The key is invalid: expected {KEY_SIZE} bytes, got {len(key)}."
                    )
                self._open_mounts(key)
            except SealserveError as error:
                self._fault = error
                self._answer(self._key, b"")
                return
            self._answer(self._key, key.reveal())

    def _read(self, path: Path, limit: int) -> bytes:
        """Return the bytes that the next writer sends, at most ``limit``."""
        found = bytearray()
        with contextlib.suppress(OSError), path.open("rb", buffering=0) as stream:
            while len(found) < limit and (data := stream.read(limit - len(found))):
                found += data
        return bytes(found)

    def _answer(self, path: Path, content: bytes) -> None:
        """Send bytes to the next reader. The reader may end early."""
        with contextlib.suppress(OSError), path.open("wb", buffering=0) as stream:
            stream.write(content)
