"""A guard: operations that fail with INVALID_ARGUMENT where a tensor has a shape that the next operation cannot take.

A guard on the tensor ``t``: ``open = PlaceholderWithDefault(t)``, ``shape = Shape(open)``, an Assert on ``shape``, and
``Identity(t)`` after it, which the operation reads. TensorFlow's optimiser believes the shape that a placeholder
declares, whatever is fed, and would compute the assertion in advance; the unknown shape of ``open`` prevents that.

Source: tensorflow/tensorflow 2.21, ``core/ops/array_ops.cc`` and ``core/grappler/optimizers/constant_folding.cc``.
"""

from collections.abc import Sequence, Set
from dataclasses import replace
from typing import Any, Final

from sealserve.serving.runtime.aborting_operations import Need, needs
from sealserve.serving.runtime.graph_reach import source
from sealserve.serving.runtime.known_ranks import KnownRanks
from sealserve.serving.runtime.protos import DataType, NodeDef

MARK: Final = "sealserve_guard"
_FLOAT, _INT32, _INT64 = (DataType.Value(f"DT_{name}") for name in ("FLOAT", "INT32", "INT64"))
_SHOWN: Final = 32
"""Dimensions that an error shows at most."""


def is_in_need(node: Any, reached: Set[str]) -> bool:
    """Whether a NodeDef would end the process at some shape of what ``reached`` computes."""
    return any(source(node.input[need.index]) in reached for need in needs(node))


class Guards:
    """The guards of one graph or function.

    Args:
        in_function: Whether inputs are named as a FunctionDef names them, with the output's name.
    """

    def __init__(self, *, in_function: bool) -> None:
        self.nodes: list[Any] = []
        self._in_function = in_function
        self._made: dict[tuple[str, Need], str] = {}

    def add_all(self, node: Any, original: Any, body: Set[str], ranks: KnownRanks) -> None:
        """Put the guards in front of ``node``, a copy of ``original``, that the operations before it leave to do.

        Args:
            node: The copy.
            original: With the inputs that it had.
            body: What an input of the signature reaches.
            ranks: Of the original graph or function.
        """
        for need in needs(original):
            tensor = original.input[need.index]
            if source(tensor) not in body:
                continue
            if ranks.of(tensor) in need.ranks:
                need = replace(need, ranks=())
            if need.ranks or need.least or need.single:
                self._add_guard(node, need)

    def _add_guard(self, node: Any, need: Need) -> None:
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
            same = self._add(f"{name}/checked", "Identity", [shape, *filter(None, [after])], T=_INT64)
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
