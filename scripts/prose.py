"""Check the prose of the project with Vale: pages, docstrings, comments, help texts and messages.

The rules are in ``scripts/prose_style``. Vale reads Markdown. Therefore this script writes the texts of each Python
file to a Markdown file, and maps what Vale finds back to the line of the source.

Vale is built from its Go module, pinned in ``scripts/tools``. Without Go the check is skipped with a message. With
``SEALSERVE_TESTS=all``, as in CI, a missing Go is a failure.

The texts of ``tests`` are not checked.
"""

import argparse
import ast
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STYLE = ROOT / "scripts" / "prose_style" / "vale.ini"
TOOLS = ROOT / "scripts" / "tools"
VALE = ROOT / "build" / "tools" / "vale"
MODULE = "github.com/errata-ai/vale/v3/cmd/vale"
CHECKED = (
    *("README.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"),
    *("docs", "src", "scripts", "testbed", "bench"),
)
WRITTEN = re.compile(r"^<!-- (?:Written|Generated) by scripts/", re.MULTILINE)
"""Marks a page that is generated. Its texts are checked in the source that they come from."""
GENERATED = re.compile(r"_pb2(_grpc)?\.py$")

PLACEHOLDER = "Value"
"""Stands for the values in an f-string, for an option, a path or a dotted name. A single letter would be an initial."""
CODE = re.compile(
    r"""(?<![\w`])(?:
        --?[A-Za-z][\w-]*(?:=[^\s,;)]*[\w/>])?  # an option
        | <[^<>\s]+>                            # a placeholder of a format
        | ~?/[\w./*%-]*[\w/*%-]                # a path
        | \$\{?\w+\}?                           # a variable
        | "[\w.:/-]+" | '[\w.:/-]+'(?!\w)       # a value
        | \w+\([^()\s]*\)                       # a call
        | %(?:\(\w+\))?[-\d.]*[sdrfx]           # a placeholder of a log line
        | \w+(?:(?:[./_=:@*\[\]]|::)+\w+)+      # a dotted name, a path or an assignment
    )""",
    re.VERBOSE,
)
NOT_PROSE = re.compile(
    r"^\s*(?:SELECT|INSERT|UPDATE|DELETE|CREATE|PRAGMA|BEGIN|ALTER|DROP|WITH)\b"  # SQL
    r"|\(\?|\\[dSwsb]|\[\^"  # regular expressions
    r"|[{;]\s*$|&&|\|\||^#!|^\s*[\[{<]|; (?:do|then)\b"  # configuration and shell
)
PATTERN_CALLS = frozenset({"compile", "execute", "match", "fullmatch", "search", "sub", "split", "findall"})
TEXT_ARGUMENTS = frozenset({"help", "hint", "description", "remedy", "note", "message"})
DIRECTIVE = re.compile(r"#\s*(?:noqa(?::[A-Z0-9, ]+)?|type:\s*ignore(?:\[[^]]*\])?|pragma:.*|fmt:.*|mypy:.*|!.*)\s*")
SOURCE = re.compile(r"Sources?: ")
"""Begins a paragraph that names documents. It is not a sentence."""
TABLE = re.compile(r"^\s*\||^\s*[=+-]{3}|\S \| \S")
"""Matches a line of a table."""
SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields|Note|Notes|Warning|See Also):$")
ENTRY = re.compile(r"\*{0,2}[`\w.]+(?:, [`*\w.]+)*(?: \([^)]*\))?:\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A paragraph of a Python file.

    Args:
        lines: The text. Each line has the number of its line in the source.
        end: The last line of the source that the text may come from.
    """

    lines: tuple[tuple[int, str], ...]
    end: int


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Finding:
    """A sentence that breaks a rule.

    Args:
        path: The file, relative to the checkout where it is in there.
        line: The line in that file, from 1.
        rule: The name of the rule, such as ``Length``.
        message: What to do about it.
    """

    path: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: [{self.rule}] {self.message}"


def main() -> None:
    """Check the given paths, or the whole project."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="files and folders (default: the project)")
    paths = parser.parse_args().paths
    vale = find_vale()
    if vale is None:
        reason = "Vale is not built and Go is not installed (https://go.dev/doc/install)"
        required = os.environ.get("SEALSERVE_TESTS") == "all"
        print(f"prose: {'error: ' if required else 'skipped: '}{reason}", file=sys.stderr)
        raise SystemExit(4 if required else 0)
    files = list(_files(paths or [ROOT / name for name in CHECKED], explicit=bool(paths)))
    findings = check(files, vale)
    for finding in findings:
        print(finding)
    print(f"prose: {len(files)} files, {len(findings)} findings", file=sys.stderr)
    raise SystemExit(1 if findings else 0)


def find_vale() -> Path | None:
    """Return the program of the pinned version. Builds it if it is missing; None where Go is missing too."""
    pinned = (TOOLS / "go.mod").stat().st_mtime
    if VALE.is_file() and VALE.stat().st_mtime >= pinned:
        return VALE
    if shutil.which("go") is None:
        return None
    print("prose: building Vale from its Go module (once, some minutes)", file=sys.stderr)
    command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(VALE), MODULE]
    if subprocess.run(command, cwd=TOOLS, check=False).returncode:
        print("prose: error: Vale was not built; the message of `go build` is above", file=sys.stderr)
        raise SystemExit(4)
    os.utime(VALE)  # Go leaves the time of an unchanged program alone
    return VALE


