from datetime import UTC, datetime

import pytest

from sealserve.cluster.logs.certificate_log import certificate_end

KEY = "2026-11-29 10:00:00,350 INFO step=key key_name=release bytes=16 certificate_until=2026-11-30T10:00:00Z"
RENEWED = "2026-11-30T02:00:00.1Z 2026-11-30 02:00:00,100 INFO step=renewed certificate_until=2026-12-01T02:00:00Z"
FAILED = (
    "2026-11-30 02:00:00,100 ERROR step=renewal-failed code=provisioning.unreachable "
    "certificate_until=2026-11-30T10:00:00Z left=480min: The broker does not accept a connection."
)


@pytest.mark.parametrize(
    ("log", "end"),
    [
        ([], None),
        (["INFO step=key key_name=release bytes=16"], None),  # a release with a sealed TLS key
        ([KEY], datetime(2026, 11, 30, 10, tzinfo=UTC)),
        ([KEY, FAILED], datetime(2026, 11, 30, 10, tzinfo=UTC)),
        ([KEY, FAILED, RENEWED, "a model's line"], datetime(2026, 12, 1, 2, tzinfo=UTC)),
        (["step=renewed certificate_until=2026-13-01T02:00:00Z"], None),
        ([KEY, "step=renewed certificate_until=2026-99-01T02:00:00Z"], datetime(2026, 11, 30, 10, tzinfo=UTC)),
        (["certificate_until=2026-12-01T02:00:00Z"], None),  # no line of the enclave's program
    ],
)
def test_the_newest_certificate_counts(log: list[str], end: datetime | None) -> None:
    assert certificate_end(log) == end
