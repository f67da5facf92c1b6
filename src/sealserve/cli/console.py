"""Output of the command line: results on standard output (text or JSON), messages and progress on standard error."""

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from sealserve.atomic_file import write_file
from sealserve.errors import SealserveError
from sealserve.log_line import JsonFormatter, LogFormatter, fields
from sealserve.terms import LogFormat


class Screen(Console):
    """A terminal that shows text unchanged, without Rich markup and emoji, and with control characters replaced.

    Names, logs and messages can come from untrusted machines, and a terminal executes escape sequences in them.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `rich.console.Console.print` does. A spinner on the same terminal is removed first."""
        progress = _progress.get() if self.is_terminal and not self.stderr else None
        if progress is not None:
            progress.stop()  # rich separates its progress line only from output on standard error
        super().print(*(visible(item) if isinstance(item, str) else item for item in objects), **options)
        if progress is not None and str(options.get("end", "\n")).endswith("\n"):  # the line is complete
            progress.start()

    def on_broken_pipe(self) -> None:
        """Raise the error of a closed standard output, which the root command handles. Ignore it for messages."""
        if not self.stderr:
            raise  # noqa: PLE0704  # rich calls this method while it handles the exception


def visible(text: str) -> str:
    """Return ``text`` with each control character, except newline and tab, replaced by a question mark.

    Characters that change the direction of text are also replaced, because they can make a line look like other text.
    """
    return _CONTROL.sub("?", text)


_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_LINE_BREAKS: Final = re.compile(r"[\n\t]")

_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)
"""The spinner or progress bar that is currently shown on standard error."""

_logs: ContextVar[bool] = ContextVar("logs", default=False)
"""Whether standard error is the log of a service that runs in this process."""

out = Screen()
err = Screen(stderr=True)


def show_errors_to_people() -> None:
    """Print errors in the format for people. This is the default until `log_to_standard_error` is called."""
    _logs.set(False)


def log_to_standard_error(form: LogFormat = LogFormat.TEXT) -> None:
    """Use standard error as the log of a service: each line has a time, also the error that ends the service.

    On a terminal, errors are printed in the format for people, unless the log's format is JSON.

    Args:
        form: The format of the lines.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else LogFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    _logs.set(form is LogFormat.JSON or not err.is_terminal)


Tell = Callable[[str], None]
"""A function that is called with a short description at the start of each task."""


def quietly(_text: str) -> None:
    """Ignore a description of a task."""


def print_json(value: Any) -> None:
    """Print ``value`` as indented JSON."""
    sys.stdout.write(to_json(value, indent=2) + "\n")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return ``value`` as JSON in which each character that controls a terminal is escaped.

    JSON itself escapes only the first 32 control characters.
    """
    text = json.dumps(value, indent=indent, default=str, ensure_ascii=False)
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str = "No entries.") -> None:
    """Print a heading and the rows below it, each in one line of any length. Without rows, print ``empty``.

    Line breaks in a cell are replaced by question marks, because names of untrusted origin could look like other rows.
    """
    if not rows:
        out.print(empty)
        return
    lines = [columns, *([_LINE_BREAKS.sub("?", str(cell)) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for number, line in enumerate(lines):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        out.print(text, style="bold" if number == 0 else None)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values in two aligned columns."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        lines = str(value).splitlines() or [""]
        out.print(f"{name:<{width}}  ", end="", style="dim")
        out.print(lines[0])
        for line in lines[1:]:
            out.print(" " * (width + 2) + line)


def print_error(error: SealserveError, *, as_json: bool = False) -> None:
    """Print an error: its code, its message and its hint. As JSON, it goes to standard output."""
    if as_json:
        sys.stdout.write(to_json({"error": describe_error(error)}) + "\n")
        return
    if _logs.get():
        extra = fields(code=error.code)
        logging.getLogger(__name__).error("error[%s]: %s", error.code, visible(str(error)), extra=extra)
        return
    err.print("error", end="", style="bold red")
    err.print(f"[{error.code}]", end="", style="red")
    err.print(": ", end="")
    err.print(error.message)
    if error.hint:
        err.print("  ", end="")
        err.print(error.hint, style="dim")


def describe_error(error: SealserveError) -> dict[str, str | int | None]:
    """Return an error as a JSON object: code, message, hint, and the values of some errors."""
    return {"code": error.code, "message": error.message, "hint": error.hint, **error.details}


def say(message: str) -> None:
    """Print a message for people on standard error, separate from the result."""
    err.print(message)


def warn(message: str) -> None:
    """Print a warning for people on standard error."""
    err.print("warning", end="", style="bold yellow")
    err.print(": ", end="")
    err.print(message)


def confirm(question: str, *, yes: bool) -> None:
    """Ask for confirmation before something is removed.

    Raises:
        typer.Abort: The answer is no, or standard input has ended.
    """
    if yes:
        return
    typer.confirm(question, abort=True, err=True)


def mark_ready(ready_file: Path | None) -> None:
    """Write this process's id to a file, which a supervisor reads to detect that the process is ready."""
    if ready_file is not None:
        write_file(ready_file, f"{os.getpid()}\n".encode())


def size_of(source: Path) -> int:
    """Return the size of a file, or of all files below a folder, in bytes, as the total of `bytes_progress`."""
    if source.is_dir():
        return sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    return source.stat().st_size if source.is_file() else 0


@contextlib.contextmanager
def bytes_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar in bytes.

    Args:
        description: Text before the bar.
        total: Expected number of bytes; 0 if it is unknown.

    Yields:
        A function to call with each number of further bytes.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with _shown(Progress(*columns, console=err, transient=True, disable=not err.is_terminal)) as progress:
        task = progress.add_task(visible(description), total=total or None)
        yield lambda done: progress.advance(task, done)


@contextlib.contextmanager
def _shown(progress: Progress) -> Iterator[Progress]:
    """Show a spinner or a progress bar. Output on standard output hides it for a moment."""
    token = _progress.set(None if progress.disable else progress)
    try:
        with progress:
            yield progress
    finally:
        _progress.reset(token)


@contextlib.contextmanager
def spinner(description: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner with a description; yields a function that changes the description."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with _shown(Progress(*columns, console=err, transient=True, disable=not err.is_terminal)) as progress:
        task = progress.add_task(visible(description), total=None)
        yield lambda text: progress.update(task, description=visible(text))


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide what TensorFlow's native code writes to standard error. sealserve's own messages are still printed.

    With SEALSERVE_DEBUG set, nothing is hidden.
    """
    if os.environ.get("SEALSERVE_DEBUG"):
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.stderr.flush()
    ours = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    before = err.file
    try:
        with os.fdopen(os.dup(ours), "w", buffering=1) as screen:
            err.file = screen
            yield
    finally:
        err.file = before
        os.dup2(ours, 2)
        os.close(ours)
