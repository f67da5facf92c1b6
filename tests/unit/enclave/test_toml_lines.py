import tomllib
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from sealserve.enclave.toml_lines import find_lines

TEXT = """\
# a comment with [brackets] and a = 1
title = "a # b"   # after it

[fs]
root.type = "tmpfs"
mounts = [
  { path = "/lib", uri = "file:/lib" }, # {
  { path = "/a}", uri = 'file:/b"', more = [1,
     2] },
]

[[sgx.trusted_files]]
uri = \"\"\"
[not.a.table]
x = "\\""
\"\"\"
[[sgx.trusted_files]]
uri = '''it's'''
[sgx.trusted_files.deep]
"quoted \\"key".'lit.eral' = 1979-05-27
[other]
"""


def test_each_thing_has_its_line() -> None:
    tomllib.loads(TEXT)
    lines = find_lines(TEXT)
    assert {path: lines[path] for path in (
        ("title",), ("fs",), ("fs", "root", "type"), ("fs", "mounts"), ("fs", "mounts", 0), ("fs", "mounts", 0, "uri"),
        ("fs", "mounts", 1), ("fs", "mounts", 1, "more", 1), ("sgx", "trusted_files", 0), ("sgx", "trusted_files", 1),
        ("sgx", "trusted_files", 1, "uri"), ("sgx", "trusted_files", 1, "deep", 'quoted "key', "lit.eral"), ("other",),
    )} == {
        ("title",): 2, ("fs",): 4, ("fs", "root", "type"): 5, ("fs", "mounts"): 6, ("fs", "mounts", 0): 7,
        ("fs", "mounts", 0, "uri"): 7, ("fs", "mounts", 1): 8, ("fs", "mounts", 1, "more", 1): 9,
        ("sgx", "trusted_files", 0): 12, ("sgx", "trusted_files", 1): 17, ("sgx", "trusted_files", 1, "uri"): 18,
        ("sgx", "trusted_files", 1, "deep", 'quoted "key', "lit.eral"): 20, ("other",): 21,
    }  # fmt: skip
    assert set(lines) == set(paths(tomllib.loads(TEXT)))


@pytest.mark.parametrize(
    "text",
    ["", "# only a comment", "a = []", "a = {}", "a.b.c = 1\na.b.d = 2", "[a.b.c]\n[a]\nx = 1", 'a = """x"""""',
     "a = ''''x''''", "[[a]]\n[[a.b]]\n[[a.b]]\n[[a]]\n[[a.b]]\n", "a = [[1, 2], [3, [4]]]\r\nb = 1\r\n", "a=1e5#c"],
)  # fmt: skip
def test_all_of_toml(text: str) -> None:
    assert set(find_lines(text)) == set(paths(tomllib.loads(text)))


VALUES = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), st.booleans())
def test_whatever_is_written_is_found(data: dict[str, Any], multiline: bool) -> None:
    text = tomli_w.dumps(data, multiline_strings=multiline)
    assert set(find_lines(text)) == set(paths(tomllib.loads(text)))


def paths(value: object, path: tuple[str | int, ...] = ()) -> Any:
    """Yield the paths of all tables, keys and elements in a value."""
    entries: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, element in entries:
        yield (*path, key)
        yield from paths(element, (*path, key))
