"""Messages between the broker and the process that loads a PKCS#11 module.

A request and a reply are two messages each: a JSON header and the binary data. One request is in progress at a time.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Connection
from typing import Any, Final

LARGEST: Final = 64 * 2**10
"""The maximum size of a message in bytes."""


class Operation(StrEnum):
    """The requests. The first request must be ``open``; its data is the PIN."""

    OPEN = "open"
    ENCRYPT = "encrypt"
    DECRYPT = "decrypt"


class Failure(StrEnum):
    """The causes of a failed request that the broker distinguishes."""

    SETTINGS = "settings"
    """The file is not a PKCS#11 module."""
    TOKEN = "token"  # noqa: S105  # the name of a cause
    """The module does not find exactly one token."""
    KEY = "key"
    """The token does not contain exactly one key."""
    ATTRIBUTES = "attributes"
    """The key has unsafe attributes, or cannot be used with AES-GCM."""
    PIN_WRONG = "pin-wrong"
    PIN_LOCKED = "pin-locked"
    DATA = "data"
    """The ciphertext was changed, or belongs to another key or context."""
    FAILED = "failed"
    """The module or the token failed. A new session can succeed."""
    TIMEOUT = "timeout"
    """The module did not reply in time."""


class TokenFailedError(Exception):
    """A failed request.

    Args:
        failure: The cause.
        message: The details, without a full stop. They contain no secret.
    """

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A request or a reply.

    Args:
        header: Names of the operation and its parameters, or of the failure. Contains no secret.
        data: The PIN, a plaintext or a ciphertext.
    """

    header: dict[str, Any]
    data: bytes = b""

    def send(self, connection: Connection) -> None:
        """Send the message."""
        connection.send_bytes(json.dumps(self.header).encode())
        connection.send_bytes(self.data)


def receive(connection: Connection) -> Message:
    """Receive a message.

    Raises:
        OSError: The connection failed, or a message is too large.
        EOFError: The other process ended.
        ValueError: The message is not valid.
    """
    header = json.loads(connection.recv_bytes(LARGEST))
    if not isinstance(header, dict):
        raise TypeError("the header is not a JSON object")
    return Message(header=header, data=connection.recv_bytes(LARGEST))
