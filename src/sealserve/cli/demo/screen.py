"""The output of the demo: numbered steps, each with an explanation, its evidence and its duration."""

import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from sealserve.cli import console

NUMBERS = "①②③④⑤⑥⑦⑧⑨⑩⑪⑫"
INDENT = "   "
WIDEST: Final = 100
"""The widest line of running text, in columns. Longer lines are hard to read, also on a wide terminal."""

Evidence = str | tuple[str, str]
"""A line of evidence: a text, or a label and its value. The labels of a step are aligned."""


@dataclass(slots=True, kw_only=True)
class Step:
    """A step that was shown. Its number is 0 if it comes before or after the twelve steps."""

    number: int
    title: str
    explanation: str = ""
    seconds: float
    evidence: list[str] = field(default_factory=list)


class Screen:
    """Prints each step when it is done, or collects the steps for JSON.

    Args:
        as_json: Print nothing until `finish`.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._steps: list[Step] = []
        self._started = time.monotonic()
        self._last = self._started

    def heading(self, *lines: str) -> None:
        """Print paragraphs, wrapped, before or between the steps. JSON output does not contain them."""
        if not self._as_json:
            for line in lines:
                for piece in _wrapped(line, ""):
                    console.out.print(piece)

    def step(
        self,
        number: int,
        title: str,
        explanation: str = "",
        *evidence: Evidence,
        seconds: float | None = None,
        mark: str | None = None,
    ) -> None:
        """Show a step that is done.

        Args:
            number: The step's number, from 1 to 12, or 0 for a step before or after the twelve.
            title: What happened.
            explanation: What the step means, and why it matters. It is printed between the title and the evidence.
            evidence: Facts that prove the step. A text that begins with a space is a row of a table: spaces are kept,
                and only its last column is wrapped.
            seconds: Duration of the step. None means the time since the previous step.
            mark: Printed before the title in place of the number in a circle.
        """
        now = time.monotonic()
        taken = now - self._last if seconds is None else seconds
        self._last = now
        as_text = [item if isinstance(item, str) else f"{item[0]}: {item[1]}" for item in evidence]
        self._steps.append(
            Step(number=number, title=title, explanation=explanation, seconds=round(taken, 3), evidence=as_text)
        )
        if self._as_json:
            return
        shown = mark or (NUMBERS[number - 1] if number else "·")
        console.out.print("")
        *first, last = _wrapped(title, f"{shown}  ") if console.out.is_terminal else [f"{shown}  {title}"]
        for line in first:
            console.out.print(line, style="bold")
        console.out.print(f"{last}  ", end="", style="bold")
        console.out.print(f"{taken:.1f} s", style="dim")
        for line in _wrapped(explanation, INDENT) if explanation else ():
            console.out.print(line)
        for line in _aligned(evidence):
            console.out.print(line, style="dim")

    def pairs(self, heading: str, pairs: Sequence[tuple[str, str]]) -> None:
        """Print a heading and aligned pairs below it, such as commands and their purpose."""
        if not self._as_json:
            console.out.print(heading)
            for line in _aligned(pairs, indent="  "):
                console.out.print(line)

    def finish(self, **summary: object) -> None:
        """Print the document with all steps for JSON, or the total duration for people."""
        seconds = time.monotonic() - self._started
        if self._as_json:
            console.print_json(
                {"steps": [asdict(step) for step in self._steps], "seconds": round(seconds, 3), **summary}
            )
        else:
            console.out.print(f"\nThe demo took {seconds:.0f} s.", style="dim")


def _aligned(evidence: Sequence[Evidence], indent: str = f"{INDENT}  ") -> Iterator[str]:
    """Yield the lines of a step's evidence: values in one column, a repeated label only once."""
    labels = [item[0] for item in evidence if not isinstance(item, str)]
    width = max(map(len, labels), default=0) + 2
    previous = ""
    for item in evidence:
        if isinstance(item, str):
            last_column = item.rindex("  ") + 2 if item.startswith(" ") else 0
            yield from _wrapped(item[last_column:], indent + item[:last_column])
            continue
        label, value = item
        shown = "" if label == previous else label
        previous = label
        yield from _wrapped(value, f"{indent}{shown:<{width}}")


def _wrapped(text: str, begin: str) -> list[str]:
    """Return a text in lines that fit: the first line after ``begin``, the other lines indented as far.

    A word that is too long, such as a path, is broken only on a terminal, so that a program can search for it.
    """
    width = min(console.out.width, WIDEST) if console.out.is_terminal else WIDEST
    return textwrap.wrap(
        text, max(width, len(begin) + 20), initial_indent=begin, subsequent_indent=" " * len(begin),
        break_long_words=console.out.is_terminal, break_on_hyphens=False,
    ) or [begin.rstrip()]  # fmt: skip
