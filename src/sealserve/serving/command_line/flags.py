"""Parser of flags in TensorFlow Serving's form: ``--flag=value``, ``--flag value``, and boolean flags without a value.

Source: tensorflow/tensorflow, ``tensorflow/core/util/command_line_flags.cc``. The form with a space is an addition.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sealserve.errors import SealserveError
from sealserve.serving.codes import ServingCode
from sealserve.serving_flags import Flag, Value

_TRUE: Final = frozenset({"true", "1", "yes"})
_FALSE: Final = frozenset({"false", "0", "no"})


def parse_value(flag: Flag, text: str | None) -> Value:
    """Return the value that ``text`` means for a flag; None means a flag without a value.

    Raises:
        InputError: `flags.invalid-value`: The value is missing or invalid.
    """
    if isinstance(flag.default, bool):
        if text is None or text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        raise ServingCode.FLAGS_INVALID_VALUE.error(f"--{flag.name} is invalid: expected true or false, got {text!r}.")
    if text is None:
        raise ServingCode.FLAGS_INVALID_VALUE.error(
            f"--{flag.name} is missing a value.", hint=f"Give it as --{flag.name}=VALUE."
        )
    if isinstance(flag.default, int):
        try:
            number = int(text)
        except ValueError as error:
            raise ServingCode.FLAGS_INVALID_VALUE.error(
                f"--{flag.name} is invalid: expected an integer, got {text!r}."
            ) from error
        if not flag.minimum <= number <= flag.maximum and flag.refused is None:
            raise ServingCode.FLAGS_INVALID_VALUE.error(
                f"--{flag.name} is invalid: expected an integer from {flag.minimum} to {flag.maximum}, got {number}."
            )
        return number
    return text


def parse(arguments: Sequence[str], table: Iterable[Flag]) -> Mapping[str, Value]:
    """Return the value of each supported flag of ``table``. If a flag is repeated, the last value counts.

    Args:
        arguments: The command line, without the program's name.
        table: All known flags, including flags that this server refuses.

    Raises:
        InputError: `flags.unknown`: The flag is not in the table; the hint names the most similar flag.
        InputError: `flags.refused`: The flag has a value that this server does not support.
        InputError: `flags.invalid-value`: The value is missing or invalid.
        InputError: `flags.unexpected-argument`: An argument is not a flag.
    """
    known = {flag.name: flag for flag in table}
    values = {flag.name: flag.default for flag in known.values() if flag.refused is None}
    rest = list(reversed(arguments))
    while rest:
        argument = rest.pop()
        if not argument.startswith("--") or argument == "--":
            raise ServingCode.FLAGS_UNEXPECTED_ARGUMENT.error(
                f"The argument {argument!r} is not a flag.", hint="Give every argument as --flag=value or --flag value."
            )
        name, equals, text = argument.removeprefix("--").partition("=")
        flag = known.get(name)
        if flag is None:
            raise _unknown(name, known)
        given: str | None = text if equals else None
        if given is None and not isinstance(flag.default, bool) and rest and not rest[-1].startswith("--"):
            given = rest.pop()
        value = parse_value(flag, given)
        if flag.refused is None:
            values[name] = value
        elif value not in flag.harmless:
            raise ServingCode.FLAGS_REFUSED.error(
                f"--{name} is not supported by this server: {flag.refused}.", hint=_without(flag)
            )
    return values


def _unknown(name: str, known: Mapping[str, Flag]) -> SealserveError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean --{near[0]}?" if near else "List the flags with `sealserve-model-server --help`."
    return ServingCode.FLAGS_UNKNOWN.error(f"The flag --{name} is unknown.", hint=hint)


def _without(flag: Flag) -> str:
    if not flag.harmless:
        return "Omit it."
    values = " or ".join(f"--{flag.name}={_render(value)}" for value in flag.harmless)
    return f"Omit it, or give {values}."


def _render(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def describe(table: Iterable[Flag]) -> str:
    """Return the text of ``--help``: the supported flags, then the refused flags with the reasons."""
    flags = tuple(table)
    lines = ["usage: sealserve-model-server --model_base_path=PATH --ssl_config_file=PATH [--flag=value ...]", ""]
    for flag in (flag for flag in flags if flag.refused is None):
        default = "" if flag.default in ("", False) else f" (default: {flag.default})"
        lines += [f"  --{flag.name}", f"      {flag.help}{default}"]
    lines += ["", "Flags of TensorFlow Serving that this server does not support, with the reasons:"]
    lines += [f"  --{flag.name}: {flag.refused}" for flag in flags if flag.refused is not None]
    return "\n".join(lines) + "\n"
