"""Guards: operations that fail with INVALID_ARGUMENT if a tensor's shape is not accepted by the next operation.

A guard on the tensor ``t`` consists of ``open = OptionalGetValue(OptionalFromValue(t))``, ``shape = Shape(open)``, an
Assert on ``shape``, and ``Identity(t)`` after it, which the operation reads. TensorFlow's optimizer relies on the
declared shape of a placeholder or a variable, regardless of the fed or assigned value, and would evaluate the assertion
in advance. It does not infer shapes through an optional, whose declared shape is unknown here.

Source: tensorflow/tensorflow 2.21, ``core/ops/optional_ops.cc`` and ``core/grappler/optimizers/constant_folding.cc``.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Final

from sealserve.serving.runtime.aborting_operations import Need, needs, window_need
from sealserve.serving.runtime.graph_walk import source
from sealserve.serving.runtime.known_ranks import KnownRanks
from sealserve.serving.runtime.protos import DataType, NodeDef

MARK: Final = "sealserve_guard"
_FLOAT, _DOUBLE, _INT32, _INT64, _BOOL = (
    DataType.Value(f"DT_{name}") for name in ("FLOAT", "DOUBLE", "INT32", "INT64", "BOOL")
)
_MOST: Final = 2**62
"""Maximum number of elements of a tensor, so that their count fits into 64 bits."""
_SHOWN: Final = 32
"""Maximum number of dimensions that an error shows."""


def is_in_need(node: Any, reached: AbstractSet[str]) -> bool:
    """Return whether a NodeDef could end the process for some shape of a tensor that ``reached`` computes."""
    return any(
        source(node.input[index]) in reached
        for need in needs(node)
        for index in _read(need)
        if index < len(node.input)  # TensorFlow checks a function's body only when it is called
    )


class Guards:
    """The guards of a graph or function.

    Args:
        in_function: Whether inputs are named as in a FunctionDef, with the output's name.
    """

    def __init__(self, *, in_function: bool) -> None:
        self.nodes: list[Any] = []
        self._in_function = in_function
        self._made: dict[tuple[str, str, Need], str] = {}

    def add_all(self, node: Any, original: Any, body: AbstractSet[str], ranks: KnownRanks) -> None:
        """Insert the guards that ``node``, a copy of ``original``, needs in addition to checks by earlier operations.

        Args:
            node: The copy.
            original: The original node, with its original inputs.
            body: The names that an input of the signature reaches.
            ranks: The known ranks of the original graph or function.
        """
        for wanted in _all_needs(original, ranks):
            if not {source(original.input[index]) for index in _read(wanted)} & body:
                continue
            is_known = ranks.of(original.input[wanted.index]) in wanted.ranks
            need = replace(wanted, ranks=()) if is_known else wanted
            if need != Need(index=need.index, type_of=need.type_of):
                self._add_guard(node, need)

    def _add_guard(self, node: Any, need: Need) -> None:
        """Make ``node`` read its input ``need.index`` through a guard."""
        tensor = node.input[need.index]
        other = "" if need.rank_of is None else node.input[need.rank_of]
        key = tensor, other, replace(need, index=0)
        if key not in self._made:
            name = f"{node.name}/{MARK}/{need.index}"
            self._made[key] = self._guard(name, tensor, other, need, node)
        node.input[need.index] = self._made[key]

    def _guard(self, name: str, tensor: str, other: str, need: Need, node: Any) -> str:
        dtype = _type_of(node, need)
        shape = self._shape(name, tensor, dtype)
        checks: list[str] = []
        if need.ranks:
            rank = self._add(f"{name}/rank", "Size", [shape], T=_INT64, out_type=_INT64)
            wanted = "-".join(map(str, need.ranks))
            checks.append(self._check(f"{name}/rank-{wanted}", ("Equal", "Any"), rank, need.ranks, shape))
        if need.elements is not None:
            zero = self._const(f"{name}/axis", [0], _INT32, f"^{source(shape)}")
            size = self._add(f"{name}/size", "Prod", [shape, zero], T=_INT64, Tidx=_INT32)
            checks.append(
                self._check(f"{name}/elements-{need.elements}", ("Equal", "Any"), size, (need.elements,), shape)
            )
        if need.least:
            # Shapes of different ranks cannot be compared, so this check runs after the check of the rank.
            same = self._add(f"{name}/checked", "Identity", [shape, *checks], T=_INT64)
            wanted = "-".join(map(str, need.least))
            checks = [self._check(f"{name}/least-{wanted}", ("GreaterEqual", "All"), same, need.least, shape)]
        if need.rank_of is not None:
            dims = self._add(f"{name}/dims", "Size", [shape], T=_INT64, out_type=_INT64)
            theirs = self._shape(f"{name}/other", other, _type_of(node, replace(need, type_of="Tindices")))
            bound = self._add(f"{name}/other/dims", "Size", [theirs], T=_INT64, out_type=_INT64)
            one = self._const(f"{name}/one", [1], _INT64, f"^{source(dims)}")
            above = self._add(f"{name}/above", "AddV2", [dims, one], output="z", T=_INT64)
            checks.append(self._compare(f"{name}/updates", ("GreaterEqual", "All"), above, bound, shape))
        if need.least_value is not None or need.is_shape:
            # The Assert shows only the shape, never these values.
            values = self._add(f"{name}/values", "Cast", [tensor], output="y", SrcT=dtype, DstT=_DOUBLE)
            least = need.least_value or 0
            checks.append(
                self._check(f"{name}/from-{least}", ("GreaterEqual", "All"), values, (least,), shape, dtype=_DOUBLE)
            )
            if need.most_value is not None:
                most = need.most_value
                checks.append(
                    self._check(f"{name}/upto-{most}", ("LessEqual", "All"), values, (most,), shape, dtype=_DOUBLE)
                )
            if need.is_shape:
                zero = self._const(f"{name}/along", [0], _INT32, f"^{source(values)}")
                flat = self._reshape(f"{name}/flat", values)
                product = self._add(f"{name}/product", "Prod", [flat, zero], T=_DOUBLE, Tidx=_INT32)
                checks.append(
                    self._check(f"{name}/fits", ("LessEqual", "All"), product, (_MOST,), shape, dtype=_DOUBLE)
                )
        return self._add(f"{name}/same", "Identity", [tensor, *checks], T=dtype)

    def _shape(self, name: str, tensor: str, dtype: int) -> str:
        held = self._add(f"{name}/held", "OptionalFromValue", [tensor], output="optional")
        self.nodes[-1].attr["Toutput_types"].list.type.append(dtype)
        opened = self._add(f"{name}/open", "OptionalGetValue", [held], output="components")
        self.nodes[-1].attr["output_types"].list.type.append(dtype)
        self.nodes[-1].attr["output_shapes"].list.shape.add(unknown_rank=True)
        return self._add(f"{name}/shape", "Shape", [opened], T=dtype, out_type=_INT64)

    def _reshape(self, name: str, tensor: str) -> str:
        flat = self._const(f"{name}/all", [-1], _INT32, f"^{source(tensor)}")
        return self._add(name, "Reshape", [tensor, flat], T=_DOUBLE, Tshape=_INT32)

    def _check(
        self,
        name: str,
        operations: tuple[str, str],
        value: str,
        wanted: Sequence[int],
        shape: str,
        *,
        dtype: int = _INT64,
    ) -> str:
        """Add an assertion that compares ``value`` with ``wanted``; return a control input that waits for it."""
        # In a loop of TensorFlow 1, a constant belongs to the loop only through its control input.
        bound = self._const(f"{name}/bound", wanted, dtype, f"^{source(value)}")
        return self._compare(name, operations, value, bound, shape, dtype=dtype)

    def _compare(
        self, name: str, operations: tuple[str, str], value: str, bound: str, shape: str, *, dtype: int = _INT64
    ) -> str:
        compare, combine = operations
        compared = self._add(f"{name}/compared", compare, [value, bound], output="z", T=dtype)
        flat = self._const(f"{name}/all", [-1], _INT32, f"^{source(value)}")
        listed = self._add(f"{name}/listed", "Reshape", [compared, flat], T=_BOOL, Tshape=_INT32)
        axis = self._const(f"{name}/over", [0], _INT32, f"^{source(value)}")
        good = self._add(f"{name}/good", combine, [listed, axis], Tidx=_INT32)
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
        {_INT32: tensor.int_val, _INT64: tensor.int64_val, _DOUBLE: tensor.double_val}[dtype].extend(values)
        return made

    def _add(self, name: str, operation: str, inputs: Sequence[str], *, output: str = "output", **types: int) -> str:
        node = NodeDef(name=name, op=operation, input=inputs)
        for attribute, dtype in types.items():
            node.attr[attribute].type = dtype
        self.nodes.append(node)
        return f"{name}:{output}:0" if self._in_function else name


def _all_needs(node: Any, ranks: KnownRanks) -> list[Need]:
    """Return the requirements of a NodeDef, including the size of its filter if it is known."""
    found = list(needs(node))
    filter_shape = ranks.shape_of(node.input[1]) if len(node.input) > 1 else None
    window = None if filter_shape is None else window_need(node, filter_shape)
    return [window if window is not None and need.index == window.index else need for need in found]


def _read(need: Need) -> tuple[int, ...]:
    """Return the indexes of the inputs that decide whether a requirement is met."""
    return (need.index,) if need.rank_of is None else (need.index, need.rank_of)


def _type_of(node: Any, need: Need) -> int:
    """Return the data type of the input that ``need`` refers to."""
    if need.type_of.startswith("DT_"):
        return int(DataType.Value(need.type_of))
    if need.type_of not in node.attr:  # reading a missing attribute would add it
        # A SavedModel may omit attributes with their default values.
        defaults: dict[str, int] = {"Tshape": _INT32, "Tindices": _INT32, "R": _DOUBLE}
        default: int = _FLOAT
        return defaults.get(need.type_of, default)
    return int(node.attr[need.type_of].type)
