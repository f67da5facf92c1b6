"""The expiry of the certificate that a running enclave presents, from the enclave's log.

A target that cannot connect to its replicas uses it. The enclave's program logs the expiry when it gets its first
certificate, and with each renewal and each failed renewal (`sealserve.attester`). The host writes the log, so the
result is only information.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

_UNTIL: Final = re.compile(r"step=(?:key|renewed|renewal-failed) .*\bcertificate_until=(?P<time>[0-9T:-]+Z)(?:\s|$)")


def certificate_end(log: Iterable[str]) -> datetime | None:
    """Return the expiry of the newest certificate that a log names, UTC. None if it names none.

    Args:
        log: The lines of the current run, oldest first.
    """
    found: datetime | None = None
    for line in log:
        if (until := _UNTIL.search(line)) is not None:
            found = _time(until["time"]) or found
    return found


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None
