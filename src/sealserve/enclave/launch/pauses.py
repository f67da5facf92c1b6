"""The pauses between two starts of an enclave, so that one that fails again and again does not keep the broker busy."""

from typing import Final

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
LONG_RUN: Final = 300.0
"""Seconds. After a run of this length, the pauses (and the supervisor's count of starts) begin anew."""


class Pauses:
    """Seconds to wait before each new start: 1, then twice the former pause, at most 60."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def after(self, ran: float) -> float:
        """Return the pause after a run of ``ran`` seconds."""
        pause = FIRST_PAUSE if ran > LONG_RUN else self._next
        self._next = min(2 * pause, LONGEST_PAUSE)
        return pause
