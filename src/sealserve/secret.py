"""Secret bytes: redacted in every representation, compared in constant time, and wiped after use."""

import hmac
import secrets
from typing import Self


class SecretBytes:
    """A secret value, such as a release key.

    ``repr``, ``str`` and pickling never expose the value. Only ``reveal`` does, and its callers are easy to find.
    ``wipe`` overwrites this copy. Python may have made other copies (``reveal`` makes one), so wiping is best effort
    and not a guarantee.

    Args:
        value: The secret. It is copied. The caller must wipe its own buffer.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        self._value = bytearray(value)

    @classmethod
    def random(cls, length: int) -> Self:
        """Return a random secret of ``length`` bytes from the operating system's generator."""
        return cls(secrets.token_bytes(length))

    def reveal(self) -> bytes:
        """Return the value. Keep it only briefly, and never format it."""
        return bytes(self._value)

    def wipe(self) -> None:
        """Overwrite the value with zeros and make it empty."""
        self._value[:] = bytes(len(self._value))
        self._value.clear()

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretBytes):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # a secret must not be a dictionary key

    def __repr__(self) -> str:
        return f"SecretBytes(<{len(self._value)} bytes>)"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a secret cannot be pickled")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()
