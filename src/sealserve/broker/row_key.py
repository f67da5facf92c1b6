"""The key that authenticates rows of the database: HMAC-SHA-256 over the table's name and all columns with a value."""

import hmac
import json
from collections.abc import Mapping
from typing import Any, Final

from sealserve.secret import SecretBytes

KEY_SIZE: Final = 32
"""Size of the key in bytes."""

_MOST_VERIFIED: Final = 4096
_DOMAIN: Final = b"sealserve authenticated row v1\n"


class RowKey:
    """The key that authenticates rows.

    Args:
        key: 32 random bytes.
    """

    def __init__(self, key: SecretBytes) -> None:
        if len(key) != KEY_SIZE:
            raise ValueError(f"expected {KEY_SIZE} bytes")
        self._key = key
        self._verified: dict[tuple[object, ...], None] = {}

    def tag(self, table: str, values: Mapping[str, Any]) -> str:
        """Return the tag of a row. Values that are `None` do not count."""
        return hmac.digest(self._key.reveal(), _DOMAIN + _canonical(table, values), "sha256").hex()

    def is_tag(self, tag: object, table: str, values: Mapping[str, Any]) -> bool:
        """Return whether ``tag``, which comes from the database, is the tag of a row.

        A new row is verified in constant time.

        The same row is verified once. The key of this cache is the whole row with the types of its values, because
        Python's 1, 1.0 and True are equal, and their tags differ.
        """
        row = (tag, table, *values, *values.values(), *map(type, values.values()))
        try:
            if row in self._verified:
                return True
        except TypeError:  # a value of an unexpected type, which has no hash
            return False
        given = tag.encode() if isinstance(tag, str) else b""
        if not hmac.compare_digest(given, self.tag(table, values).encode()):
            return False
        if len(self._verified) >= _MOST_VERIFIED:
            self._verified.clear()
        self._verified[row] = None
        return True


def _canonical(table: str, values: Mapping[str, Any]) -> bytes:
    # ``default``: a value of an unexpected type (in a changed database) results in a different tag, not in a crash
    given = {name: value for name, value in values.items() if value is not None}
    return json.dumps([table, given], sort_keys=True, separators=(",", ":"), default=repr).encode("ascii")
