"""Operations that end the process, rather than fail, where an input has a rank or a size that they do not expect.

Found with ``scripts/aborts.py``, which runs each operation that has a kernel for the CPU on inputs of every rank and many
sizes and values, in child processes, with oneDNN (the default) and without it. The table below has what each needs.

Source: tensorflow/tensorflow 2.21, ``tensorflow/core/kernels`` and oneDNN as that release builds it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

SPEC_VERSION: Final = "2.21"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What an operation needs of one input.

    Args:
        index: The input's position.
        ranks: The ranks that it copes with; empty where any will do.
        least: The least size of each dimension; empty where any will do. Only with one rank.
        single: Whether it must have exactly one element.
        type_of: The attribute with the input's data type, or the type's name.
    """

    index: int = 0
    ranks: tuple[int, ...] = ()
    least: tuple[int, ...] = ()
    single: bool = False
    type_of: str = "T"


_Rule = Callable[[Any], tuple[Need, ...]]


def needs(node: Any) -> tuple[Need, ...]:
    """Return what the operation of a NodeDef needs, so that it cannot end the process; nothing for most."""
    rule = _RULES.get(node.op)
    return () if rule is None else rule(node)


def _ranks(*ranks: int | None, types: tuple[str, ...] = ()) -> _Rule:
    found = tuple(
        Need(index=index, ranks=(rank,), type_of=types[index] if types else "T")
        for index, rank in enumerate(ranks)
        if rank is not None
    )
    return lambda _: found


def _max_pool(rank: int) -> _Rule:
    def rule(node: Any) -> tuple[Need, ...]:
        window = _integers(node, "ksize")
        padding = _text(node, "padding")
        least: tuple[int, ...] = ()
        if len(window) == rank and padding != "SAME":
            around = _integers(node, "explicit_paddings") or (0,) * (2 * rank)
            if len(around) == 2 * rank:
                spare = (before + after for before, after in zip(around[::2], around[1::2], strict=True))
                least = tuple(max(size - added, 0) if size > 1 else 0 for size, added in zip(window, spare, strict=True))
        return (Need(ranks=(rank,), least=least if any(least) else ()),)

    return rule


def _integers(node: Any, name: str) -> tuple[int, ...]:
    return tuple(node.attr[name].list.i) if name in node.attr else ()  # reading one that is not there would add it


def _text(node: Any, name: str) -> str:
    return node.attr[name].s.decode() if name in node.attr else ""


_RULES: Final[Mapping[str, _Rule]] = {
    "Conv2D": _ranks(4, 4),
    "DepthwiseConv2dNative": _ranks(4, 4),
    "Conv3D": _ranks(5, 5),
    "MaxPool": _max_pool(4),
    "MaxPool3D": _max_pool(5),
    "FakeQuantWithMinMaxVars": lambda _: (),
}
