"""Imports that wait: what a module may do with their names, and what completes them."""

import builtins
import decimal
import fractions
import json
import sys
import xml.dom.minidom
from typing import Any

import pytest

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
