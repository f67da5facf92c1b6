"""The result of a verb: JSON for programs, or text for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from sealserve.cli import console
from sealserve.cli.verbs import Options


@dataclass(frozen=True, slots=True)
class Table:
    """A result as rows under a heading.

    Args:
        columns: The heading.
        rows: One sequence of cells for each row.
        empty: What is printed instead if there are no rows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    empty: str = "Nothing here."


Text = str | Mapping[str, object] | Table
"""A part of a result for people: a sentence, names with values, or a table."""


@dataclass(frozen=True)
class Output(Options):
    """Where the result of a verb goes."""

    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False

    def show(self, value: Any, *text: Text) -> None:
        """Print a result: ``value`` for programs, or each part of ``text`` for people."""
        if self.as_json:
            console.print_json(value)
            return
        for part in text:
            if isinstance(part, str):
                console.out.print(part)
            elif isinstance(part, Table):
                console.print_table(part.columns, part.rows, empty=part.empty)
            else:
                console.print_fields(part)

    def say(self, message: str) -> None:
        """Tell a person something beside the result (on standard error); programs do not get it."""
        if not self.as_json:
            console.say(message)
