"""Write docs/reference/errors.md from the error codes in the source, or check that the committed page is up to date."""

import ast
import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scripts.generated_files import write_or_check

import sealserve
from sealserve.errors import ErrorCode, InputError, SealserveError, UnavailableError, VerificationError
from sealserve.serving.request_errors import RequestCode, RequestError

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "errors.md"
FAMILIES = (InputError, VerificationError, UnavailableError)
HEAD = """\
# Errors and exit statuses

<!-- Written by scripts/errors.py from the codes in the source: change the codes there, then run `make errors`. -->

Each error has a stable code. sealserve prints it as `error[CODE]: message`. The next line is a hint: how to fix the
problem. With `--json`, sealserve prints `{"error": {"code": ..., "message": ..., "hint": ...}}` on standard output.

Programs can rely on codes and exit statuses. Messages are for people and can change.

## Exit statuses

| status | meaning |
|---|---|
| 0 | The command succeeded. |
| 1 | `internal`: A bug in sealserve; `SEALSERVE_DEBUG=1` prints the traceback. Or: the user answered no. |
"""
TAIL = """\
| 5 | Only from [`sealserve status`](../how-to/status-and-logs.md): the service answers, but a part has a problem. |
| 6 | Only from `sealserve status`: the service does not answer, or nothing runs. |
| 130 | The command was interrupted by Ctrl-C or SIGTERM. |

`sealserve enclave run` ends with the exit status of the server that it ran, or with 128 + N if signal N ended the
server. An invalid command line ends with status 2 and has no error code.

## Codes

The status is the exit status of the command. `request` errors are answers of the model server to a client: they have a
gRPC status, and do not end a command.
"""


T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """An error code, and its row on the page.

    Args:
        code: The stable code, such as `release.invalid`.
        name: The dotted name of the enumeration member or the class that defines the code.
        family: The class of the errors with this code.
        status: The exit status of a command, or the gRPC status of an answer.
        meaning: The first line of the docstring.
    """

    code: str
    name: str
    family: type[SealserveError]
    status: str
    meaning: str


def enumerations() -> list[type[ErrorCode]]:
    """Return every enumeration of codes."""
    return [found for found in _ours(ErrorCode) if len(found)]


def classes() -> list[type[SealserveError]]:
    """Return every error class, including the families."""
    return _ours(SealserveError)


def causes() -> list[Cause]:
    """Return every code, from the enumerations and from the classes that define a code."""
    members = [_of_member(member, meaning) for found in enumerations() for member, meaning in _documented(found)]
    own = [_of_class(found) for found in classes() if "code" in vars(found) and "." in found.code]
    return sorted(members + own, key=lambda cause: cause.code)


def render() -> str:
    """Return the text of the page."""
    statuses = "".join(f"| {family.exit_status} | `{family.code}`: {_first_line(family)} |\n" for family in FAMILIES)
    groups = (
        f"\n### {name}\n\n| code | status | meaning |\n|---|---|---|\n"
        + "".join(f"| `{cause.code}` | {cause.status} | {cause.meaning} |\n" for cause in members)
        for name, members in itertools.groupby(causes(), key=lambda cause: cause.code.partition(".")[0])
    )
    return HEAD + statuses + TAIL + "".join(groups)


def main() -> None:
    """Write the page, or compare it with ``--check``."""
    write_or_check({PAGE: render}, description=__doc__, target="errors")


def _ours(root: type[T]) -> list[type[T]]:
    """Return the subclasses of ``root`` in the package sealserve, without importing TensorFlow."""
    for module in pkgutil.walk_packages(sealserve.__path__, f"{sealserve.__name__}."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
    return [found for found in dict.fromkeys(_below(root)) if found.__module__.startswith(f"{sealserve.__name__}.")]


def _below(root: type[T]) -> Iterator[type[T]]:
    for subclass in root.__subclasses__():
        yield subclass
        yield from _below(subclass)


def _documented(found: type[ErrorCode]) -> Iterator[tuple[ErrorCode, str]]:
    """Return the members of an enumeration, each with the first line of the docstring below it.

    Python does not store these docstrings at run time, so this function reads them from the source.
    """
    (definition,) = ast.parse(inspect.getsource(found)).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101  # inspect returns the source of a class
    below = dict(itertools.pairwise(definition.body))
    for statement in definition.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            match below.get(statement):
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield found[statement.targets[0].id], text.strip().partition("\n")[0]
                case _:
                    yield found[statement.targets[0].id], ""


def _of_member(member: ErrorCode, meaning: str) -> Cause:
    name = f"{type(member).__module__}.{type(member).__qualname__}.{member.name}"
    status = f"gRPC {member.status.name}" if isinstance(member, RequestCode) else str(member.family.exit_status)
    return Cause(code=member.value, name=name, family=member.family, status=status, meaning=meaning)


def _of_class(found: type[SealserveError]) -> Cause:
    name, status = f"{found.__module__}.{found.__qualname__}", str(found.exit_status)
    if issubclass(found, RequestError):
        fixed = "status" in vars(found) or "__init__" not in vars(found)
        status = f"gRPC {found.status.name}" if fixed else "gRPC, TensorFlow's own"
    return Cause(code=found.code, name=name, family=found, status=status, meaning=_first_line(found))


def _first_line(found: type[SealserveError]) -> str:
    return (found.__doc__ or "").strip().partition("\n")[0]


if __name__ == "__main__":
    main()
