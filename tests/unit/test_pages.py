"""What can be checked of the documentation without running it; tests/integration/test_docs.py runs it."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.harness.pages import Block, Command, PageError, console_blocks, fences, shows_all, shows_some
from typer.main import get_command

from sealserve.cli.application import app

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# What the README's reader types and CI does not, by how it begins, and why.
EXEMPT: Final = {"git clone ": "CI has its checkout already"}
_INLINE: Final = re.compile(r"`([^`\n]+)`")
_LINK: Final = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def without_fences(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)


def slug(heading: str) -> str:
    """Return a heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def commands_of(page: Path) -> Iterator[str]:
    """Yield what a page calls commands: in its console blocks, and in its text."""
    for block in console_blocks(page):
        yield from (command.text for command in block.commands)
    yield from _INLINE.findall(without_fences(page))


@each_page
def test_blocks_with_commands_are_console_blocks(page: Path) -> None:
    list(console_blocks(page))
    for fence in fences(page):
        prompts = [line for line in fence.lines if line.startswith("$ ")]
        assert not prompts or fence.language == "console", f"{page}:{fence.line}: nothing executes {prompts}"


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for found in _LINK.finditer(without_fences(page)):
        address, _, anchor = (found[1] or found[2]).partition("#")
        if "://" in address or address.startswith("mailto:"):
            continue
        target = (page.parent / address).resolve() if address else page
        assert target.exists(), f"{page}: there is no {address}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", without_fences(target), flags=re.MULTILINE)
            assert anchor in map(slug, headings), f"{page}: {address} has no heading #{anchor}"


@each_page
def test_the_verbs_and_options_that_a_page_names_exist(page: Path) -> None:
    for text in commands_of(page):
        words = re.split(r"\s", text.removeprefix(".venv/bin/"))
        if words[0] == "sealserve" and len(words) > 1:
            check_verb(shlex.split(text.partition("|")[0].rstrip("& "))[1:], f"{page}: {text}")


@each_page
def test_the_make_targets_that_a_page_names_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for text in [*commands_of(page), *(line for fence in fences(page) for line in fence.lines)]:
        if found := re.match(r"(?:\$ )?make ([a-z-]+)", text):
            assert found[1] in targets, f"{page}: {text}"


def test_ci_runs_what_the_readme_says() -> None:
    called = set((ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines())
    shown = [line for fence in fences(ROOT / "README.md") if not fence.language for line in fence.lines]
    assert {"make demo", "make test"} <= set(shown)
    assert [line for line in shown if line not in called and not line.startswith(tuple(EXEMPT))] == []


def test_what_is_not_executed_has_its_reason() -> None:
    skipped = [block.skipped for page in PAGES for block in console_blocks(page) if block.skipped is not None]
    assert all(len(reason.split()) > 3 for reason in skipped)


@pytest.mark.parametrize("words", ["wrong", "model wrong", "predict --wrong", "--wrong"])
def test_a_wrong_verb_or_option_is_noticed(words: str) -> None:
    with pytest.raises(AssertionError, match=r"no (verb|option) (--)?wrong"):
        check_verb(words.split(), "page")


VALUED = ("--broker", "--administrator")
"""Options of `sealserve` itself that are followed by a value."""


def check_verb(words: list[str], where: str) -> None:
    command: Any = get_command(app)
    for number, word in enumerate(words):
        if word.startswith("-"):
            known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
            known |= {"--install-completion"} if number == 0 else set()
            assert word.partition("=")[0] in known, f"{where}: no option {word}"
        elif number > 0 and words[number - 1] in VALUED:
            continue
        elif hasattr(command, "commands") and word.islower():
            command = command.get_command(None, word)
            assert command is not None, f"{where}: no verb {word}"


class TestReading:
    def read(self, tmp_path: Path, text: str) -> list[Block]:
        page = tmp_path / "page.md"
        page.write_text(text)
        return list(console_blocks(page))

    def test_commands_have_their_output(self, tmp_path: Path) -> None:
        (block,) = self.read(tmp_path, "text\n\n```console\n$ one \\\n  more\nout\n\nput\n$ two &\n```\n```\nno\n```\n")
        assert block.commands == (
            Command(text="one \\\n  more", output=("out", "", "put"), line=4),
            Command(text="two &", output=(), line=9),
        )
        assert [command.runs_on for command in block.commands] == [False, True]
        assert (block.terminal, block.ready_port, block.skipped) == (1, None, None)

    def test_comments_say_more(self, tmp_path: Path) -> None:
        text = "<!-- terminal 2 -->\n<!-- ready: port 80 -->\n\n```console\n$ one\n```\n"
        first, second = self.read(tmp_path, f"{text}<!-- not executed: no -->\n```console\n$ two\n```\n")
        assert (first.terminal, first.ready_port, first.skipped) == (2, 80, None)
        assert (second.terminal, second.skipped) == (1, "no")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("<!-- terminl 2 -->\n```console\n$ one\n```\n", "unknown comment 'terminl 2'"),
            ("```console\n$ one\n", "does not end"),
            ("```console\none\n```\n", "output before the first command"),
            ("```console\n```\n", "without a command"),
        ],
    )
    def test_what_cannot_be_understood_is_refused(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(PageError, match=message):
            self.read(tmp_path, text)


class TestComparing:
    @pytest.mark.parametrize(
        ("expected", "actual", "result"),
        [
            (["a", "b"], ["a", "b"], True),
            (["a"], ["a", "b"], False),
            (["a", "b"], ["a"], False),
            ([], [], True),
            ([], ["a"], False),
            (["a", "..."], ["a"], True),
            (["a", "...", "d"], ["a", "b", "c", "d"], True),
            (["a ... c"], ["a b b c"], True),
            (["a ... c"], ["a b d"], False),
            (["a  b"], ["a b  "], True),
            (["[1] (x)"], ["[1] (x)"], True),
            (["a..."], ["ab", "c"], False),
        ],
    )
    def test_all_of_it(self, expected: list[str], actual: list[str], result: bool) -> None:
        assert shows_all(expected, actual) is result

    @pytest.mark.parametrize(
        ("expected", "actual", "result"),
        [
            (["b", "d"], ["a", "b", "c", "d"], True),
            (["d", "b"], ["a", "b", "c", "d"], False),
            (["b", "b"], ["a", "b"], False),
            (["...", "b..."], ["a", "bc"], True),
            ([], ["a"], True),
        ],
    )
    def test_some_of_it(self, expected: list[str], actual: list[str], result: bool) -> None:
        assert shows_some(expected, actual) is result
