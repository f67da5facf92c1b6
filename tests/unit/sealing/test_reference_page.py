"""The Python code on the reference page about encrypted files works as the page describes."""

from pathlib import Path

import pytest
from tests.harness.pages import fences

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "encrypted-files.md"


def test_the_example_in_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = (fence for fence in fences(PAGE) if fence.language == "python")
    (tmp_path / "weights").write_bytes(b"the weights")
    monkeypatch.chdir(tmp_path)
    code = "\n".join(example.lines).replace("    stream.read(7)", "    found = stream.read(7)")
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102  # our own page
    assert names["found"] == b"weights"
