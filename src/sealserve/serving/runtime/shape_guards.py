"""Guards in front of the operations of a graph that would end the process at a hostile shape.

TensorFlow Serving leaves shapes to the operations of the graph. Most of these look at their inputs' shapes and answer
with an error; those in `aborting_operations` end the process. In front of each of them that an input of a signature
reaches, a guard is put, which fails with INVALID_ARGUMENT instead. The part of the graph that begins there is imported
into the loaded graph a second time, with the guards, and the signature's outputs are fetched from this copy. What no
input reaches, constants and variables above all, stays where it is and is not copied.

A guard on the tensor ``t``: ``open = PlaceholderWithDefault(t)``, ``shape = Shape(open)``, an Assert on ``shape``, and
``Identity(t)`` after it, which the operation reads. TensorFlow's optimiser believes the shape that a placeholder
declares, whatever is fed, and would compute the assertion in advance; the unknown shape of ``open`` prevents that.

Source: tensorflow/tensorflow 2.21, ``core/framework/graph.proto``, ``function.proto``, ``core/grappler/optimizers``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sealserve.serving.runtime.aborting_operations import Need, needs
from sealserve.serving.runtime.graph_reach import Reach, find_reach, functions_of, reached, source
from sealserve.serving.runtime.protos import DataType, GraphDef, MetaGraphDef, NodeDef

PREFIX: Final = "sealserve_guarded"
MARK: Final = "sealserve_guard"
_FLOAT, _INT32, _INT64 = (DataType.Value(f"DT_{name}") for name in ("FLOAT", "INT32", "INT64"))
_SHOWN: Final = 32
"""Dimensions that an error shows at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedCopy:
    """A part of a graph with guards, to be imported beside the original.

    Args:
        graph: What to import.
        prefix: What the names of the copied operations begin with.
        copied: The original names of the operations in it.
        tensors: Tensors of the original that it reads, as (operation, index).
        controls: Operations of the original that it waits for.
        signatures: The names of the signatures that are to fetch from it.
    """

    graph: GraphDef
    prefix: str
    copied: frozenset[str]
    tensors: tuple[tuple[str, int], ...]
    controls: tuple[str, ...]
    signatures: frozenset[str]


def guarded_copies(meta_graph: MetaGraphDef) -> list[GuardedCopy]:
    """Return the copies that the signatures of a meta graph need: one for each set of inputs, or none."""
    graph = meta_graph.graph_def
    functions = {function.signature.name: function for function in graph.library.function}
    groups: dict[frozenset[str], list[str]] = {}
    for name, definition in sorted(meta_graph.signature_def.items()):
        groups.setdefault(frozenset(_operations(definition.inputs)), []).append(name)
    copies = []
    for number, (inputs, names) in enumerate(groups.items()):
        outputs = {
            output for name in names for output in _operations(meta_graph.signature_def[name].outputs)
        }
        reach = find_reach(graph, functions, inputs, outputs)
        copy = _Copying(graph, functions, reach, f"{PREFIX}_{number}/").copy(names)
        if copy is not None:
            copies.append(copy)
    return copies


def _operations(tensors: Mapping[str, Any]) -> set[str]:
    return {source(info.name) for info in tensors.values() if info.name}


