"""Guards before the operations of a graph that would end the process on a hostile shape.

TensorFlow Serving leaves the check of shapes to the operations of the graph. Most operations check their inputs' shapes
and return an error. The operations in `aborting_operations` end the process. If an input of a signature reaches such an
operation, a guard is inserted before it (`shape_guards`), which fails with INVALID_ARGUMENT instead. The part of the
graph after the guards is imported into the loaded graph a second time, with the guards. The signature's outputs are
fetched from this copy. Constants and variables, which no input reaches, are not copied.

Source: tensorflow/tensorflow 2.21, ``core/framework/graph.proto``, ``function.proto``.
"""

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

from sealserve.serving.runtime.graph_reach import Reach, find_reaches
from sealserve.serving.runtime.graph_walk import functions_in, place_of, source
from sealserve.serving.runtime.guarded_functions import SUFFIX, GuardedFunctions
from sealserve.serving.runtime.known_ranks import KnownRanks
from sealserve.serving.runtime.protos import GraphDef, MetaGraphDef
from sealserve.serving.runtime.shape_guards import Guards, is_in_need

PREFIX: Final = "sealserve_guarded"
_Place = tuple[str, int]
_NAMES: Final = re.compile(rf"{PREFIX}_\d+/|{SUFFIX}")


def original_names(text: str) -> str:
    """Return a text of TensorFlow with the original names of operations and functions."""
    return _NAMES.sub("", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedCopy:
    """Parts of a graph with guards, to be imported beside the original.

    Args:
        graph: The graph to import.
        tensors: Tensors of the original that it reads, as (operation, index).
        controls: Operations of the original that it waits for.
        copied: For each signature that fetches from the copy, the new name of each copied operation.
    """

    graph: GraphDef
    tensors: tuple[tuple[str, int], ...]
    controls: tuple[str, ...]
    copied: Mapping[str, Mapping[str, str]]


def guarded_copy(meta_graph: MetaGraphDef) -> GuardedCopy | None:
    """Return the copy that the signatures of a meta graph need, or None if no guard is needed.

    Signatures with the same inputs share a copy. Signatures with different inputs have separate copies, because the
    input of one signature may be an inner operation of another.
    """
    graph = meta_graph.graph_def
    groups: dict[frozenset[_Place], list[str]] = {}
    for name, definition in sorted(meta_graph.signature_def.items()):
        inputs = frozenset(place_of(info.name) for info in definition.inputs.values() if info.name)
        groups.setdefault(inputs, []).append(name)
    library = functions_in(graph)
    reaches = find_reaches(meta_graph)
    copying = _Copying(graph, GuardedFunctions(library, [reach.bodies for reach in reaches.values()]))
    copied = {}
    for number, (inputs, names) in enumerate(groups.items()):
        nodes, needed = set[str](), set[str]()
        for name in names:
            nodes |= reaches[name].nodes
            needed |= reaches[name].needed
        renamed = copying.add(inputs, Reach(nodes=nodes, needed=needed), f"{PREFIX}_{number}/")
        copied.update(dict.fromkeys(names, renamed) if renamed else {})
    return copying.result(copied) if copied else None


class _Copying:
    """The construction of the copies.

    Args:
        graph: The whole graph.
        functions: Its functions, including second definitions with guards.
    """

    def __init__(self, graph: GraphDef, functions: GuardedFunctions) -> None:
        self._nodes = {node.name: node for node in graph.node}
        self._functions = functions
        self._graph = GraphDef(versions=graph.versions)
        self._tensors: dict[_Place, None] = {}
        self._controls: dict[str, None] = {}

    def add(self, inputs: AbstractSet[_Place], reach: Reach, prefix: str) -> dict[str, str]:
        """Add the part that begins at the first operations that need a guard; return its names by the original names.

        Args:
            inputs: The tensors that a request replaces.
            reach: The operations that they reach.
            prefix: The prefix of the copied operations' names.
        """
        given = {name for name, _ in inputs}
        body = reach.nodes | given
        sites = [name for name in reach.nodes if self._is_site(self._nodes[name], body)]
        renamed = {name: prefix + name for name in sorted(self._after(sites, reach.needed))}
        guards = Guards(in_function=False)
        # A tensor that a request replaces may have a different rank than its operation would compute.
        ranks = KnownRanks({name: node for name, node in self._nodes.items() if name not in given}, body)
        for name, new_name in renamed.items():
            node, original = self._graph.node.add(), self._nodes[name]
            node.CopyFrom(original)
            node.name = new_name
            node.attr.pop("_class", None)  # it groups operations by device, and only one device exists here
            node.input[:] = [self._input(entry, renamed, inputs) for entry in original.input]
            self._functions.call_guarded(node)
            guards.add_all(node, original, body, ranks)
        self._graph.node.extend(guards.nodes)
        return renamed

    def result(self, copied: Mapping[str, Mapping[str, str]]) -> GuardedCopy:
        """Return the copy with all added parts and the functions."""
        self._graph.library.function.extend(self._functions.definitions())
        return GuardedCopy(
            graph=self._graph, tensors=tuple(self._tensors), controls=tuple(self._controls), copied=copied
        )

    def _input(self, entry: str, renamed: Mapping[str, str], inputs: AbstractSet[_Place]) -> str:
        owner = source(entry)
        if owner in renamed and place_of(entry) not in inputs:
            return entry.replace(owner, renamed[owner], 1)
        if entry.startswith("^"):
            self._controls[owner] = None
        else:
            self._tensors[place_of(entry)] = None
        return entry

    def _is_site(self, node: Any, body: AbstractSet[str]) -> bool:
        return is_in_need(node, body) or self._functions.are_called_by(node)

    def _after(self, sites: Iterable[str], needed: AbstractSet[str]) -> set[str]:
        """Return ``sites``, and the operations after them on paths to the outputs, by data or control dependencies."""
        consumers: dict[str, list[str]] = {}
        for name in needed:
            for entry in self._nodes[name].input:
                consumers.setdefault(source(entry), []).append(name)
        found: set[str] = set()
        waiting = list(sites)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(consumers.get(name, ()))
        return found
