"""Command line flags as TensorFlow Serving spells them: ``--flag=value``, and ``--flag value``; booleans also bare.

Source: tensorflow/tensorflow, ``tensorflow/core/util/command_line_flags.cc``; the form with a space is ours.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealserve.errors import InputError

Value = bool | int | str

_TRUE: Final = frozenset({"true", "1", "yes"})
_FALSE: Final = frozenset({"false", "0", "no"})


class UnknownFlagError(InputError):
    """The command line has a flag that nobody knows."""

    code = "flags.unknown"


class RefusedFlagError(InputError):
    """TensorFlow Serving has this flag, and this server does not do what it asks for."""

    code = "flags.refused"


class FlagValueError(InputError):
    """A flag's value is missing, or is not of its kind."""

    code = "flags.invalid-value"


class UnexpectedArgumentError(InputError):
    """The command line has something that is no flag."""

    code = "flags.unexpected-argument"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag.

    Args:
        name: Its name, without the dashes.
        default: What it is when it is not given; it also says the flag's kind.
        help: What it does.
        minimum: The smallest integer that makes sense.
        maximum: The greatest one.
        ours: Whether TensorFlow Serving lacks it.
        refused: Why this server does not honour it, or None where it does.
        harmless: Of a refused flag, the values that ask for what the server does anyway.
    """

    name: str
    default: Value
    help: str = ""
    minimum: int = 0
    maximum: int = 2**31 - 1
    ours: bool = False
    refused: str | None = None
    harmless: tuple[Value, ...] = ()

    def parse(self, text: str | None) -> Value:
        """Return the value that ``text`` stands for; None is a bare flag.

        Raises:
            FlagValueError: It stands for none.
        """
        if isinstance(self.default, bool):
            if text is None or text.lower() in _TRUE:
                return True
            if text.lower() in _FALSE:
                return False
            raise FlagValueError(f"--{self.name}: expected true or false, got {text!r}.")
        if text is None:
            raise FlagValueError(f"--{self.name} needs a value.", hint=f"Give it as --{self.name}=VALUE.")
        if isinstance(self.default, int):
            try:
                number = int(text)
            except ValueError as error:
                raise FlagValueError(f"--{self.name}: expected an integer, got {text!r}.") from error
            if not self.minimum <= number <= self.maximum and self.refused is None:
                raise FlagValueError(
                    f"--{self.name}: expected an integer from {self.minimum} to {self.maximum}, got {number}."
                )
            return number
        return text


class Values:
    """The value of each flag that is honoured, by its kind.

    Args:
        values: The values by name.
    """

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def truth(self, name: str) -> bool:
        """Return a boolean flag's value."""
        return bool(self._values[name])

    def integer(self, name: str) -> int:
        """Return an integer flag's value."""
        return int(self._values[name])

    def text(self, name: str) -> str:
        """Return a string flag's value."""
        return str(self._values[name])

    def path(self, name: str) -> Path | None:
        """Return a string flag's value as a path, or None where it is empty."""
        text = self.text(name)
        return Path(text) if text else None


def parse(arguments: Sequence[str], table: Iterable[Flag]) -> Values:
    """Return the value of each flag of ``table``, the refused ones left out. Given twice, the last one counts.

    Args:
        arguments: The command line, without the program's name.
        table: Every flag that is known.

    Raises:
        UnknownFlagError: No flag of the table; the hint names the nearest one.
        RefusedFlagError: A flag with a value that this server does not honour.
        FlagValueError: A value that is missing or not of the flag's kind.
        UnexpectedArgumentError: No flag at all.
    """
    known = {flag.name: flag for flag in table}
    values = {flag.name: flag.default for flag in known.values() if flag.refused is None}
    rest = list(reversed(arguments))
    while rest:
        argument = rest.pop()
        if not argument.startswith("--") or argument == "--":
            raise UnexpectedArgumentError(
                f"Unexpected argument {argument!r}.", hint="Every argument is a flag: --flag=value or --flag value."
            )
        name, equals, text = argument.removeprefix("--").partition("=")
        flag = known.get(name)
        if flag is None:
            raise _unknown(name, known)
        given: str | None = text if equals else None
        if given is None and not isinstance(flag.default, bool) and rest and not rest[-1].startswith("--"):
            given = rest.pop()
        value = flag.parse(given)
        if flag.refused is None:
            values[name] = value
        elif value not in flag.harmless:
            raise RefusedFlagError(f"--{name} is not honoured by this server: {flag.refused}.", hint=_without(flag))
    return Values(values)


def _unknown(name: str, known: Mapping[str, Flag]) -> UnknownFlagError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean --{near[0]}?" if near else "`sealserve-model-server --help` lists the flags."
    return UnknownFlagError(f"Unknown flag --{name}.", hint=hint)


def _without(flag: Flag) -> str:
    if not flag.harmless:
        return "Leave it out."
    values = " or ".join(f"--{flag.name}={_render(value)}" for value in flag.harmless)
    return f"Leave it out, or give {values}."


def _render(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def describe(table: Iterable[Flag]) -> str:
    """Return the text of ``--help``: what is honoured, then what is refused and why."""
    flags = tuple(table)
    lines = ["usage: sealserve-model-server --model_base_path=PATH --ssl_config_file=PATH [--flag=value ...]", ""]
    for flag in (flag for flag in flags if flag.refused is None):
        default = "" if flag.default in ("", False) else f" (default: {flag.default})"
        lines += [f"  --{flag.name}", f"      {flag.help}{default}"]
    lines += ["", "Flags of TensorFlow Serving that this server refuses, and why:"]
    lines += [f"  --{flag.name}: {flag.refused}" for flag in flags if flag.refused is not None]
    return "\n".join(lines) + "\n"
