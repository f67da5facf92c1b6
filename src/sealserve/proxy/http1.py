"""HTTP/1.1 for a proxy that must refuse: an answer in the form of TensorFlow Serving's REST errors."""

import json
from http import HTTPStatus


def refusal(status: HTTPStatus, message: str) -> bytes:
    """Return an answer in the form of TensorFlow Serving's errors: a JSON object with the member ``error``."""
    body = json.dumps({"error": message}).encode()
    head = (
        f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
