"""Walks through TensorFlow's graphs and functions: names, edges, calls, and reachability."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def walk(start: Iterable[T], following: Callable[[T], Iterable[T]]) -> Iterator[T]:
    """Yield each item of ``start``, and each item that ``following`` leads to from there, without duplicates."""
    seen: set[T] = set()
    waiting = list(start)
    while waiting:
        item = waiting.pop()
        if item not in seen:
            seen.add(item)
            yield item
            waiting.extend(following(item))


def source(name: str) -> str:
    """Return the operation or argument of an input: ``x`` for ``x``, ``x:0``, ``x:y:0`` and ``^x``."""
    return name.removeprefix("^").partition(":")[0]


def place_of(name: str) -> tuple[str, int]:
    """Return the operation and the index of the graph's tensor named ``x`` or ``x:0``."""
    operation, _, index = name.partition(":")
    return operation, int(index) if index.isdecimal() else 0


def data_inputs(node: Any) -> list[str]:
    """Return the inputs of a NodeDef that are tensors. The others (``^x``) only define the order of execution."""
    return [name for name in node.input if not name.startswith("^")]


def by_name(nodes: Iterable[Any]) -> dict[str, Any]:
    """Return NodeDefs by their names."""
    return {node.name: node for node in nodes}


def functions_in(graph: Any) -> dict[str, Any]:
    """Return the functions of a GraphDef by their names."""
    return {function.signature.name: function for function in graph.library.function}


def functions_of(node: Any, functions: Mapping[str, Any]) -> list[str]:
    """Return the names of the functions that a NodeDef calls."""
    found = [node.op] if node.op in functions else []
    for value in node.attr.values():
        if value.HasField("func"):
            found.append(value.func.name)
        elif value.HasField("list"):
            found.extend(function.name for function in value.list.func)
    return [name for name in found if name in functions]
