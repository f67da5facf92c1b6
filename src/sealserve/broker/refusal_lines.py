"""The log lines of refusals: a limited number of them, and the counts of the others."""

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from sealserve.broker.audit_entry import clean
from sealserve.broker.limiter import Limiter, Rate
from sealserve.broker.releases import Release
from sealserve.errors import SealserveError
from sealserve.log_line import fields

_LOG: Final = logging.getLogger("sealserve.broker.decision_records")

LINES_OF_EACH: Final = Rate(burst=60, seconds=10)
LINES_OF_ALL: Final = Rate(burst=600, seconds=1)


class RefusalLines:
    """Writes the log lines of refusals. Several threads may use it.

    Args:
        clock: Returns the time on the owner's clock.
        parts: The number of processes that share the limits.
    """

    def __init__(self, clock: Callable[[], datetime], *, parts: int = 1) -> None:
        self._clock = clock
        self._limiter = Limiter(each=LINES_OF_EACH.divided(parts), together=LINES_OF_ALL.divided(parts))

    def write(self, peer: str, error: SealserveError, release: Release | None = None) -> None:
        """Write the line of a refusal, or count it."""
        if self._limiter.admit(peer, error.code, self._clock()):
            self._write_owed(peer)
            _LOG.warning(
                "refused %s: [%s] %s",
                peer,
                error.code,
                clean(error.message),
                extra=fields(
                    peer=peer,
                    code=error.code,
                    release=release.name if release else None,
                    release_id=release.release_id if release else None,
                ),
            )

    def settle(self) -> None:
        """Write all outstanding counts."""
        while self._write_owed():
            pass

    def _write_owed(self, peer: str | None = None) -> bool:
        with self._limiter.owed(peer) as tally:
            if tally is not None:
                _LOG.warning("%s", tally)
            return tally is not None
