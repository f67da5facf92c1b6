"""Bytes that must not be seen: redacted in every representation, compared in constant time, wiped when done."""

import hmac
import secrets
from typing import Self


class SecretBytes:
    """A secret value, such as a release key.

    ``repr``, ``str`` and pickling never give the value; ``reveal`` does, and its callers are easy to list. ``wipe``
    overwrites our copy. Python may have made others (``reveal`` makes one): wiping is what can be done, not a
    guarantee.

    Args:
        value: The secret. It is copied; the caller's buffer is its own to wipe.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        self._value = bytearray(value)

    @classmethod
    def random(cls, length: int) -> Self:
        """Return a fresh secret of ``length`` bytes from the operating system's generator."""
        return cls(secrets.token_bytes(length))

    def reveal(self) -> bytes:
        """Return the value. Keep it short-lived, and never format it."""
        return bytes(self._value)

    def wipe(self) -> None:
        """Overwrite the value with zeros, and make it empty."""
        self._value[:] = bytes(len(self._value))
        self._value.clear()

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretBytes):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # a secret is no dictionary key

    def __repr__(self) -> str:
        return f"SecretBytes(<{len(self._value)} bytes>)"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a secret cannot be pickled")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()
