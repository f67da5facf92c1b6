"""Print warnings about deprecated keys like all other warnings of the command line."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import TextIO

from sealserve.cli import console
from sealserve.deprecation import DeprecatedKeyWarning


@contextlib.contextmanager
def shown_once() -> Iterator[None]:
    """Print each warning about a deprecated key once, even if a command reads the file several times."""
    with warnings.catch_warnings():
        warnings.simplefilter("once", DeprecatedKeyWarning)
        show = warnings.showwarning

        def print_ours(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, DeprecatedKeyWarning):
                console.warn(str(message))
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = print_ours
        yield
