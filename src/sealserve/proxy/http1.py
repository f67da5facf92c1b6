"""HTTP/1.1 for a proxy that must refuse: an answer in the form of TensorFlow Serving's REST errors."""

import json
from enum import IntEnum
from typing import Self


class Status(IntEnum):
    """The HTTP status of a refusal."""

    reason: str

    def __new__(cls, status: int, reason: str) -> Self:
        """Create a member from its number and its text."""
        member = int.__new__(cls, status)
        member._value_ = status
        member.reason = reason
        return member

    BAD_REQUEST = 400, "Bad Request"
    FORBIDDEN = 403, "Forbidden"
    BAD_GATEWAY = 502, "Bad Gateway"
    SERVICE_UNAVAILABLE = 503, "Service Unavailable"


def refusal(status: Status, message: str) -> bytes:
    """Return an answer in the form of TensorFlow Serving's errors: a JSON object with the member ``error``."""
    body = json.dumps({"error": message}).encode()
    head = (
        f"HTTP/1.1 {status} {status.reason}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
