"""How the demo tells what it does: numbered steps with what happened, the evidence, and the time."""

import time
from dataclasses import asdict, dataclass, field

from sealserve.cli import console

NUMBERS = "①②③④⑤⑥⑦⑧⑨⑩⑪⑫"
INDENT = "    "


@dataclass(slots=True, kw_only=True)
class Step:
    """A step that was told: its number (0 for what comes before and after the twelve), and how long it took."""

    number: int
    title: str
    seconds: float
    evidence: list[str] = field(default_factory=list)


class Screen:
    """Tells steps as they are done, or keeps them for JSON.

    Args:
        as_json: Print nothing until `finish`.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._steps: list[Step] = []
        self._started = time.monotonic()
        self._last = self._started

    def heading(self, *lines: str) -> None:
        """Print lines before the steps."""
        if not self._as_json:
            for line in lines:
                console.out.print(line)

    def step(
        self, number: int, title: str, *evidence: str, seconds: float | None = None, mark: str | None = None
    ) -> None:
        """Tell a step that was done.

        Args:
            number: 1 to 12, or 0.
            title: What happened.
            evidence: What shows it, a line each.
            seconds: How long it took; by default, since the last step.
            mark: Stands before the title, in place of the number in a circle.
        """
        now = time.monotonic()
        taken = now - self._last if seconds is None else seconds
        self._last = now
        self._steps.append(Step(number=number, title=title, seconds=round(taken, 3), evidence=list(evidence)))
        if self._as_json:
            return
        shown = mark or (NUMBERS[number - 1] if number else "·")
        console.out.print(f"{shown}  {title}  ", end="", style="bold")
        console.out.print(f"{taken:.1f} s", style="dim")
        for line in evidence:
            console.out.print(INDENT + line, style="dim" if line.startswith(" ") else None)

    def finish(self, **summary: object) -> None:
        """Tell the end: everything at once for JSON, else how long it took in all."""
        seconds = time.monotonic() - self._started
        if self._as_json:
            console.print_json(
                {"steps": [asdict(step) for step in self._steps], "seconds": round(seconds, 3), **summary}
            )
        else:
            console.out.print(f"\n{seconds:.0f} s in all.", style="dim")
