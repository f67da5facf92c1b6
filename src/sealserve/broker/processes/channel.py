"""Messages between the supervisor and a worker: a length of 4 bytes, and a JSON object or a secret.

The two ends trust each other: they are processes of one broker. The limit on the length protects against defects.
"""

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Mapping
from typing import Any, Final

from sealserve.secret import SecretBytes

_LENGTH: Final = 4
_LARGEST: Final = 4 * 2**20
_SEND_SECONDS: Final = 10

Message = Mapping[str, Any]


class ChannelError(Exception):
    """The other end violated the protocol, or is gone."""


class Channel:
    """One end of a stream socket. Several threads may send. One thread receives.

    Args:
        stream: The socket. `close` closes it.
    """

    def __init__(self, stream: socket.socket) -> None:
        # A send has a time limit, so that a worker that does not work cannot block the supervisor. A receive has none.
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", _SEND_SECONDS, 0))
        self._stream = stream
        self._sending = threading.Lock()

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            ChannelError: The other end is gone, or does not receive.
        """
        self._send(json.dumps(message).encode())

    def send_secret(self, secret: SecretBytes) -> None:
        """Send a secret, which may be empty. The other end receives it with `receive_secret`.

        Raises:
            ChannelError: As `send`.
        """
        self._send(secret.reveal())

    def receive(self) -> Message | None:
        """Return the next message, or `None` if the other end is gone.

        Raises:
            ChannelError: The other end violated the protocol.
        """
        if (content := self._receive()) is None:
            return None
        try:
            message = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ChannelError("a message is not JSON") from error
        if not isinstance(message, dict):
            raise ChannelError("a message is not an object")
        return message

    def receive_secret(self) -> SecretBytes:
        """Return the secret that the other end sends next.

        Raises:
            ChannelError: The other end is gone.
        """
        if (content := self._receive()) is None:
            raise ChannelError("the other end is gone")
        secret = SecretBytes(content)
        content[:] = bytes(len(content))
        return secret

    def close(self) -> None:
        """Close the socket. A thread that receives gets the end."""
        with contextlib.suppress(OSError):  # the other end is gone
            self._stream.shutdown(socket.SHUT_RDWR)
        self._stream.close()

    def _send(self, content: bytes) -> None:
        if len(content) > _LARGEST:
            raise ChannelError("a message is too large")
        with self._sending:
            try:
                self._stream.sendall(len(content).to_bytes(_LENGTH, "big") + content)
            except OSError as error:
                raise ChannelError(f"the other end does not receive: {error}") from error

    def _receive(self) -> bytearray | None:
        if (header := self._exactly(_LENGTH)) is None:
            return None
        length = int.from_bytes(header, "big")
        if length > _LARGEST:
            raise ChannelError("a message is too large")
        return self._exactly(length)

    def _exactly(self, length: int) -> bytearray | None:
        content, done = bytearray(length), 0
        while done < length:
            try:
                count = self._stream.recv_into(memoryview(content)[done:])
            except OSError:
                return None
            if count == 0:
                return None
            done += count
        return content
