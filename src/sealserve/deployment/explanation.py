"""Error messages for ``sealserve.toml``: they name the file, the line and the key as the file writes it."""

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pydantic import ValidationError

from sealserve.deployment import value_faults
from sealserve.deployment.codes import DeploymentCode
from sealserve.deployment.moved_keys import MOVED, SECTION, Moved
from sealserve.deployment.section import AT_KEY, Section, fields_of, section_of
from sealserve.deployment.sections.kubernetes import KubernetesSection
from sealserve.deployment.whole import Deployment
from sealserve.errors import SealserveError

Location = Sequence[int | str]
"""Path to a key: its own name, the names of the tables around it, and the index of a ``[[table]]``."""

_HEADING: Final = re.compile(r"^\s*\[\[?(?P<name>[^\]]+)\]")
_PASSWORD: Final = re.compile(r"(://[^:/@\s]*):[^\s]*@")  # up to the last "@": a password can contain this character
_QUERY: Final = re.compile(r"""(://[^?\s]*)\?[^\s'"]*""")  # a parameter can be a password or a signature
_LONGEST_VALUE: Final = 200
"""Maximum number of characters of a value that an error repeats."""
_A_TYPING_ERROR: Final = 0.75
_SIMILAR: Final = 0.5
"""Minimum similarity (`difflib` ratio) of a known key to an unknown key.

From `_SIMILAR` to `_A_TYPING_ERROR`, a key with exactly this name in a different table is the better suggestion.
"""


def explain(
    error: ValidationError, text: str, source: str, *, data: Mapping[str, object], moved: Sequence[Moved] = ()
) -> SealserveError:
    """Return a sealserve error for a pydantic error.

    An unknown key is reported first, because it explains why a required key is missing.

    Args:
        error: The error that pydantic raised.
        text: The file's content.
        source: The name of the file in the message.
        data: The file, parsed.
        moved: The keys that the file writes by their former names.
    """
    found = error.errors(include_url=False)
    first = next((item for item in found if item["type"] == "extra_forbidden"), found[0])
    location = first["ctx"]["key"].split(".") if first["type"] == AT_KEY else first["loc"]
    if first["type"] not in {"missing", "extra_forbidden"}:
        location = _in_file(location, data)
    place, where = describe(location, text, source, moved=moved)
    if first["type"] == "extra_forbidden":
        hint = _nearest(_keys(first["loc"]))
        return DeploymentCode.UNKNOWN_KEY.error(f"{place}: unknown key {where!r}.", hint=hint)
    if first["type"] == "missing":
        return DeploymentCode.INVALID_VALUE.error(
            f"{place}: the required key {where!r} is missing.", hint=f"Add {where!r} to the file."
        )
    got = "" if isinstance(first["input"], Mapping) else f", got {_written(first['input'])}"
    if value_faults.is_our_own(first):
        message = first["msg"].removeprefix("Value error, ")
        return DeploymentCode.INVALID_VALUE.error(f"{place}: {where}: {message}{got if first['loc'] else ''}.")
    # A value that accepts several types has one error for each type.
    same = [item for item in found if _in_file(item["loc"], data) == location]
    expected = ", or ".join(dict.fromkeys(value_faults.expectation(item) for item in same))
    return DeploymentCode.INVALID_VALUE.error(
        f"{place}: {where}: expected {expected}{got or ', got a table'}.", hint=value_faults.remedy(first)
    )


def _in_file(location: Location, data: object) -> Location:
    """Return a location without the parts that pydantic adds for the types of a value. The file has no such keys."""
    kept = []
    for part in location:
        if isinstance(part, int):
            if not isinstance(data, list) or part >= len(data):
                break
            data = data[part]
        else:
            if not isinstance(data, Mapping) or part not in data:
                break
            data = data[part]
        kept.append(part)
    return kept


def clash(moved: Moved, text: str, source: str) -> SealserveError:
    """Return the error for a key that a file sets by its former name and by its current name."""
    place, old = describe((SECTION, moved.old), text, source)
    new = _new_name(moved)
    return DeploymentCode.INVALID_VALUE.error(
        f"{place}: {old} is the former name of {new}, and the file sets both.",
        hint=f"Remove {old} and keep {new}.",
    )


