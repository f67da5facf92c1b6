"""Messages with a length: 4 bytes, big-endian, and then the content.

TLS records may split these bytes at any position. Therefore a message accepts partial data and reports when it is
complete.
"""

from typing import Final

from sealserve.errors import ErrorCode

LENGTH_SIZE: Final = 4


class IncomingMessage:
    """A message that arrives in pieces.

    Args:
        maximum: The maximum length of the content in bytes.
        refusal: The code of the error for a wrong length, or for bytes after the message.
        truncated: The code of the error for an incomplete message.
        what: The name of the message in errors.
        last: Whether it is the peer's last message. Otherwise, `rest` contains the bytes after it.
    """

    def __init__(self, *, maximum: int, refusal: ErrorCode, truncated: ErrorCode, what: str, last: bool = True) -> None:
        self._received = bytearray()
        self._maximum = maximum
        self._refusal = refusal
        self._truncated = truncated
        self._what = what
        self._last = last

    @property
    def started(self) -> bool:
        """Whether any byte has arrived."""
        return bool(self._received)

    @property
    def content(self) -> bytes:
        """The content of the complete message."""
        return bytes(self._received[LENGTH_SIZE : self._end])

    @property
    def rest(self) -> bytes:
        """The bytes after the complete message: the start of the next message."""
        return bytes(self._received[self._end :])

    def receive(self, data: bytes) -> bool:
        """Process bytes from the peer. Return whether the message is complete.

        Raises:
            SealserveError: The code ``refusal``: the length is 0 or too large, or bytes follow the message.
        """
        self._received += data
        if len(self._received) < LENGTH_SIZE:
            return False
        length = int.from_bytes(self._received[:LENGTH_SIZE], "big")
        if not 0 < length <= self._maximum:
            raise self._refusal.error(
                f"The {self._what} has an invalid length: expected 1 to {self._maximum} bytes, got {length}."
            )
        if self._last and len(self._received) > self._end:
            raise self._refusal.error(f"Extra bytes follow the {self._what}.")
        return len(self._received) >= self._end

    def end(self) -> None:
        """Process the end of the peer's data.

        Raises:
            SealserveError: The code ``truncated``: the message is incomplete.
        """
        if LENGTH_SIZE < self._end <= len(self._received):
            return
        raise self._truncated.error(
            f"The {self._what} is incomplete: the peer closed the session after {len(self._received)} bytes."
        )

    @property
    def _end(self) -> int:
        return LENGTH_SIZE + int.from_bytes(self._received[:LENGTH_SIZE], "big")

    def wipe(self) -> None:
        """Overwrite the received bytes with zeros. Call it after a message that contains a secret."""
        self._received[:] = bytes(len(self._received))
        self._received.clear()


def framed(content: bytes) -> bytes:
    """Return a message with its length."""
    return len(content).to_bytes(LENGTH_SIZE, "big") + content