class _Copying:
    """The making of one copy.

    Args:
        graph: The whole graph.
        functions: Its functions by name.
        reach: What the inputs reach.
        prefix: What the names of the copied operations are to begin with.
    """

    def __init__(self, graph: GraphDef, functions: Mapping[str, Any], reach: Reach, prefix: str) -> None:
        self._nodes = {node.name: node for node in graph.node}
        self._functions = functions
        self._reach = reach
        self._prefix = prefix
        self._inside = {
            name: reached(functions[name].node_def, arguments) for name, arguments in reach.arguments.items()
        }
        self._guarded = self._guarded_functions()

    def copy(self, signatures: Iterable[str]) -> GuardedCopy | None:
        """Return the copy, or None where there is nothing to guard."""
        reach = self._reach
        body = set(self._nodes) - reach.needed | reach.nodes  # what is not needed is an input, or not there
        sites = [name for name in reach.nodes if self._is_site(self._nodes[name], body)]
        if not sites:
            return None
        copied = self._after(sites)
        graph = GraphDef()
        tensors, controls = {}, {}
        for name in sorted(copied):
            node = graph.node.add()
            node.CopyFrom(self._nodes[name])
            node.name = self._prefix + name
            node.attr.pop("_class", None)  # places are all the same: one CPU
            for place, entry in enumerate(node.input):
                owner = source(entry)
                if owner in copied:
                    node.input[place] = f"^{self._prefix}{owner}" if entry.startswith("^") else self._prefix + entry
                elif entry.startswith("^"):
                    controls[owner] = None
                else:
                    tensors[owner, int(entry.partition(":")[2] or 0)] = None
            self._call_guarded(node)
        originals = [self._nodes[name] for name in sorted(copied)]
        guards = _Guards(in_function=False)
        for node, original in zip(list(graph.node), originals, strict=True):
            for need in needs(original):
                if source(original.input[need.index]) in body and not self._is_proven(original, need):
                    guards.add(node, need)
        graph.node.extend(guards.nodes)
        for name in sorted(self._guarded):
            graph.library.function.append(self._guarded_function(name))
        return GuardedCopy(
            graph=graph,
            prefix=self._prefix,
            copied=frozenset(copied),
            tensors=tuple(tensors),
            controls=tuple(controls),
            signatures=frozenset(signatures),
        )

    def _is_site(self, node: Any, body: set[str]) -> bool:
        return any(source(node.input[need.index]) in body for need in needs(node)) or not self._guarded.isdisjoint(
            functions_of(node, self._functions)
        )

    def _is_proven(self, node: Any, need: Need) -> bool:
        return False

    def _after(self, sites: Iterable[str]) -> set[str]:
        """Return ``sites`` and what comes after them on the way to the outputs: by data, or in time."""
        consumers: dict[str, list[str]] = {}
        for name in self._reach.needed:
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

    def _guarded_functions(self) -> set[str]:
        """Return the functions that have a guard in them, or call one that has."""
        found: set[str] = set()
        grew = True
        while grew:
            grew = False
            for name in set(self._inside) - found:
                inside = self._inside[name]
                for node in self._functions[name].node_def:
                    own = any(source(node.input[need.index]) in inside for need in needs(node))
                    if own or not found.isdisjoint(functions_of(node, self._functions)):
                        found.add(name)
                        grew = True
                        break
        return found

    def _guarded_function(self, name: str) -> Any:
        function = type(self._functions[name])()
        function.CopyFrom(self._functions[name])
        function.signature.name = self._renamed(name)
        inside = self._inside[name]
        guards = _Guards(in_function=True)
        for node in function.node_def:
            self._call_guarded(node)
            for need in needs(node):
                if source(node.input[need.index]) in inside:
                    guards.add(node, need)
        function.node_def.extend(guards.nodes)
        return function

    def _renamed(self, function: str) -> str:
        return f"{self._prefix.rstrip('/')}_{function}"

    def _call_guarded(self, node: Any) -> None:
        """Let a NodeDef call the functions with guards."""
        if node.op in self._guarded:
            node.op = self._renamed(node.op)
        for value in node.attr.values():
            called = [value.func] if value.HasField("func") else list(value.list.func)
            for function in called:
                if function.name in self._guarded:
                    function.name = self._renamed(function.name)


