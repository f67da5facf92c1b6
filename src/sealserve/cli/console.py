"""What the command line prints: results on standard output (text, or JSON), messages and progress on standard error."""

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
from sealserve.log_line import LogFormatter


class Screen(Console):
    """A terminal that shows text as it is: no markup and no emoji in it, and no control character reaches it.

    Names, logs and messages come from machines that are not trusted, and a terminal does what an escape sequence says.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `rich.console.Console.print` does, after a spinner on the same terminal is taken away."""
        progress = _progress.get() if self.is_terminal and not self.stderr else None
        if progress is not None:
            progress.stop()  # rich keeps its line apart from what is printed on standard error only
        super().print(*(visible(item) if isinstance(item, str) else item for item in objects), **options)
        if progress is not None and str(options.get("end", "\n")).endswith("\n"):  # a line is whole
            progress.start()

    def on_broken_pipe(self) -> None:
        """Leave it to the root command that nobody reads what is printed; of messages, nobody needs to know."""
        if not self.stderr:
            raise  # noqa: PLE0704  # rich calls this while it handles the exception


def visible(text: str) -> str:
    """Return ``text`` with a question mark in place of each control character but newlines and tabs.

    Characters that change the direction of text count as well: they make a line look like another one.
    """
    return _CONTROL.sub("?", text)


_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)
"""The spinner or the bar that is shown on standard error."""

_logs: ContextVar[bool] = ContextVar("logs", default=False)
"""Whether standard error is the log of a service that runs in this process."""

out = Screen()
err = Screen(stderr=True)


def show_errors_to_people() -> None:
    """Let errors look as a person reads them: no service runs in this process yet."""
    _logs.set(False)


def log_to_standard_error() -> None:
    """Make standard error the log of a service: each line has its time, an error that ends the service as well.

    On a terminal, errors look as usual: a person reads them there.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    _logs.set(not err.is_terminal)


Tell = Callable[[str], None]
"""Called with a few words at the start of each piece of work."""


def quietly(_text: str) -> None:
    """Tell nobody."""


def print_json(value: Any) -> None:
    """Print ``value`` as indented JSON."""
    sys.stdout.write(json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str = "Nothing here.") -> None:
    """Print rows under a heading, a line each however long, or ``empty`` when there are none."""
    if not rows:
        out.print(empty)
        return
    lines = [columns, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for number, line in enumerate(lines):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        out.print(text, style="bold" if number == 0 else None)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values, aligned."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        lines = str(value).splitlines() or [""]
        out.print(f"{name:<{width}}  ", end="", style="dim")
        out.print(lines[0])
        for line in lines[1:]:
            out.print(" " * (width + 2) + line)


def print_error(error: SealserveError, *, as_json: bool = False) -> None:
    """Print an error once: its code, what went wrong, what to do next."""
    if as_json:
        sys.stdout.write(json.dumps({"error": describe_error(error)}, ensure_ascii=False) + "\n")
        return
    if _logs.get():
        logging.getLogger(__name__).error("error[%s]: %s", error.code, visible(str(error)))
        return
    err.print("error", end="", style="bold red")
    err.print(f"[{error.code}]", end="", style="red")
    err.print(": ", end="")
    err.print(error.message)
    if error.hint:
        err.print("  ", end="")
        err.print(error.hint, style="dim")


def describe_error(error: SealserveError) -> dict[str, str | None]:
    """Return an error as JSON has it."""
    return {"code": error.code, "message": error.message, "hint": error.hint}


def say(message: str) -> None:
    """Tell the person something beside the result (on standard error)."""
    err.print(message)


def warn(message: str) -> None:
    """Tell the person something that they should not miss."""
    err.print("warning", end="", style="bold yellow")
    err.print(": ", end="")
    err.print(message)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is removed.

    Raises:
        typer.Abort: The answer is no, or nobody can answer.
    """
    if yes:
        return
    typer.confirm(question, abort=True, err=True)


def mark_ready(ready_file: Path | None) -> None:
    """Write the file that tells a supervisor that this process answers: its process id."""
    if ready_file is not None:
        write_file(ready_file, f"{os.getpid()}\n".encode())


def size_of(source: Path) -> int:
    """Return the size of a file, or of all files below a folder, in bytes: for `bytes_progress`."""
    if source.is_dir():
        return sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    return source.stat().st_size if source.is_file() else 0


@contextlib.contextmanager
def bytes_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar for work that is counted in bytes; yields the function to call with each number of bytes done."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with _shown(Progress(*columns, console=err, transient=True, disable=not err.is_terminal)) as progress:
        task = progress.add_task(visible(description), total=total or None)
        yield lambda done: progress.advance(task, done)


@contextlib.contextmanager
def _shown(progress: Progress) -> Iterator[Progress]:
    """Show a spinner or a bar, which what is printed meanwhile on standard output takes away for a moment."""
    token = _progress.set(None if progress.disable else progress)
    try:
        with progress:
            yield progress
    finally:
        _progress.reset(token)


@contextlib.contextmanager
def spinner(description: str) -> Iterator[Callable[[str], None]]:
    """Show that work goes on; yields the function that changes the description."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with _shown(Progress(*columns, console=err, transient=True, disable=not err.is_terminal)) as progress:
        task = progress.add_task(visible(description), total=None)
        yield lambda text: progress.update(task, description=visible(text))


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what TensorFlow's native code writes to standard error off the screen; our own messages still get there.

    SEALSERVE_DEBUG lets everything through.
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
