"""The commands that a page of the documentation shows, with the output that it shows for them.

A fenced ``console`` block holds commands after ``$ ``, each followed by its output. In the output ``...`` stands for
any text, and a line of ``...`` for any lines. A command that ends with ``&`` goes on running; it is ready when its
output was seen. A command may fail if the next one is ``echo $?``. Comments before a block say more:

- ``<!-- terminal 2 -->``: it is typed there, and not in terminal 1;
- ``<!-- ready: port 8500 -->``: its last command is ready when something listens on that port;
- ``<!-- not executed: REASON -->``: it is only shown.

Before a fenced block of another language, ``<!-- file: NAME -->`` says that the reader writes it into that file.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ANY = "..."
_FENCE = re.compile(r"^(?P<fence>`{3,}|~{3,})(?P<language>[\w-]*)\s*$")
_COMMENT = re.compile(r"^<!-- (?P<text>.*) -->$")
_TERMINAL = re.compile(r"^terminal (\d)$")
_READY = re.compile(r"^ready: port (\d+)$")
_FILE = re.compile(r"^file: (\S+)$")
_SKIPPED = re.compile(r"^not executed: (\S.*)$")


class PageError(ValueError):
    """A page is not written as this module expects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command and what the page says it prints."""

    text: str
    output: tuple[str, ...]
    line: int

    @property
    def runs_on(self) -> bool:
        """Whether it goes on running beside what follows."""
        return self.text.endswith("&")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """A fenced block: its language, its lines, and the comments right before it."""

    language: str
    lines: tuple[str, ...]
    comments: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFile:
    """A file that the reader writes: its path in the folder, and its text."""

    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A ``console`` block."""

    commands: tuple[Command, ...]
    terminal: int
    ready_port: int | None
    skipped: str | None
    line: int


def fences(page: Path) -> Iterator[Fence]:
    """Yield a page's fenced blocks."""
    lines = page.read_text(encoding="utf-8").splitlines()
    comments: list[str] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        if (comment := _COMMENT.match(line)) is not None:
            comments.append(comment["text"])
        elif (fence := _FENCE.match(line)) is not None:
            try:
                end = lines.index(fence["fence"], number + 1)
            except ValueError as error:
                raise PageError(f"{page}:{number + 1}: the block does not end") from error
            yield Fence(
                language=fence["language"],
                lines=tuple(lines[number + 1 : end]),
                comments=tuple(comments),
                line=number + 1,
            )
            comments, number = [], end
        elif line.strip():
            comments = []
        number += 1


def console_blocks(page: Path) -> Iterator[Block]:
    """Yield a page's ``console`` blocks.

    Raises:
        PageError: A block or its comments cannot be understood.
    """
    for step in steps(page):
        if isinstance(step, Block):
            yield step


def steps(page: Path) -> Iterator[Block | WrittenFile]:
    """Yield what a page's reader does, in order: commands that he types, and files that he writes.

    Raises:
        PageError: A block or its comments cannot be understood.
    """
    for fence in fences(page):
        if fence.language == "console":
            yield _block(page, fence)
        else:
            for comment in fence.comments:
                if (found := _FILE.match(comment)) is not None:
                    yield WrittenFile(path=found[1], text="\n".join(fence.lines) + "\n")


def _block(page: Path, fence: Fence) -> Block:
    terminal, ready_port, skipped = 1, None, None
    for comment in fence.comments:
        if (found := _TERMINAL.match(comment)) is not None:
            terminal = int(found[1])
        elif (found := _READY.match(comment)) is not None:
            ready_port = int(found[1])
        elif (found := _SKIPPED.match(comment)) is not None:
            skipped = found[1]
        else:
            raise PageError(f"{page}:{fence.line}: unknown comment {comment!r} before a console block")
    commands = tuple(_commands(page, fence))
    if not commands:
        raise PageError(f"{page}:{fence.line}: a console block without a command")
    return Block(commands=commands, terminal=terminal, ready_port=ready_port, skipped=skipped, line=fence.line)


def _commands(page: Path, fence: Fence) -> Iterator[Command]:
    text, output, start, goes_on = "", list[str](), 0, False
    for number, line in enumerate(fence.lines, fence.line + 1):
        if goes_on:
            text, goes_on = f"{text}\n{line}", line.endswith("\\")
        elif line.startswith("$ "):
            if start:
                yield Command(text=text, output=tuple(output), line=start)
            text, output, start = line.removeprefix("$ "), [], number
            goes_on = line.endswith("\\")
        elif start:
            output.append(line)
        else:
            raise PageError(f"{page}:{number}: output before the first command")
    if start:
        yield Command(text=text, output=tuple(output), line=start)


def shows_all(expected: Sequence[str], actual: Sequence[str]) -> bool:
    """Return whether ``expected`` is all of ``actual``, but for ``...`` and the number of blanks."""
    pattern = "".join(r"(?:[^\n]*\n)*?" if line.strip() == ANY else f"{_pattern(line)}\n" for line in expected)
    return re.fullmatch(pattern, "".join(f"{_squeezed(line)}\n" for line in actual)) is not None


def shows_some(expected: Sequence[str], actual: Sequence[str]) -> bool:
    """Return whether the lines of ``expected`` appear in ``actual``, in order, whatever is between them."""
    rest = iter([_squeezed(line) for line in actual])
    wanted = (re.compile(_pattern(line)) for line in expected if line.strip() != ANY)
    return all(any(pattern.fullmatch(line) for line in rest) for pattern in wanted)


def _pattern(line: str) -> str:
    return "[^\\n]*".join(re.escape(part) for part in _squeezed(line).split(ANY))


def _squeezed(line: str) -> str:
    return " ".join(line.split())
