"""Hooks of MkDocs for the documentation site (``mkdocs.yml``)."""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
DECISIONS = "decisions"
PROJECT_PAGES = {
    "contributing.md": "CONTRIBUTING.md",
    "code-of-conduct.md": "CODE_OF_CONDUCT.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
}
"""Pages of the site that are files beside the folder of the documentation."""
_CELL = re.compile(r"<td[^>]*>.*?</td>", re.DOTALL)
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace each folder in the navigation by its pages."""
    config.nav = _expanded(config.nav or [])
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages from outside of the documentation folder, and the list of decisions."""
    for name, source in PROJECT_PAGES.items():
        files.append(File.generated(config, name, content=_relinked((ROOT / source).read_text("utf-8"), ROOT, DOCS)))
    if not (DOCS / DECISIONS / "README.md").exists():
        files.append(File.generated(config, f"{DECISIONS}/index.md", content=_decisions()))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Point links that leave the documentation folder to the page of the site, or show only their text.

    The site does not link to source files, because the address of the repository is not part of the project.
    """
    if page.file.src_uri in PROJECT_PAGES:
        return markdown
    folder = (DOCS / page.file.src_uri).parent
    return _relinked(markdown, folder, folder)


def on_page_content(html: str, *, page: Any, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    r"""Show ``\|`` in the code of a table as ``|``, as GitHub does: Python-Markdown keeps the backslash."""
    return _CELL.sub(lambda cell: cell[0].replace("\\|", "|"), html)


def _expanded(entries: list[Any]) -> list[Any]:
    """Return a list of the navigation with the pages of each folder in it. A folder that does not exist has none."""
    expanded: list[Any] = []
    for entry in entries:
        match entry:
            case str() if entry.endswith("/"):
                expanded += _pages(entry)
            case dict():
                for title, below in entry.items():
                    inside = [below] if isinstance(below, str) and below.endswith("/") else below
                    expanded.append({title: _expanded(inside) if isinstance(inside, list) else inside})
            case _:
                expanded.append(entry)
    return expanded


def _pages(folder: str) -> list[str]:
    pages = sorted(path.relative_to(DOCS).as_posix() for path in (DOCS / folder).glob("*.md"))
    return [f"{DECISIONS}/index.md", *pages] if folder == f"{DECISIONS}/" and pages else pages


def _decisions() -> str:
    """Return the page that lists the records of decisions."""
    lines = ["# Decisions", "", "Each record states a decision, its context and its consequences.", ""]
    for path in sorted((DOCS / DECISIONS).glob("*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"- [{title}]({path.name})")
    return "\n".join(lines) + "\n"


def _relinked(markdown: str, folder: Path, base: Path) -> str:
    """Return a page with the links that the site needs.

    Args:
        markdown: The page. Its links are relative to ``folder``.
        folder: The folder of the file.
        base: The folder of the page in the site, as a folder of the documentation.
    """
    moved = {ROOT / source: DOCS / name for name, source in PROJECT_PAGES.items()}
    moved |= {ROOT / "README.md": DOCS / "index.md", DOCS / DECISIONS: DOCS / DECISIONS / "index.md"}

    def replace(link: re.Match[str]) -> str:
        address, hash_sign, anchor = link[2].partition("#")
        if not address or "://" in address or address.startswith("mailto:"):
            return link[0]
        target = (folder / address).resolve()
        target = moved.get(target, target)
        if not target.is_relative_to(DOCS):
            return link[1]
        return f"[{link[1]}]({os.path.relpath(target, base)}{hash_sign}{anchor})"

    return _LINK.sub(replace, markdown)
