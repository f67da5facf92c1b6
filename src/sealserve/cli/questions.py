"""Questions of a verb to a person at a terminal."""

import sys
from collections.abc import Callable
from typing import TypeVar

import typer

from sealserve.cli import console
from sealserve.errors import SealserveError

_Answer = TypeVar("_Answer")


def can_ask() -> bool:
    """Return whether standard input and standard error are terminals, so that a person can answer questions."""
    return sys.stdin.isatty() and console.err.is_terminal


def ask(question: str, default: str, read: Callable[[str], _Answer]) -> _Answer:
    """Ask on standard error until the answer is valid.

    Args:
        question: The question, without a question mark.
        default: The answer if the person only presses Enter.
        read: Parses an answer. If it raises a `SealserveError`, the error is shown and the question is asked again.

    Raises:
        typer.Abort: The person interrupted the question.
    """

    def parse(answer: str) -> _Answer:
        try:
            return read(answer.strip())
        except SealserveError as error:
            raise typer.BadParameter(console.visible(str(error))) from error

    answer: _Answer = typer.prompt(console.visible(question), default=default, value_proc=parse, err=True)
    return answer
