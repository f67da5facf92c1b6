"""The validity of the certificate that a running enclave presents, from the enclave's log.

A target that cannot connect to its replicas uses it. The enclave's program logs the validity when it gets its
first certificate, and with each renewal and each failed renewal (`sealserve.attester`). The host writes the log, so the
result is only information.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from sealserve.cluster.presented_certificate import PresentedCertificate

_TIME: Final = "[0-9T:-]+Z"
_VALIDITY: Final = re.compile(
    rf"step=(?:key|renewed|renewal-failed) .*\bcertificate_from=(?P<issued>{_TIME}) "
    rf"certificate_until=(?P<ends>{_TIME})(?:\s|$)"
)


def logged_certificate(log: Iterable[str]) -> PresentedCertificate | None:
    """Return the newest certificate that a log names. None if it names none.

    Args:
        log: The lines of the current run, oldest first.
    """
    found: PresentedCertificate | None = None
    for line in log:
        if (logged := _VALIDITY.search(line)) is not None:
            found = _certificate(logged["issued"], logged["ends"]) or found
    return found


def _certificate(issued: str, ends: str) -> PresentedCertificate | None:
    try:
        return PresentedCertificate(
            issued=datetime.fromisoformat(issued).astimezone(UTC), ends=datetime.fromisoformat(ends).astimezone(UTC)
        )
    except (ValueError, OverflowError):
        return None
