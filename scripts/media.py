"""Record `sealserve demo` as a picture for the README: docs/images/demo.svg, made from a real run.

The picture is an excerpt: each step with the first sentence of its explanation and the first line of its evidence. The
numbers in circles become plain numbers, because few fonts have all of them. Nothing else is changed.
"""

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "demo.svg"
WIDTH = 108
EVIDENCE_LINES = 1
"""How many lines of its evidence each step keeps."""
TEXT_INDENT = 4
"""Lines with a larger indent are evidence."""
BOLD = "\x1b[1m"
MARK = "·"
SHOWN = tuple(f"{MARK}  {title}" for title in ("A user verifies", "The user asks", "The proof"))
"""The steps without a number that are shown."""
STEP = tuple("①②③④⑤⑥⑦⑧⑨⑩⑪⑫")
THEME = TerminalTheme(
    (22, 27, 34),
    (219, 225, 232),
    [(72, 79, 88), (255, 123, 114), (126, 231, 135), (227, 179, 65), (121, 192, 255), (210, 168, 255), (86, 212, 221),
     (219, 225, 232)],
)  # fmt: skip
FORMAT = """\
<svg xmlns="http://www.w3.org/2000/svg" class="rich-terminal" viewBox="0 0 {width} {height}" role="img"
 aria-label="A recording of make demo, excerpt">
<!-- Written by scripts/media.py from a run of `sealserve demo`: run `make docs-media`. -->
<title>A recording of make demo, excerpt</title>
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace;
 font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""Rich's own template loads a font from the network."""


def main() -> None:
    """Run the demo and write the picture."""
    with tempfile.TemporaryDirectory(prefix="sealserve-media-") as folder:
        output = run(Path(folder))
    PICTURE.write_text(picture(excerpt(output.splitlines())), encoding="utf-8")
    print(f"media: wrote {PICTURE.relative_to(ROOT)}")


def run(folder: Path) -> str:
    """Run the demo in an empty folder, and return what it prints on a terminal with colors."""
    command = [str(Path(sys.executable).with_name("sealserve")), "demo"]
    environment = dict(os.environ, FORCE_COLOR="1", TERM="xterm-256color", COLUMNS=str(WIDTH))
    environment.pop("NO_COLOR", None)
    result = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        print(result.stdout)
        print(f"media: error: the demo failed with status {result.returncode}", file=sys.stderr)
        raise SystemExit(1)
    return result.stdout


def excerpt(lines: list[str]) -> list[str]:
    """Return the heading, and for each of the twelve steps and `SHOWN` the title and the first lines below it."""
    kept: list[str] = []
    steps = 0
    explained, evidence = True, 0  # whether the explanation is complete, and how many lines of evidence may follow
    for line in lines:
        plain = Text.from_ansi(line).plain
        indent = len(plain) - len(plain.lstrip())
        if plain.startswith((*STEP, *SHOWN)):
            steps += 1
            explained, evidence = False, EVIDENCE_LINES
            kept.append(line)
        elif plain.startswith(MARK):  # work before the twelve steps, or the end after the proof
            explained, evidence = True, 0
        elif indent and BOLD in line:  # the rest of a long title
            kept += [line] if evidence else []
        elif 0 < indent <= TEXT_INDENT:
            sentence, end, _ = f"{plain} ".partition(". ")
            kept += [] if explained else [f"{sentence}." if end else line]
            explained = explained or bool(end)
        elif indent:
            kept += [line] if evidence > 0 else []
            evidence -= 1
        elif steps == 0 and not any(Text.from_ansi(known).plain == plain == "" for known in kept[-1:]):
            kept.append(line)
    return kept


def picture(lines: list[str]) -> str:
    """Return the lines of a terminal as SVG."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(Text.from_ansi("\x1b[1m$ make demo\x1b[0m"))
    for line in lines:
        number = STEP.index(line_start) + 1 if (line_start := Text.from_ansi(line).plain[:1]) in STEP else None
        shown = line if number is None else line.replace(line_start, f"{number:>2}", 1)
        for value, circled in enumerate(STEP, start=1):
            shown = shown.replace(circled, str(value))
        text = Text.from_ansi(shown)
        indent = len(text.plain) - len(text.plain.lstrip())
        wrapped = text.wrap(console, WIDTH - 2) if len(text.plain) > WIDTH - 2 else [text]
        for index, part in enumerate(wrapped):
            console.print(Text(" " * (indent + 2)) + part if index else part, no_wrap=True, overflow="ellipsis")
    return console.export_svg(title="sealserve demo", theme=THEME, code_format=FORMAT, unique_id="demo")


if __name__ == "__main__":
    main()
