"""The functions of a graph whose operations need guards, and the functions that call them.

Source: tensorflow/tensorflow 2.21, ``core/framework/function.proto``.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from sealserve.serving.runtime.graph_walk import functions_of
from sealserve.serving.runtime.known_ranks import KnownRanks
from sealserve.serving.runtime.shape_guards import Guards, is_in_need

SUFFIX: Final = "_sealserve_guarded"


class GuardedFunctions:
    """A graph's functions. Functions that need guards have a second definition under a different name.

    Args:
        library: The functions by name.
        bodies: For each signature, the operations that its inputs reach, by function.
    """

    def __init__(self, library: Mapping[str, Any], bodies: Iterable[Mapping[str, set[str]]]) -> None:
        self._library = library
        self._reached: dict[str, set[str]] = {}
        for one in bodies:
            for name, body in one.items():
                self._reached.setdefault(name, set()).update(body)
        self._guarded: set[str] = set()
        while found := set(filter(self._is_in_need, self._reached.keys() - self._guarded)):
            self._guarded |= found

    def _is_in_need(self, name: str) -> bool:
        return any(
            is_in_need(node, self._reached[name]) or self.are_called_by(node) for node in self._library[name].node_def
        )

    def are_called_by(self, node: Any) -> bool:
        """Return whether a NodeDef calls a function with guards."""
        return not self._guarded.isdisjoint(functions_of(node, self._library))

    def call_guarded(self, node: Any) -> None:
        """Make a NodeDef call the functions with guards."""
        if node.op in self._guarded:
            node.op += SUFFIX
        for value in node.attr.values():
            called = [value.func] if value.HasField("func") else value.list.func
            for function in called:
                if function.name in self._guarded:
                    function.name += SUFFIX

    def definitions(self) -> Iterator[Any]:
        """Yield the second definitions."""
        for name in sorted(self._guarded):
            original = self._library[name]
            function = type(original)()
            function.CopyFrom(original)
            function.signature.name += SUFFIX
            guards = Guards(in_function=True)
            ranks = KnownRanks({node.name: node for node in original.node_def}, self._reached[name])
            for node, before in zip(list(function.node_def), original.node_def, strict=True):
                self.call_guarded(node)
                guards.add_all(node, before, self._reached[name], ranks)
            function.node_def.extend(guards.nodes)
            yield function
