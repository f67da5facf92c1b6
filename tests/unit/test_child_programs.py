"""The Python programs that sealserve starts: none imports a module from the current folder."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "src"
ISOLATED = {"-P", "-I"}


def commands() -> Iterator[tuple[str, set[str]]]:
    """Yield each list or tuple with ``-m`` and a first element that is computed, and its elements as source."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.List, ast.Tuple)) and node.elts:
                texts = {str(item.value) for item in node.elts if isinstance(item, ast.Constant)}
                sources = {ast.unparse(item) for item in node.elts if not isinstance(item, ast.Constant)}
                if "-m" in texts and not isinstance(node.elts[0], ast.Constant):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", texts | sources


def test_each_python_program_ignores_modules_in_the_current_folder() -> None:
    found = dict(commands())
    assert len(found) >= 8
    named = ISOLATED | {"_PYTHON_OPTION", "*isolation(bytecode=bytecode)"}
    assert [place for place, items in found.items() if not items & named] == []
