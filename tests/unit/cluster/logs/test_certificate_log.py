from datetime import UTC, datetime

import pytest

from sealserve.cluster.logs.certificate_log import logged_certificate
from sealserve.cluster.presented_certificate import PresentedCertificate


def fields(issued: str, ends: str) -> str:
    return f"certificate_from=2026-{issued}:00:00Z certificate_until=2026-{ends}:00:00Z"


FIRST = PresentedCertificate(issued=datetime(2026, 11, 29, 10, tzinfo=UTC), ends=datetime(2026, 11, 30, 10, tzinfo=UTC))
SECOND = PresentedCertificate(issued=datetime(2026, 11, 30, 2, tzinfo=UTC), ends=datetime(2026, 12, 1, 2, tzinfo=UTC))
VALID_FIRST, VALID_SECOND = fields("11-29T10", "11-30T10"), fields("11-30T02", "12-01T02")
KEY = f"2026-11-29 10:00:00,350 INFO step=key key_name=release bytes=16 {VALID_FIRST}"
RENEWED = f"2026-11-30T02:00:00.1Z 2026-11-30 02:00:00,100 INFO step=renewed {VALID_SECOND}"
FAILED = (
    f"2026-11-30 02:00:00,100 ERROR step=renewal-failed code=provisioning.unreachable {VALID_FIRST} "
    "left=480min: The broker does not accept a connection."
)


@pytest.mark.parametrize(
    ("log", "certificate"),
    [
        ([], None),
        (["INFO step=key key_name=release bytes=16"], None),  # a release with a sealed TLS key
        ([KEY], FIRST),
        ([KEY, FAILED], FIRST),
        ([KEY, FAILED, RENEWED, "a model's line"], SECOND),
        ([f"step=renewed {fields('11-30T02', '13-01T02')}"], None),
        ([f"step=renewed {fields('99-30T02', '12-01T02')}"], None),
        ([KEY, f"step=renewed {fields('11-30T02', '12-99T02')}"], FIRST),
        ([VALID_SECOND], None),  # no line of the enclave's program
        (["step=renewed certificate_until=2026-12-01T02:00:00Z"], None),
    ],
)
def test_the_newest_certificate_counts(log: list[str], certificate: PresentedCertificate | None) -> None:
    assert logged_certificate(log) == certificate
