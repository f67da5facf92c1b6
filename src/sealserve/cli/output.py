"""The result of a verb: JSON for programs, or text for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from sealserve.cli import console
from sealserve.cli.verbs import Options


@dataclass(frozen=True, slots=True)
class Table:
    """A result as a table.

    Args:
        columns: The headings of the columns.
        rows: One sequence of cells for each row.
        empty: Text to print if the table does not have rows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    empty: str = "No entries."


Text = str | Mapping[str, object] | Table
"""A part of a result for people: a sentence, names with values, or a table."""


@dataclass(frozen=True)
class Output(Options):
    """Option for the output format of a verb's result."""

    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, for use in programs")] = False

    def show(self, value: Any, *text: Text) -> None:
        """Print a result: ``value`` as JSON with --json, else each part of ``text`` for people."""
        if self.as_json:
            console.print_json(value)
            return
        for previous, part in zip((None, *text), text, strict=False):
            if isinstance(part, Table) and previous is not None and not isinstance(previous, str | Table):
                console.out.print("")  # separate a table from the fields above it
            if isinstance(part, str):
                console.out.print(part)
            elif isinstance(part, Table):
                console.print_table(part.columns, part.rows, empty=part.empty)
            else:
                console.print_fields(part)

    def say(self, message: str) -> None:
        """Print a message for people on standard error. With --json, nothing is printed."""
        if not self.as_json:
            console.say(message)
