"""Key encryption with a key in a PKCS#11 token, such as a hardware security module (HSM). The key never leaves it."""

import contextlib
import importlib.util
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, Self

from sealserve.broker.audit_entry import clean
from sealserve.broker.codes import BrokerCode
from sealserve.broker.key_wrapper import KeyUnwrapError, WrapperId
from sealserve.broker.pkcs11_protocol import Failure, Message, Operation, TokenFailedError, receive
from sealserve.errors import SealserveError
from sealserve.private_file import read_private
from sealserve.secret import SecretBytes

_LOG: Final = logging.getLogger(__name__)

SECONDS: Final = 15.0
"""How long a call of the module may take. The first call includes loading the module and the login."""
LONGEST_PIN: Final = 255

_TOKEN: Final = re.compile(r"[^\x00-\x1f\x7f/]{1,32}")  # PKCS#11 limits a token's label to 32 bytes
_KEY: Final = re.compile(r"[^\x00-\x1f\x7f]{1,64}")
_CODES: Final = {
    Failure.SETTINGS: BrokerCode.KEYSTORE_PKCS11_SETTINGS,
    Failure.TOKEN: BrokerCode.KEYSTORE_PKCS11_TOKEN,
    Failure.KEY: BrokerCode.KEYSTORE_PKCS11_KEY,
    Failure.ATTRIBUTES: BrokerCode.KEYSTORE_PKCS11_KEY_ATTRIBUTES,
    Failure.PIN_WRONG: BrokerCode.KEYSTORE_PKCS11_PIN_WRONG,
    Failure.PIN_LOCKED: BrokerCode.KEYSTORE_PKCS11_PIN_LOCKED,
    Failure.FAILED: BrokerCode.KEYSTORE_PKCS11_UNAVAILABLE,
    Failure.TIMEOUT: BrokerCode.KEYSTORE_PKCS11_UNAVAILABLE,
}
_READ_LOG: Final = "Check the token with the vendor's tool, and read the vendor's log."
_HINTS: Final = {
    Failure.SETTINGS: "Set keystore.pkcs11_module to the PKCS#11 library of the token's vendor, and set the "
    "environment variables that it needs.",
    Failure.TOKEN: "Connect the token, or correct pkcs11_token and pkcs11_serial in the [keystore] section of "
    "sealserve.toml. `pkcs11-tool --module FILE --list-slots` prints both values.",
    Failure.KEY: "Create the key with `pkcs11-tool --keygen`, or correct keystore.pkcs11_key.",
    Failure.ATTRIBUTES: "Create an AES key that is sensitive, private and not extractable, in a token that supports "
    "AES-GCM.",
    Failure.PIN_WRONG: "Write the correct PIN into keystore.pkcs11_pin_file. sealserve does not use the rejected PIN "
    "again.",
    Failure.PIN_LOCKED: "Log in once with the vendor's tool, or reset the PIN with the security officer's PIN.",
    Failure.FAILED: _READ_LOG,
    Failure.TIMEOUT: _READ_LOG,
}


