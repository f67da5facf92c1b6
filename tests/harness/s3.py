"""Pre-signed addresses of S3 objects, as ``aws s3 presign`` makes them.

Source: docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html.
"""

import hashlib
import hmac
from datetime import datetime
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


def presign(address: str, *, access_key: str, secret_key: str, now: datetime, seconds: int, region: str) -> str:
    """Return the address of an object with the right to get it for some time."""
    url = urlsplit(address)
    date, time = now.strftime("%Y%m%d"), now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{date}/{region}/s3/aws4_request"
    query = urlencode(
        sorted({
            "X-Amz-Algorithm": _ALGORITHM,
            "X-Amz-Credential": f"{access_key}/{scope}",
            "X-Amz-Date": time,
            "X-Amz-Expires": str(seconds),
            "X-Amz-SignedHeaders": "host",
        }.items()),
        quote_via=quote,
        safe="",
    )  # fmt: skip
    request = "\n".join(["GET", quote(url.path), query, f"host:{url.netloc}", "", "host", "UNSIGNED-PAYLOAD"])
    text = "\n".join([_ALGORITHM, time, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{secret_key}".encode()
    for part in (date, region, "s3", "aws4_request"):
        key = _mac(key, part)
    return f"{address}?{query}&X-Amz-Signature={_mac(key, text).hex()}"


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
