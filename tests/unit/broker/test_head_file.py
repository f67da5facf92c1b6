import json
from dataclasses import asdict
from typing import Any

import pytest

from sealserve.broker.admin import HeadSummary
from sealserve.broker.head_file import HeadFileError, read_head

HEAD = HeadSummary(seq=3, hash="ab" * 32, time="2026-11-23T12:00:00.000001+00:00", signature="cd" * 64)


def test_a_head_comes_back() -> None:
    assert read_head(json.dumps(asdict(HEAD)).encode(), name="head.json") == HEAD


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"seq": "3"}, "seq"),
        ({"seq": -1}, "seq"),
        ({"hash": "AB" * 32}, "hash"),
        ({"time": "2026-11-23T12:00:00"}, "time"),
        ({"time": "yesterday"}, "time"),
        ({"signature": "cd"}, "signature"),
        ({"more": 1}, "more"),
    ],
)
def test_what_is_no_head_is_refused(changes: dict[str, Any], where: str) -> None:
    content = json.dumps(asdict(HEAD) | changes).encode()
    with pytest.raises(HeadFileError, match=f"h.json holds no signed head of an audit log: {where}: ") as caught:
        read_head(content, name="h.json")
    assert caught.value.code == "audit.head-file"
    with pytest.raises(HeadFileError, match="the file: Invalid JSON"):
        read_head(b"", name="h.json")
