"""JSON in one form only, so that equal values have equal bytes, digests and signatures."""

import json


def canonical_json(value: object) -> bytes:
    """Return ``value`` as JSON: UTF-8, sorted keys, no spaces, no newline at the end."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()
