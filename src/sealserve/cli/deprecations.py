"""Warnings about deprecated keys, printed as the command line prints its own warnings."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import TextIO

from sealserve.cli import console
from sealserve.deprecation import DeprecatedKeyWarning


@contextlib.contextmanager
def shown_once() -> Iterator[None]:
    """Print each such warning once, although a command may read a file more than once."""
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
