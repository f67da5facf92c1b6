"""Guards in front of the operations of a graph that would end the process at a hostile shape.

TensorFlow Serving leaves shapes to the operations of the graph. Most of these look at their inputs' shapes and answer
with an error; those in `aborting_operations` end the process. In front of each of them that an input of a signature
reaches, a guard is put (`shape_guards`), which fails with INVALID_ARGUMENT instead. The part of the graph that begins
there is imported into the loaded graph a second time, with the guards, and the signature's outputs are fetched from
this copy. Constants and variables, which no input reaches, are not copied.

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
    """Return a text of TensorFlow with the names that operations and functions have in the model."""
    return _NAMES.sub("", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedCopy:
    """Parts of a graph with guards, to be imported beside the original.

    Args:
        graph: What to import.
        tensors: Tensors of the original that it reads, as (operation, index).
        controls: Operations of the original that it waits for.
        copied: For each signature that is to fetch from it, the new name of each operation that was copied.
    """

    graph: GraphDef
    tensors: tuple[tuple[str, int], ...]
    controls: tuple[str, ...]
    copied: Mapping[str, Mapping[str, str]]


def guarded_copy(meta_graph: MetaGraphDef) -> GuardedCopy | None:
    """Return what the signatures of a meta graph need, or None where there is nothing to guard.

    Signatures with the same inputs share a copy. Those with other inputs have their own: the input of one may be an
    operation in the midst of another's.
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
    """The making of the copies.

    Args:
        graph: The whole graph.
        functions: Its functions, and those of them that need guards.
    """

    def __init__(self, graph: GraphDef, functions: GuardedFunctions) -> None:
        self._nodes = {node.name: node for node in graph.node}
        self._functions = functions
        self._graph = GraphDef(versions=graph.versions)
        self._tensors: dict[_Place, None] = {}
        self._controls: dict[str, None] = {}

    def add(self, inputs: AbstractSet[_Place], reach: Reach, prefix: str) -> dict[str, str]:
        """Add the part that begins at the first operations in need of a guard; return its names by the original ones.

        Args:
            inputs: The tensors that a request replaces.
            reach: What they reach.
            prefix: What the names of the copied operations are to begin with.
        """
        given = {name for name, _ in inputs}
        body = reach.nodes | given
        sites = [name for name in reach.nodes if self._is_site(self._nodes[name], body)]
        renamed = {name: prefix + name for name in sorted(self._after(sites, reach.needed))}
        guards = Guards(in_function=False)
        # What a request replaces need not have the rank that its operation would compute.
        ranks = KnownRanks({name: node for name, node in self._nodes.items() if name not in given}, body)
        for name, new_name in renamed.items():
            node, original = self._graph.node.add(), self._nodes[name]
            node.CopyFrom(original)
            node.name = new_name
            node.attr.pop("_class", None)  # which operations share a device: here is only one
            node.input[:] = [self._input(entry, renamed, inputs) for entry in original.input]
            self._functions.call_guarded(node)
            guards.add_all(node, original, body, ranks)
        self._graph.node.extend(guards.nodes)
        return renamed

    def result(self, copied: Mapping[str, Mapping[str, str]]) -> GuardedCopy:
        """Return everything that was added, with the functions."""
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
        """Return ``sites`` and what comes after them on the way to the outputs: by data, or in time."""
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
