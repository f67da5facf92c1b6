"""The attestation device: files that create quotes and accept the key of the encrypted mounts.

Gramine offers these files below ``/dev/attestation``. The launcher of simulated enclaves offers the same files
elsewhere, so this program does not depend on the platform.

- ``user_report_data``: write the 64 bytes of report data.
- ``quote``: read a quote with the report data that was written last.
  In gramine-direct these two files do not exist, and the launcher relays quotes (see `quote_relay`).
- ``keys/NAME``: write the key of the encrypted mounts with this key name, or read the key that is in use.

Source: Gramine 1.9, ``Documentation/attestation.rst``, "Low-level /dev/attestation interface", and
``libos/src/fs/dev/attestation.c``.
"""

import hmac
import threading
from pathlib import Path
from typing import Final

from sealserve.attestation.attest_messages import MAXIMUM_QUOTE
from sealserve.attestation.claims import REPORT_DATA_SIZE
from sealserve.attester.codes import AttesterCode
from sealserve.attester.quote_relay import relayed_quote
from sealserve.enclave.relay_address import RelayAddress
from sealserve.errors import SealserveError
from sealserve.secret import SecretBytes

REPORT_DATA_FILE: Final = "user_report_data"
QUOTE_FILE: Final = "quote"
KEYS_FOLDER: Final = "keys"


class AttestationDevice:
    """The attestation device of this enclave.

    Args:
        root: The folder of the files, from the measured environment.
        relay: The source of quotes if the device has none, as in gramine-direct.
    """

    def __init__(self, root: Path, *, relay: RelayAddress | None = None) -> None:
        self._root = root
        self._relay = relay
        self._lock = threading.Lock()

    def quote(self, report_data: bytes) -> bytes:
        """Return a quote with the given report data (64 bytes).

        Raises:
            UnavailableError: `attester.device`: The files cannot be read or written.
            UnavailableError: `attester.quote`: The device returned no quote, or one that is too large.
        """
        if len(report_data) != REPORT_DATA_SIZE:
            raise ValueError(f"expected {REPORT_DATA_SIZE} bytes, got {len(report_data)}")
        if self._relay is not None:
            found = relayed_quote(self._relay, report_data, limit=MAXIMUM_QUOTE + 1)
        else:
            with self._lock:  # the two files belong together
                self._write(self._root / REPORT_DATA_FILE, report_data)
                found = self._read(self._root / QUOTE_FILE, MAXIMUM_QUOTE + 1)
        if not 0 < len(found) <= MAXIMUM_QUOTE:
            raise AttesterCode.QUOTE.error(
                f"The attestation device returned no usable quote: expected 1 to {MAXIMUM_QUOTE} bytes, got "
                f"{'more' if found else '0'}.",
                hint="Check the machine's quoting service: run `sealserve doctor host` on the host.",
            )
        return found

    def set_key(self, name: str, key: SecretBytes) -> None:
        """Set the key of the encrypted mounts, and check that the device uses it.

        Nothing may look up a path in an encrypted mount before: Gramine caches the missing key as a permanent error.

        Args:
            name: The key's name in the manifest.
            key: The key. The caller wipes it.

        Raises:
            UnavailableError: `attester.device`: The file cannot be written, or the device did not accept the key.
        """
        path = self._root / KEYS_FOLDER / name
        with self._lock:
            self._write(path, key.reveal())
            # Reading the key back waits until the device has processed it.
            with SecretBytes(self._read(path, len(key) + 1)) as used:
                accepted = hmac.compare_digest(used.reveal(), key.reveal())
        if not accepted:
            raise AttesterCode.DEVICE.error(
                f"The attestation device did not accept the key: {path} has other content than was written.",
                hint="Read the launcher's log: it states why the encrypted files did not open.",
            )

    def _write(self, path: Path, content: bytes) -> None:
        try:
            with path.open("wb", buffering=0) as stream:
                written = stream.write(content)
        except OSError as error:
            raise self._fault(path, error) from error
        if written != len(content):
            raise AttesterCode.DEVICE.error(
                f"The attestation device accepted only {written} of {len(content)} bytes in {path}."
            )

    def _read(self, path: Path, limit: int) -> bytes:
        found = bytearray()
        try:
            with path.open("rb", buffering=0) as stream:
                while len(found) < limit and (data := stream.read(limit - len(found))):
                    found += data
        except OSError as error:
            raise self._fault(path, error) from error
        return bytes(found)

    def _fault(self, path: Path, error: OSError) -> SealserveError:
        return AttesterCode.DEVICE.error(
            f"The attestation device is not usable: {path}: {error.strerror or error}.",
            hint='Check that the manifest has sgx.remote_attestation = "dcap", and that the quoting service runs.',
        )
