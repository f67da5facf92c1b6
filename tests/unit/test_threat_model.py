"""The threat model names a test for each threat, and each of these tests exists."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "threat-model.md"
_HEAD: Final = "| Threat | Mitigation | Test |"
_NAMED: Final = re.compile(r"`([\w/.-]+\.py)::(\w+)`")


def threats() -> list[str]:
    """Return the rows of the tables of threats."""
    rows, inside = [], False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        inside = line == _HEAD or (inside and line.startswith("|"))
        if inside and line != _HEAD and not line.startswith("|---"):
            rows.append(line)
    return rows


@cache
def functions_of(path: Path) -> frozenset[str]:
    """Return the names of the functions of a file, including methods."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_the_page_lists_threats() -> None:
    assert len(threats()) > 20


@pytest.mark.parametrize("row", threats(), ids=lambda row: row.split("|")[1].strip(" *\\"))
def test_each_threat_names_a_test_that_exists(row: str) -> None:
    found = _NAMED.findall(row)
    assert found, f"{row} names no test"
    for file, function in found:
        assert function in functions_of(ROOT / "tests" / file), f"{file} has no {function}"