def check(files: list[Path], vale: Path) -> list[Finding]:
    """Return what breaks a rule in these files, sorted by file and line."""
    with tempfile.TemporaryDirectory(prefix="sealserve-prose-") as folder:
        sources: dict[str, tuple[Path, list[tuple[int, int]], list[str]]] = {}
        for number, path in enumerate(files):
            text = Path(folder) / f"{number}.md"
            rendered, lines = _render(path)
            text.write_text(rendered, encoding="utf-8")
            sources[str(text)] = (path, lines, rendered.splitlines())
        command = [str(vale), "--no-global", "--no-exit", "--output=JSON", "--config", str(STYLE), folder]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        alerts = json.loads(result.stdout)
    except ValueError:
        alerts = None
    if not isinstance(alerts, dict) or result.returncode:
        print(f"prose: error: Vale failed: {result.stdout}{result.stderr}", file=sys.stderr)
        raise SystemExit(4)
    return sorted({_finding(alert, *sources[name]) for name, found in alerts.items() for alert in found})


def _finding(alert: dict[str, Any], path: Path, lines: list[tuple[int, int]], text: list[str]) -> Finding:
    """Translate an alert of Vale to a line of the source."""
    first, last = lines[min(alert["Line"], len(lines)) - 1]
    if last > first:  # several lines of source in one: take the one that contains the words
        source = path.read_text(encoding="utf-8").splitlines()
        match = alert["Match"].strip("'")
        first = next((n for n in range(first, last + 1) if match and match in source[n - 1]), first)
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    rule = alert["Check"].removeprefix("Sealserve.")
    start = text[alert["Line"] - 1][alert["Span"][0] - 1 :][:60] if rule == "Length" else ""
    return Finding(path=str(shown), line=first, rule=rule, message=f"{alert['Message']} {start}".rstrip())


def _files(paths: list[Path], *, explicit: bool) -> Iterator[Path]:
    for path in paths:
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            found = file.resolve()
            if found.suffix not in {".md", ".py"} or GENERATED.search(found.name) or ".venv" in found.parts:
                continue
            generated = found.suffix == ".md" and WRITTEN.search(found.read_text("utf-8")[:2000])
            if explicit or not generated:
                yield found


