"""Show help texts as they are written: with their brackets, and wrapped at the width of the terminal.

Typer interprets a help text as Rich markup, in which ``[keystore]`` is a style. It also keeps the line breaks of a
docstring, which are in the middle of sentences.
"""

import re
from typing import Any, Final

from rich.markup import escape

_PARAGRAPH: Final = re.compile(r"\n[ \t]*\n\s*")
_DONE: Final = "sealserve_literal"


def make_literal(command: Any) -> None:
    """Escape the help texts of a click command, of its options and of its subcommands."""
    if getattr(command, _DONE, False):
        return
    setattr(command, _DONE, True)
    command.help = literal(command.help)
    command.short_help = literal(command.short_help)
    command.epilog = literal(command.epilog)
    for parameter in command.params:
        shorten(parameter)
        if getattr(parameter, "help", None):
            parameter.help = literal(parameter.help)
    for inner in getattr(command, "commands", {}).values():
        make_literal(inner)


def shorten(parameter: Any) -> None:
    """Remove noise from the help of a click parameter: the type ``<bool>`` of a flag, and a second pair of brackets."""
    if getattr(parameter, "is_flag", False):
        parameter.metavar = ""
    elif parameter.param_type_name == "argument" and parameter.metavar:
        parameter.metavar = parameter.metavar.strip("[]")  # click adds brackets in the usage line


def literal(text: str | None) -> str | None:
    """Return a text with its Rich markup escaped, and each paragraph in one line."""
    if text is None:
        return None
    paragraphs = (" ".join(paragraph.split()) for paragraph in _PARAGRAPH.split(text.strip()))
    return escape("\n\n".join(paragraphs))
