"""Usage errors: an unknown command or option, a missing argument, a value of the wrong type.

Typer prints these errors in a box, without a code and without JSON. This module converts them to sealserve's errors.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any, Final

# Typer contains click and exports only a part of it; the lock file pins its version.
from typer._click.exceptions import ClickException, MissingParameter, NoSuchOption

from sealserve.cli.codes import CliCode
from sealserve.errors import SealserveError

ALIASES: Final[Mapping[str, str]] = {
    "build": "release build",
    "config": "init",
    "create": "init",
    "decrypt": "unseal",
    "delete": "down",
    "deploy": "up",
    "destroy": "down",
    "encrypt": "seal",
    "health": "status",
    "help": "--help",
    "info": "status",
    "list": "release list",
    "load": "bench",
    "log": "logs",
    "ls": "release list",
    "new": "init",
    "ps": "status",
    "remove": "down",
    "restart": "up",
    "rm": "down",
    "rollback": "up --rollback",
    "run": "up",
    "serve": "up",
    "start": "up",
    "stop": "down",
    "tail": "logs",
    "test": "model test",
    "uninstall": "down",
    "version": "--version",
}
"""Commands of similar tools, and the corresponding command of sealserve."""


_NO_SUCH_COMMAND: Final = re.compile(r"No such command '(?P<name>.*?)'\.", re.DOTALL)


def explain(error: ClickException) -> SealserveError:
    """Convert an error of click to an error of sealserve."""
    context = getattr(error, "ctx", None)
    if context is None:  # for an option without its value, click does not report the command
        return CliCode.USAGE_ARGUMENTS.error(error.message, hint="Add --help to show the options of the command.")
    command = context.command_path
    help_hint = f"Run `{command} --help` to show its options and arguments."
    if isinstance(error, NoSuchOption):
        known = {name.lstrip("-"): name for item in context.command.get_params(context) for name in item.opts}
        close = difflib.get_close_matches(error.option_name.lstrip("-"), known, n=1)
        hint = f"Did you mean {known[close[0]]}?" if close else help_hint
        return CliCode.USAGE_OPTION.error(f"{command}: unknown option {error.option_name}.", hint=hint)
    if (unknown := _NO_SUCH_COMMAND.match(error.message)) is not None:
        return unknown_command(unknown["name"], command, list(context.command.commands))
    name = _name(getattr(error, "param", None))
    if isinstance(error, MissingParameter):
        return CliCode.USAGE_MISSING.error(f"{command}: {name} is missing.", hint=help_hint)
    if name:
        message, meant = _wrong_value(error)
        return CliCode.USAGE_VALUE.error(f"{command}: {name}: {message}", hint=meant or help_hint)
    words = error.message.rstrip(".").removeprefix("Got ").replace("argument(s) (", "arguments (")
    return CliCode.USAGE_ARGUMENTS.error(f"{command}: {words[:1].lower()}{words[1:]}.", hint=help_hint)


def unknown_command(name: str, group: str, known: list[str]) -> SealserveError:
    """Return the error for a command that does not exist.

    Args:
        name: The command as typed.
        group: The words before it, such as "sealserve certs".
        known: The existing commands of this group.
    """
    hint = f"Run `{group} --help` to list the commands."
    if group == "sealserve" and name in ALIASES:
        hint = f"Did you mean `sealserve {ALIASES[name]}`?"
    elif close := difflib.get_close_matches(name, known, n=1):
        hint = f"Did you mean `{group} {close[0]}`?"
    return CliCode.USAGE_COMMAND.error(f"{group}: unknown command {name!r}.", hint=hint)


def _name(parameter: Any) -> str:
    """Return the name of an option as the user types it, or of an argument as the help shows it."""
    if parameter is None:
        return ""
    if parameter.param_type_name == "option":
        return str(max(parameter.opts, key=len))
    return str(parameter.metavar or parameter.name.upper()).strip("[]{}")


def _wrong_value(error: ClickException) -> tuple[str, str | None]:
    """Return a description of an invalid value, and a hint. The cause of Typer's error can be an error of pydantic."""
    from pydantic import ValidationError  # noqa: PLC0415  # most commands end without such an error

    from sealserve.deployment import value_faults  # noqa: PLC0415

    if not isinstance(error.__cause__, ValidationError):
        return error.message, None
    fault = error.__cause__.errors(include_url=False)[0]
    value = repr(fault["input"])[:200]
    if fault["type"] == "value_error":  # a choice: "Value error, 'x' is not one of 'a', 'b'."
        said, is_choice, listed = fault["msg"].removeprefix("Value error, ").partition(" is not one of ")
        if not is_choice:
            return said, None
        choices = listed.rstrip(".").replace("'", "").split(", ")
        close = difflib.get_close_matches(str(fault["input"]), choices, n=1)
        expected = f"{', '.join(choices[:-1])} or {choices[-1]}" if len(choices) > 1 else choices[0]
        return f"expected {expected}, got {value}.", f"Did you mean {close[0]}?" if close else None
    return f"expected {value_faults.expectation(fault)}, got {value}.", None
