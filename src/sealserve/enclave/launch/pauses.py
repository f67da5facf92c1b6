"""Pauses between starts of an enclave. They keep an enclave that fails repeatedly from overloading the broker."""

from typing import Final

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
LONG_RUN: Final = 300.0
"""Seconds. After a run longer than this, the pauses (and the supervisor's count of starts) start over."""


class Pauses:
    """The seconds to wait before each new start: 1 at first, then twice the previous pause, at most 60."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def after(self, ran: float) -> float:
        """Return the pause in seconds after a run of ``ran`` seconds."""
        pause = FIRST_PAUSE if ran > LONG_RUN else self._next
        self._next = min(2 * pause, LONGEST_PAUSE)
        return pause
