"""Write docs/reference/errors.md from the classes of the errors, or check that what is committed is what they give."""

import argparse
import importlib
import inspect
import itertools
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path

import sealserve
from sealserve.errors import InputError, SealserveError, UnavailableError, VerificationError
from sealserve.serving.request_errors import RequestError, Status

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "errors.md"
FAMILIES = (InputError, VerificationError, UnavailableError)
HEAD = """\
# Errors and exit statuses

<!-- Written by scripts/errors.py from the classes: change those, then run `make errors`. -->

An error has a stable code, and is printed as `error[CODE]: what went wrong`, with what to do next on the line below.
With `--json` it is printed on standard output as `{"error": {"code": ..., "message": ..., "hint": ...}}`. Programs can
rely on codes and exit statuses; messages are for people, and may change.

## Exit statuses

| status | meaning |
|---|---|
| 0 | It is done. |
| 1 | `internal`: A bug of sealserve's; `SEALSERVE_DEBUG=1` shows where. Or the answer to a question was no. |
"""
TAIL = """\
| 130 | It was interrupted, by Ctrl-C or SIGTERM. |

`sealserve enclave run` ends with the status of the server that it ran, or 128 + N if signal N ended that. A command
line that cannot be understood ends with 2, and has no code.

## Codes

The status is what a command ends with. Errors of `request` are answers of the model server to a client: they have a
gRPC status, and end nothing.
"""


def classes() -> list[type[SealserveError]]:
    """Return every error class of the package. TensorFlow is not imported."""
    for module in pkgutil.walk_packages(sealserve.__path__, f"{sealserve.__name__}."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
    ours = f"{sealserve.__name__}."
    return [found for found in dict.fromkeys(_below(SealserveError)) if found.__module__.startswith(ours)]


def causes() -> list[type[SealserveError]]:
    """Return the classes that are raised: those that have a code of their own with a cause in it."""
    return [found for found in classes() if "code" in vars(found) and "." in found.code]


def meaning(found: type[SealserveError]) -> str:
    """Return the first line of a class's own docstring."""
    return (found.__doc__ or "").strip().partition("\n")[0]


def status(found: type[SealserveError]) -> str:
    """Return what an error ends with, as the page says it."""
    if issubclass(found, RequestError):
        fixed = inspect.getattr_static(found, "status")
        return f"gRPC {fixed.name}" if isinstance(fixed, Status) else "gRPC, TensorFlow's own"
    return str(found.exit_status)


def render() -> str:
    """Return the page."""
    statuses = "".join(f"| {family.exit_status} | `{family.code}`: {meaning(family)} |\n" for family in FAMILIES)
    ordered = sorted(causes(), key=lambda found: found.code)
    groups = (
        f"\n### {name}\n\n| code | status | meaning |\n|---|---|---|\n"
        + "".join(f"| `{found.code}` | {status(found)} | {meaning(found)} |\n" for found in members)
        for name, members in itertools.groupby(ordered, key=lambda found: found.code.partition(".")[0])
    )
    return HEAD + statuses + TAIL + "".join(groups)


def main() -> None:
    """Write the page, or with ``--check`` compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when the page is out of date")
    if not parser.parse_args().check:
        PAGE.write_text(render(), encoding="utf-8")
        return
    if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != render():
        print(f"{PAGE.name} is out of date: run `make errors`", file=sys.stderr)
        raise SystemExit(1)


def _below(found: type[SealserveError]) -> Iterator[type[SealserveError]]:
    for subclass in found.__subclasses__():
        yield subclass
        yield from _below(subclass)


if __name__ == "__main__":
    main()