def renaming(moved: Sequence[Moved], text: str, source: str) -> str:
    """Return the warning that lists which keys of a file to rename."""
    lines = []
    for key in moved:
        line = line_of(text, (SECTION, key.old))
        lines.append(f"  {'' if line is None else f'line {line}: '}{SECTION}.{key.old} is now {_new_name(key)}")
    return f"{source} has keys with deprecated names. Rename them:\n" + "\n".join(lines)


def describe(location: Location, text: str, source: str, *, moved: Sequence[Moved] = ()) -> tuple[str, str]:
    """Return the file name with the line of a key, and the key as the file writes it."""
    keys = written = _keys(location)
    for key in moved:
        new = [SECTION, *key.new]
        if keys[: len(new)] == new:  # the value, or something in it
            written = [SECTION, key.old, *keys[len(new) :]]
            location = written
    line = line_of(text, location)
    if line is None:  # the file does not have this table: it has only former keys
        line = next((line_of(text, (SECTION, key.old)) for key in moved if keys == [SECTION, key.new[0]]), None)
    return source if line is None else f"{source}, line {line}", ".".join(written) or "the file"


def line_of(text: str, location: Location) -> int | None:
    """Return the number of the line that sets a key. None if the key is missing or written in an unusual form."""
    keys = _keys(location)
    wanted = ".".join(keys)
    index = next((part for part in location if isinstance(part, int)), 0)
    table = ""
    seen: Counter[str] = Counter()
    for number, line in enumerate(text.split("\n"), 1):
        if (heading := _HEADING.match(line)) is not None:
            table = _plain(heading["name"])
            seen[table] += 1
            if table == wanted:
                return number
        elif "=" in line:
            key = _plain(line.partition("=")[0])
            path = f"{table}.{key}" if table else key
            of_that_table = len(keys) == 1 or not table or seen[table] == index + 1
            if of_that_table and f"{wanted}.".startswith(f"{path}."):  # the value, or an inline table around it
                return number
    return None


def _plain(key: str) -> str:
    """Return a dotted key without quotation marks and spaces."""
    return ".".join(part.strip(" \t\"'") for part in key.split("."))


def _keys(location: Location) -> list[str]:
    """Return the keys of a location without pydantic's markers: "[key]" means that the key itself is invalid."""
    return [part for part in location if isinstance(part, str) and part != "[key]"]


def _new_name(moved: Moved) -> str:
    return ".".join((SECTION, *moved.new))


def _written(value: object) -> str:
    """Return a value roughly as TOML writes it, truncated if it is long, without the secrets that a URL can contain."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    text = _PASSWORD.sub(r"\1:...@", _QUERY.sub(r"\1?...", text))
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _nearest(keys: Sequence[str]) -> str:
    """Return the hint for an unknown key: the most similar key, preferably of the same table."""
    section: type[Section] = Deployment
    for part in keys[:-1]:
        section = section_of(fields_of(section)[part]) or section
    unknown, table = keys[-1], [*keys[:-1]]
    known = {name: name for name in fields_of(section)}
    former = {old: ".".join(new) for old, new in MOVED.items()} if section is KubernetesSection else {}
    close = difflib.get_close_matches(unknown, [*known, *former], n=1, cutoff=_A_TYPING_ERROR)
    elsewhere = [path for path in _all_keys(Deployment) if path.rpartition(".")[2] == unknown]
    if not close and elsewhere:
        return f"Did you mean {' or '.join(map(repr, elsewhere))}?"
    if close := close or difflib.get_close_matches(unknown, [*known, *former], n=1, cutoff=_SIMILAR):
        return f"Did you mean {'.'.join([*table, (former | known)[close[0]]])!r}?"
    return f"Use a key of this table: {', '.join(known)}."


def _all_keys(section: type[Section], table: str = "") -> Iterator[str]:
    """Yield the path of every key that a file may have."""
    for name, field in fields_of(section).items():
        yield f"{table}{name}"
        if (inner := section_of(field)) is not None:
            yield from _all_keys(inner, f"{table}{name}.")