class _Guards:
    """The guards of one graph or function.

    Args:
        in_function: Whether inputs are named as a FunctionDef names them, with the output's name.
    """

    def __init__(self, *, in_function: bool) -> None:
        self.nodes: list[Any] = []
        self._in_function = in_function
        self._made: dict[tuple[str, Need], str] = {}

    def add(self, node: Any, need: Need) -> None:
        """Let ``node`` read its input ``need.index`` from behind a guard."""
        tensor = node.input[need.index]
        key = tensor, replace(need, index=0)
        if key not in self._made:
            self._made[key] = self._guard(f"{node.name}/{MARK}/{need.index}", tensor, need, _type_of(node, need))
        node.input[need.index] = self._made[key]

    def _guard(self, name: str, tensor: str, need: Need, dtype: int) -> str:
        opened = self._add(f"{name}/open", "PlaceholderWithDefault", [tensor], dtype=dtype)
        self.nodes[-1].attr["shape"].shape.unknown_rank = True
        shape = self._add(f"{name}/shape", "Shape", [opened], T=dtype, out_type=_INT64)
        after = ""
        if need.ranks:
            rank = self._add(f"{name}/rank", "Size", [shape], T=_INT64, out_type=_INT64)
            wanted = "-".join(map(str, need.ranks))
            after = self._check(f"{name}/rank-{wanted}", ("Equal", "Any"), rank, need.ranks, shape, after)
        if need.single:
            zero = self._const(f"{name}/axis", [0], _INT32, f"^{name}/shape")
            size = self._add(f"{name}/size", "Prod", [shape, zero], T=_INT64, Tidx=_INT32)
            after = self._check(f"{name}/single", ("Equal", "Any"), size, (1,), shape, after)
        if need.least:
            # A shape of another rank cannot be compared: this check comes after that of the rank.
            same = self._add(f"{name}/checked", "Identity", [shape, after], T=_INT64)
            wanted = "-".join(map(str, need.least))
            after = self._check(f"{name}/least-{wanted}", ("GreaterEqual", "All"), same, need.least, shape, after)
        return self._add(f"{name}/same", "Identity", [tensor, after], T=dtype)

    def _check(
        self, name: str, operations: tuple[str, str], value: str, wanted: Sequence[int], shape: str, after: str
    ) -> str:
        """Add an assertion that ``value`` compares well with ``wanted``; return a control input that waits for it."""
        compare, combine = operations
        wait = after or f"^{source(value)}"  # a constant in a loop of TensorFlow 1 belongs to the loop only by this
        bound = self._const(f"{name}/bound", wanted, _INT64, wait)
        axis = self._const(f"{name}/over", [0], _INT32, wait)
        compared = self._add(f"{name}/compared", compare, [value, bound], output="z", T=_INT64)
        good = self._add(f"{name}/good", combine, [compared, axis], Tidx=_INT32)
        self._add(name, "Assert", [good, shape])
        assertion = self.nodes[-1]
        assertion.attr["T"].list.type.append(_INT64)
        assertion.attr["summarize"].i = _SHOWN
        return f"^{name}"

    def _const(self, name: str, values: Sequence[int], dtype: int, wait: str) -> str:
        made = self._add(name, "Const", [wait], dtype=dtype)
        tensor = self.nodes[-1].attr["value"].tensor
        tensor.dtype = dtype
        tensor.tensor_shape.dim.add(size=len(values))
        (tensor.int_val if dtype == _INT32 else tensor.int64_val).extend(values)
        return made

    def _add(self, name: str, operation: str, inputs: Sequence[str], *, output: str = "output", **types: int) -> str:
        node = NodeDef(name=name, op=operation, input=inputs)
        for attribute, dtype in types.items():
            node.attr[attribute].type = dtype
        self.nodes.append(node)
        return f"{name}:{output}:0" if self._in_function else name


def _type_of(node: Any, need: Need) -> int:
    """Return the data type of the input that ``need`` is about."""
    if need.type_of.startswith("DT_"):
        return DataType.Value(need.type_of)
    if need.type_of not in node.attr:  # reading it would add it
        return _FLOAT  # the default of the operations that have one (MaxPool); defaults may be left out in a SavedModel
    return int(node.attr[need.type_of].type)