class Pkcs11Key:
    """A `KeyWrapper` that uses a key in a PKCS#11 token. Several threads may use it; their requests are serialized.

    The first use starts a process that loads the module (`pkcs11_worker`). After a failure, a new process with a new
    session takes its place. A PIN that the token rejected is not used again until its file changes, because tokens lock
    a PIN after a few wrong attempts.

    Args:
        module: The PKCS#11 library of the token's vendor.
        token: The token's label.
        key: The key's label.
        pin_file: A file with mode 0600 that contains the PIN of the token's user.
        serial: The token's serial number, if several tokens have the same label.
        seconds: How long a call may take.

    Raises:
        InputError: `keystore.pkcs11-settings` if a label is invalid or the module is not a file.
        ModuleNotFoundError: The extra ``pkcs11`` is not installed.
    """

    def __init__(
        self,
        module: Path,
        *,
        token: str,
        key: str,
        pin_file: Path,
        serial: str | None = None,
        seconds: float = SECONDS,
    ) -> None:
        if not _TOKEN.fullmatch(token) or not _KEY.fullmatch(key):
            raise BrokerCode.KEYSTORE_PKCS11_SETTINGS.error(
                f"The PKCS#11 settings are invalid: {token!r} is not a token's label, or {key!r} is not a key's label.",
                hint="Correct pkcs11_token and pkcs11_key in the [keystore] section of sealserve.toml.",
            )
        if not module.exists():
            raise BrokerCode.KEYSTORE_PKCS11_SETTINGS.error(
                f"The PKCS#11 module {module} does not exist.", hint=_HINTS[Failure.SETTINGS]
            )
        if importlib.util.find_spec("pkcs11") is None:
            raise ModuleNotFoundError("PKCS#11 tokens require the package python-pkcs11", name="pkcs11")
        self._module, self._token, self._key, self._serial = module, token, key, serial or ""
        self._pin_file = pin_file
        self._seconds = seconds
        self._id = WrapperId(f"pkcs11:{token}/{key}")
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._refused: tuple[int, int, int] | None = None  # the state of a PIN file whose PIN was wrong

    @property
    def wrapper_id(self) -> WrapperId:
        """``pkcs11:TOKEN/KEY``."""
        return self._id

    def wrap(self, secret: SecretBytes, *, context: bytes) -> bytes:
        """Encrypt a secret. See `KeyWrapper.wrap`.

        Raises:
            SealserveError: `keystore.pkcs11-...`: The token or its key cannot be used.
        """
        wrapped = self._request(Operation.ENCRYPT, secret.reveal(), context)
        # Never store a key that cannot be decrypted: some tokens choose the initialization vector themselves.
        try:
            with self.unwrap(wrapped, context=context) as again:
                if again == secret:
                    return wrapped
        except KeyUnwrapError:
            pass
        raise BrokerCode.KEYSTORE_PKCS11_UNAVAILABLE.error(
            f"The {self!r} cannot decrypt its own ciphertext.",
            hint="Use a token that accepts an initialization vector of 12 bytes for AES-GCM.",
        )

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        """Decrypt a secret. See `KeyWrapper.unwrap`.

        Raises:
            SealserveError: `keystore.pkcs11-...`: The token or its key cannot be used.
        """
        return SecretBytes(self._request(Operation.DECRYPT, wrapped, context))

    def check(self) -> None:
        """Log in to the token, and check that its key can be used.

        Raises:
            SealserveError: `keystore.pkcs11-...`: The token or its key cannot be used.
        """
        self.wrap(SecretBytes.random(16), context=b"sealserve check\0")

    def close(self) -> None:
        """End the process of the module."""
        with self._lock:
            self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"key {self._key!r} of the token {self._token!r}"

    def _request(self, operation: Operation, data: bytes, context: bytes) -> bytes:
        if not self._lock.acquire(timeout=2 * self._seconds):
            raise self._error(TokenFailedError(Failure.TIMEOUT, "The token is busy with earlier requests"))
        try:
            header = {"operation": operation, "context": context.hex()}
            # A session ends when the token was removed or restarted. Then log in again, once.
            if self._process is not None:
                try:
                    return self._process.ask(header, data).data
                except TokenFailedError as failure:
                    if failure.failure is not Failure.FAILED:
                        raise
                    _LOG.warning("the session with the %r ended: %s", self, clean(failure.message))
                    self._stop()
            self._process = self._start()
            return self._process.ask(header, data).data
        except TokenFailedError as failure:
            if failure.failure is not Failure.DATA:
                self._stop()
            raise self._error(failure) from failure
        finally:
            self._lock.release()

    def _start(self) -> "_Process":
        """Start the process, log in, and find the key."""
        pin = read_private(self._pin_file, what="PIN", limit=LONGEST_PIN)
        status = self._pin_file.stat()
        state = (status.st_ino, status.st_mtime_ns, status.st_size)
        if state == self._refused:
            raise TokenFailedError(
                Failure.PIN_WRONG, f"The token {self._token!r} rejected the PIN in {self._pin_file} earlier"
            )
        process = _Process(self._seconds)
        header = {
            "operation": Operation.OPEN, "module": str(self._module), "token": self._token, "serial": self._serial,
            "key": self._key,
        }  # fmt: skip
        try:
            with pin:
                reply = process.ask(header, pin.reveal())
        except BaseException as error:
            process.kill()
            if isinstance(error, TokenFailedError) and error.failure is Failure.PIN_WRONG:
                self._refused = state
            raise
        if warning := reply.header.get("warning"):
            _LOG.warning("%s", clean(str(warning)))
        return process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _error(self, failure: TokenFailedError) -> SealserveError:
        if failure.failure is Failure.DATA:
            return KeyUnwrapError(
                f"A stored release key cannot be decrypted with the {self!r}: {failure.message}.",
                hint="Configure the key that encrypted it, or restore the database from a backup.",
            )
        return _CODES[failure.failure].error(f"{clean(failure.message)}.", hint=_HINTS[failure.failure])


class _Process:
    """A running process of `pkcs11_worker`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        here, there = socket.socketpair()
        with here, there:
            self._ran = subprocess.Popen(
                [sys.executable, "-P", "-m", "sealserve.broker.pkcs11_worker", str(there.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,  # a module may print: keep this program's standard output clean
                pass_fds=[there.fileno()],
            )
            self._connection = Connection(os.dup(here.fileno()))

    def ask(self, header: dict[str, str], data: bytes) -> Message:
        """Send a request, and return the reply.

        Raises:
            TokenFailedError: The request failed, the process ended, or the reply did not arrive in time.
        """
        try:
            Message(header={**header, "seconds": self._seconds}, data=data).send(self._connection)
            if not self._connection.poll(self._seconds):
                self.kill()
                raise TokenFailedError(
                    Failure.TIMEOUT, f"The PKCS#11 module did not reply within {self._seconds:.0f} seconds"
                )
            reply = receive(self._connection)
        except (OSError, EOFError, ValueError, TypeError) as error:
            self.kill()
            raise TokenFailedError(
                Failure.FAILED, f"The process of the PKCS#11 module ended with status {self._ran.returncode}"
            ) from error
        if "failure" in reply.header:
            raise TokenFailedError(Failure(reply.header["failure"]), str(reply.header["message"]))
        return reply

    def kill(self) -> None:
        """End the process. It holds no state that matters."""
        with contextlib.suppress(OSError):
            self._connection.close()
        self._ran.kill()
        self._ran.wait()