def _render(path: Path) -> tuple[str, list[tuple[int, int]]]:
    """Return the Markdown for Vale, and for each of its lines the first and the last line of the source."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        count = source.count("\n") + 1
        return source, [(number, number) for number in range(1, count + 1)]
    out: list[str] = []
    lines: list[tuple[int, int]] = []
    for text in texts(source):
        if SOURCE.match(text.lines[0][1]):
            continue
        for number, line in text.lines:
            out.append(_plain(line))
            lines.append((number, max(number, text.end)))
        out.append("")
        lines.append(lines[-1])
    return "\n".join(out) + "\n", lines or [(1, 1)]


def _plain(line: str) -> str:
    """Replace code by a placeholder, and what Markdown would read as markup."""
    parts = re.split(r"(``.+?``|`[^`]+`)", line)
    parts[::2] = [
        CODE.sub(PLACEHOLDER, part).replace("<", " ").replace("*", "").replace("_", " ") for part in parts[::2]
    ]
    return "".join(parts)


def texts(source: str) -> Iterator[Text]:
    """Yield the texts of a Python file: docstrings, comments and strings that people read."""
    tree = ast.parse(source)
    yield from _docstrings_and_strings(tree)
    yield from _comments(source)


def _docstrings_and_strings(tree: ast.AST) -> Iterator[Text]:
    above: dict[ast.AST, ast.AST] = {}
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.Expr(value=ast.Constant(value=str(value)) as constant):
                yield from _docstring(value, constant.lineno)
                continue
            case ast.JoinedStr() | ast.Constant(value=str()):
                yield from _string(node, above)
        for child in ast.iter_child_nodes(node):
            above[child] = node
            if not (isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)):
                waiting.append(child)


def _docstring(value: str, first: int) -> Iterator[Text]:
    """Yield the paragraphs of a docstring in Google style. Indented blocks are examples or tables, not prose."""
    paragraph: list[tuple[int, str]] = []
    section: str | None = None
    for number, line in enumerate(inspect.cleandoc(value).splitlines(), first):
        indent = len(line) - len(line.lstrip())
        heading = SECTION.match(line)
        entry = ENTRY.match(line.lstrip()) if section in {"Args", "Raises", "Attributes"} and indent == 4 else None  # noqa: PLR2004
        if not line.strip() or heading or entry:
            if paragraph:
                yield Text(lines=tuple(paragraph), end=0)
            paragraph = []
        if heading:
            section = heading[1]
        elif line.strip() and indent == 0:
            section = None
        if entry:
            paragraph.append((number, line.lstrip()[entry.end() :]))
        elif line.strip() and not heading and (section or indent < 4) and not TABLE.search(line):  # noqa: PLR2004
            paragraph.append((number, line.strip() if section else line))
    if paragraph:
        yield Text(lines=tuple(paragraph), end=0)


def _string(node: ast.JoinedStr | ast.Constant, above: dict[ast.AST, ast.AST]) -> Iterator[Text]:
    """Yield a string if people read it: a message, a help text, or the comments in a file that is generated."""
    value = _value(node)
    user = node
    while isinstance(above[user], (ast.IfExp, ast.BinOp, ast.BoolOp, ast.FormattedValue, ast.JoinedStr)):
        user = above[user]  # type: ignore[assignment]  # the nodes of one expression
    context = above[user]
    if isinstance(context, ast.Call) and ast.unparse(context.func).rpartition(".")[2] in PATTERN_CALLS:
        return
    end = node.end_lineno or node.lineno
    if value.count("\n") > 1:
        for comment in re.findall(r"(?:^[ \t]*#(?:[ \t].*)?\n)+", value, re.MULTILINE):
            lines = re.sub(r"^[ \t]*#", "", comment, flags=re.MULTILINE)
            yield Text(lines=((node.lineno, " ".join(lines.split())),), end=end)
        return
    text = " ".join(value.split()).removeprefix("# ")
    named = isinstance(context, ast.keyword) and context.arg in TEXT_ARGUMENTS
    words = len(text.split())
    is_text = words > 3 or (words > 1 and (named or text.endswith((".", "?"))))  # noqa: PLR2004
    if is_text and not NOT_PROSE.search(text):
        yield Text(lines=((node.lineno, text),), end=end)


def _value(node: ast.JoinedStr | ast.Constant) -> str:
    """Return the value of a string, with a placeholder for each value that an f-string inserts."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "".join(str(part.value) if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values)


def _comments(source: str) -> Iterator[Text]:
    """Yield the comments: consecutive lines are one paragraph."""
    block: list[tuple[int, str]] = []
    column = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        number, start = token.start
        text = re.sub(r"^#+:? ?", "", DIRECTIVE.sub("", token.string))
        if block and (number != block[-1][0] + 1 or start != column):
            yield Text(lines=tuple(block), end=0)
            block = []
        column = start
        if text.strip() and not text.startswith("    "):
            block.append((number, text))
    if block:
        yield Text(lines=tuple(block), end=0)


if __name__ == "__main__":
    main()
