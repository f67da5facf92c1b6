"""The tolerated difference between two clocks."""

from datetime import datetime, timedelta
from typing import Final

CLOCK_SKEW: Final = timedelta(minutes=5)
"""A document or certificate is accepted up to this long before its start, because this machine's clock may be slow.

Certificates that sealserve issues start this long before their issue, for peers with slow clocks and no tolerance. No
tolerance applies to the end of a document or certificate.
"""


def issue_time(starts: datetime, ends: datetime) -> datetime:
    """Return when a certificate of sealserve's was issued. It starts `CLOCK_SKEW` earlier.

    Args:
        starts: The start of the validity.
        ends: The end of the validity.
    """
    issued = starts + CLOCK_SKEW
    return issued if issued < ends else starts
