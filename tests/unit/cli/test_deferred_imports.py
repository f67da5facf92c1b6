"""Imports that wait: what a module may do with their names, and what completes them."""

import builtins
import decimal
import fractions
import importlib
import json
import sys
import xml.dom.minidom
from pathlib import Path
from typing import Any

import pytest

from sealserve.cli import deferred_imports
from sealserve.cli.deferred_imports import DeferredImports

MODULE = """
with deferred:
    import fractions
    import xml.dom.minidom as dom
    from collections import ChainMap as Array
    from json import decoder, loads as parse
    from json.decoder import JSONDecoder as Decoder
    from xml import dom as package

def read(text: str, kind: None | fractions.Fraction, more: Decoder | None, each: Array[int]) -> dom.Node:
    return parse(text)
"""


def execute(imports: DeferredImports, text: str = MODULE) -> dict[str, Any]:
    """Run a module's text, and return its names."""
    names: dict[str, Any] = {"deferred": imports, "__name__": "a_module"}
    exec(text, names)  # noqa: S102  # the text is above
    return names


def bound(names: dict[str, Any]) -> list[object]:
    return [names[name] for name in ("fractions", "dom", "decoder", "parse", "package")]


IMPORTED = [fractions, xml.dom.minidom, json.decoder, json.loads, xml.dom]


def test_imports_are_made_at_once_unless_they_wait() -> None:
    assert bound(execute(DeferredImports())) == IMPORTED


def test_imports_that_wait_are_made_when_they_are_completed() -> None:
    imports = DeferredImports()
    imports.enable()
    names = execute(imports)
    assert not set(map(id, bound(names))) & set(map(id, IMPORTED))
    imports.complete()
    assert bound(names) == IMPORTED
    assert names["read"]("[1]", None, None, None) == [1]
    assert bound(execute(imports)) == IMPORTED  # from now on nothing waits


def test_a_name_can_be_used_by_annotations_alone() -> None:
    imports = DeferredImports()
    imports.enable()
    with pytest.raises(TypeError, match="'_Deferred' object is not callable"):
        execute(imports, "with deferred:\n    from decimal import Decimal\nDecimal(1)")


def test_a_name_that_was_replaced_meanwhile_stays() -> None:
    imports = DeferredImports()
    imports.enable()
    names = execute(imports)
    names["parse"] = repr
    imports.complete()
    assert names["parse"] is repr
    assert names["decoder"] is json.decoder


def test_a_missing_module_is_named_when_the_imports_are_completed() -> None:
    imports = DeferredImports()
    imports.enable()
    execute(imports, "with deferred:\n    from no_such_package.part import thing")
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_package'"):
        imports.complete()


def test_imports_after_a_block_are_ordinary_again(monkeypatch: pytest.MonkeyPatch) -> None:
    imports = DeferredImports()
    imports.enable()
    before = builtins.__import__
    monkeypatch.delitem(sys.modules, "decimal")
    with pytest.raises(ZeroDivisionError):
        execute(imports, "with deferred:\n    1 / 0")
    names = execute(imports, "with deferred:\n    import fractions\nimport decimal")
    assert builtins.__import__ is before
    assert names["decimal"].__name__ == decimal.__name__
    assert names["fractions"] is not fractions


def test_a_package_can_defer_the_import_of_its_own_submodule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The import adds the submodule to the names of the package."""
    package = tmp_path / "deferring_package"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from sealserve.cli import deferred_imports\nwith deferred_imports.deferred:\n"
        "    from deferring_package.part import thing\n"
    )
    (package / "part.py").write_text("thing = 1\n")
    imports = DeferredImports()
    imports.enable()
    monkeypatch.setattr(deferred_imports, "deferred", imports)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("deferring_package")
    assert "part" not in vars(module)
    imports.complete()
    assert (module.thing, module.part.thing) == (1, 1)
    monkeypatch.delitem(sys.modules, "deferring_package")
    monkeypatch.delitem(sys.modules, "deferring_package.part")
