"""Help texts are shown as they are written: with their brackets, and in lines as wide as the terminal.

Typer takes a help text for Rich markup, in which ``[keystore]`` is a style. It also keeps the line breaks of a
docstring, which are in the middle of sentences.
"""

import re
from typing import Any, Final

from rich.markup import escape

_PARAGRAPH: Final = re.compile(r"\n[ \t]*\n\s*")
_DONE: Final = "sealserve_literal"


def make_literal(command: Any) -> None:
    """Let the help of a command (click's), of its options and of the commands below it be shown as it is written."""
    if getattr(command, _DONE, False):
        return
    setattr(command, _DONE, True)
    command.help = literal(command.help)
    command.short_help = literal(command.short_help)
    command.epilog = literal(command.epilog)
    for parameter in command.params:
        _shorten(parameter)
        if getattr(parameter, "help", None):
            parameter.help = literal(parameter.help)
    for inner in getattr(command, "commands", {}).values():
        make_literal(inner)


def _shorten(parameter: Any) -> None:
    """Leave out what tells a reader nothing: that a flag is a ``<bool>``, and a second pair of brackets."""
    if getattr(parameter, "is_flag", False):
        parameter.metavar = ""
    elif parameter.param_type_name == "argument" and parameter.metavar:
        parameter.metavar = parameter.metavar.strip("[]")  # the usage line has brackets of its own


def literal(text: str | None) -> str | None:
    """Return a text that is shown as it is, each paragraph in one line."""
    if text is None:
        return None
    paragraphs = (" ".join(paragraph.split()) for paragraph in _PARAGRAPH.split(text.strip()))
    return escape("\n\n".join(paragraphs))
