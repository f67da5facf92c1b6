"""Operations that end the process, or never end, instead of failing, if an input is not as they expect.

They were found with ``scripts/aborts.py``. It runs each operation that has a CPU kernel on inputs of every rank and
many sizes and values, in child processes, with oneDNN (the default) and without it. The table below has the
requirements.

Source: tensorflow/tensorflow 2.21, ``tensorflow/core/kernels`` and oneDNN as that release builds it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sealserve.serving.runtime.protos import DataType

SPEC_VERSION: Final = "2.21"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A requirement of an operation on one input. If it is violated, the operation may end the process.

    Args:
        index: The input's position.
        ranks: The accepted ranks; empty for any rank.
        least: The minimum size of each dimension; empty for any size. Used only with a single rank.
        elements: The required number of elements; None for any number.
        rank_of: The index of another input. This input's rank must be at least that rank minus one. None for any rank.
        least_value: The minimum value of its elements; None for any value.
        most_value: The maximum value of its elements; None for any value. Used only with a minimum value.
        is_shape: Whether its elements are sizes, which must not be negative and whose product must fit into 64 bits.
        type_of: The attribute with the input's data type, or the type's name.
    """

    index: int = 0
    ranks: tuple[int, ...] = ()
    least: tuple[int, ...] = ()
    elements: int | None = None
    rank_of: int | None = None
    least_value: int | None = None
    most_value: int | None = None
    is_shape: bool = False
    type_of: str = "T"


_Rule = Callable[[Any], tuple[Need, ...]]
_NOT_SCALAR: Final = tuple(range(1, 9))


def needs(node: Any) -> tuple[Need, ...]:
    """Return the requirements of a NodeDef's operation on its inputs; empty for most operations."""
    rule = _RULES.get(node.op)
    return () if rule is None else rule(node)


def _always(*found: Need) -> _Rule:
    return lambda _: found


def _ranks(*ranks: int | None) -> _Rule:
    """Return a rule about inputs of the data type ``T``; None skips an input."""
    return _always(*(Need(index=index, ranks=(rank,)) for index, rank in enumerate(ranks) if rank is not None))


def _max_pool(rank: int) -> _Rule:
    """Return the rule of a pooling operation: its window must not be larger than the padded input."""

    def rule(node: Any) -> tuple[Need, ...]:
        window = _integers(node, "ksize")
        around = _integers(node, "explicit_paddings") or (0,) * (2 * rank)
        least: tuple[int, ...] = ()
        if len(window) == rank and len(around) == 2 * rank and _text(node, "padding") != "SAME":
            spare = [before + after for before, after in zip(around[::2], around[1::2], strict=True)]
            least = tuple(max(size - added, 0) if size > 1 else 0 for size, added in zip(window, spare, strict=True))
        return (Need(ranks=(rank,), least=least if any(least) else ()),)

    return rule


def window_need(node: Any, filter_shape: Sequence[int]) -> Need | None:
    """Return the requirement of a convolution without SAME padding on its input, given the sizes of its filter.

    If the window is larger than the input, oneDNN may return uninitialized memory.
    """
    rank = _WINDOWS.get(node.op)
    if rank is None or len(filter_shape) != rank or _text(node, "padding") == "SAME":
        return None
    apart = _integers(node, "dilations") or (1,) * rank
    around = _integers(node, "explicit_paddings") or (0,) * (2 * rank)
    if len(apart) != rank or len(around) != 2 * rank:
        return None
    channels_first = _text(node, "data_format").startswith("NC")
    places = range(2, rank) if channels_first else range(1, rank - 1)
    least = [0] * rank
    for size, place in zip(filter_shape, places, strict=False):
        window = (size - 1) * apart[place] + 1
        least[place] = max(window - around[2 * place] - around[2 * place + 1], 0) if window > 1 else 0
    return Need(ranks=(rank,), least=tuple(least)) if any(least) else None


_WINDOWS: Final = {"Conv2D": 4, "DepthwiseConv2dNative": 4, "Conv3D": 5}


def _conv(node: Any) -> tuple[Need, ...]:
    rank = len(_integers(node, "strides"))
    return (Need(index=1, ranks=(rank,)),)


def _transposed(rank: int, sizes: str = "DT_INT32") -> _Rule:
    """Return the rule of a transposed convolution: the output's shape, the filter, the input."""
    return _always(
        Need(ranks=(1,), elements=rank, is_shape=True, type_of=sizes),
        Need(index=1, ranks=(rank,)),
        Need(index=2, ranks=(rank,)),
    )


def _filter_gradient(rank: int) -> _Rule:
    return _always(
        Need(ranks=(rank,)),
        Need(index=1, ranks=(1,), elements=rank, is_shape=True, type_of="DT_INT32"),
        Need(index=2, ranks=(rank,)),
    )


def _average_gradient(rank: int) -> _Rule:
    return _always(Need(ranks=(1,), elements=rank, is_shape=True, type_of="DT_INT32"), Need(index=1, ranks=(rank,)))


def _fourier(_: Any) -> tuple[Need, ...]:
    return (Need(index=1, least_value=1, type_of="DT_INT32"),)


_LARGEST: Final = {
    DataType.Value("DT_HALF"): 65504,
    DataType.Value("DT_INT32"): 2**31 - 1,
    DataType.Value("DT_INT64"): 2**62,
    DataType.Value("DT_INVALID"): 2**62,  # attribute omitted: the default is DT_INT64
}


def _poisson(index: int, type_of: str) -> _Rule:
    """Return the rule of random numbers with a rate.

    The operation rejects each number that is NaN or too large for the type of its output, and draws again. At a rate
    that is NaN or far too large, it never ends (``random_poisson_op.cc``, ``stateless_random_poisson_op.cc``).
    """

    def rule(node: Any) -> tuple[Need, ...]:
        dtype = node.attr["dtype"].type if "dtype" in node.attr else 0
        most = _LARGEST.get(dtype)
        return (Need(index=index, least_value=0, most_value=most, type_of=type_of),)

    return rule


_MODERATE: Final = {
    DataType.Value("DT_INT32"): 2**30 - 1,
    DataType.Value("DT_INT64"): 2**62 - 1,
    DataType.Value("DT_FLOAT"): 2**120,
    DataType.Value("DT_DOUBLE"): 2**120,
}
"""For each data type, the largest number whose difference from any other such number fits into the type."""


def _histogram(node: Any) -> tuple[Need, ...]:
    """Return the rule of a histogram: values and limits are numbers whose differences fit into the type.

    The kernel computes the index of a bin as (value - least) / step, and writes outside of its output if that is NaN
    (``histogram_op.cc``).
    """
    most = _MODERATE.get(node.attr["T"].type if "T" in node.attr else 0)
    if most is None:
        return ()
    return tuple(Need(index=index, least_value=-most, most_value=most) for index in (0, 1))


def _per_tensor(*indices: int, type_of: str = "DT_FLOAT") -> _Rule:
    """Return the rule of a quantized operation with one range for the whole tensor."""

    def rule(node: Any) -> tuple[Need, ...]:
        if "axis" in node.attr and node.attr["axis"].i != -1:
            return ()
        return tuple(Need(index=index, elements=1, type_of=type_of) for index in indices)

    return rule


def _quantized_matmul(*single: int) -> _Rule:
    return _always(
        Need(ranks=(2,), type_of="T1"),
        Need(index=1, ranks=(2,), type_of="T2"),
        *(Need(index=index, elements=1, type_of="DT_FLOAT") for index in single),
    )


def _scatter(indices: int, updates: int) -> _Rule:
    return _always(Need(index=updates, rank_of=indices))


def _lstm_cell(count: int) -> _Rule:
    # x, cs_prev, h_prev and w are matrices; the peepholes and the bias are vectors; the remaining inputs are matrices.
    ranks = (2, 2, 2, 2, 1, 1, 1, 1, *(2,) * (count - 8))
    return _ranks(*ranks)


def _gather(node: Any) -> tuple[Need, ...]:
    batch = node.attr["batch_dims"].i if "batch_dims" in node.attr else 0
    return (Need(index=1, ranks=tuple(range(batch, 9)), type_of="Tindices"),) if batch > 0 else ()


def _integers(node: Any, name: str) -> tuple[int, ...]:
    return tuple(node.attr[name].list.i) if name in node.attr else ()  # reading a missing attribute would add it


def _text(node: Any, name: str) -> str:
    return node.attr[name].s.decode() if name in node.attr else ""


_RULES: Final[Mapping[str, _Rule]] = {
    # Convolutions and pooling.
    "Conv": _conv,
    "Conv2D": _ranks(4, 4),
    "DepthwiseConv2dNative": _ranks(4, 4),
    "Conv3D": _ranks(5, 5),
    "Conv2DBackpropInput": _transposed(4),
    "DepthwiseConv2dNativeBackpropInput": _transposed(4),
    "Conv3DBackpropInputV2": _transposed(5, "Tshape"),
    "Conv2DBackpropFilter": _filter_gradient(4),
    "DepthwiseConv2dNativeBackpropFilter": _filter_gradient(4),
    "Conv3DBackpropFilterV2": _filter_gradient(5),
    "MaxPool": _max_pool(4),
    "MaxPool3D": _max_pool(5),
    "AvgPool": _ranks(4),  # for five dimensions without elements it returns uninitialized memory
    "AvgPool3D": _ranks(5),
    "AvgPoolGrad": _average_gradient(4),
    "AvgPool3DGrad": _average_gradient(5),
    "LRNGrad": _ranks(4, 4, 4),
    # Recurrent cells.
    "LSTMBlockCell": _lstm_cell(8),
    "LSTMBlockCellGrad": _lstm_cell(16),
    # Fourier transforms to a given length.
    **dict.fromkeys(("RFFT", "RFFT2D", "RFFT3D", "IRFFT", "IRFFT2D", "IRFFT3D"), _fourier),
    # Histograms.
    "HistogramFixedWidth": _histogram,
    # Random numbers.
    "RandomPoisson": _poisson(1, "dtype"),
    "RandomPoissonV2": _poisson(1, "R"),
    "StatelessRandomPoisson": _poisson(2, "Rtype"),
    # Scatter and gather.
    "ScatterNd": _scatter(0, 1),
    **dict.fromkeys(
        (f"TensorScatter{what}" for what in ("Update", "Add", "Sub", "Max", "Min")),
        _scatter(1, 2),
    ),
    "ResourceGather": _gather,
    "TensorListGetItem": _always(Need(index=1, elements=1, type_of="DT_INT32")),
    "TensorArraySplitV3": _always(Need(index=2, least_value=0, type_of="DT_INT64")),
    "ConjugateTranspose": _always(Need(ranks=_NOT_SCALAR)),
    "CombinedNonMaxSuppression": _always(
        Need(ranks=(4,), type_of="DT_FLOAT"), Need(index=1, ranks=(3,), type_of="DT_FLOAT")
    ),
    "CropAndResizeGradBoxes": _always(
        Need(ranks=(4,), type_of="DT_FLOAT"),
        Need(index=1, ranks=(4,)),
        Need(index=2, ranks=(2,), type_of="DT_FLOAT"),
        Need(index=3, ranks=(1,), type_of="DT_INT32"),
    ),
    # Quantized operations.
    "FakeQuantWithMinMaxVarsPerChannel": _always(Need(ranks=_NOT_SCALAR, type_of="DT_FLOAT")),
    "FakeQuantWithMinMaxVarsPerChannelGradient": _always(
        Need(ranks=_NOT_SCALAR, type_of="DT_FLOAT"), Need(index=1, ranks=_NOT_SCALAR, type_of="DT_FLOAT")
    ),
    "Dequantize": _per_tensor(1, 2),
    **dict.fromkeys((f"QuantizeAndDequantizeV{version}" for version in (2, 3, 4)), _per_tensor(1, 2, type_of="T")),
    "RequantizePerChannel": _always(
        Need(index=3, elements=1, type_of="DT_FLOAT"), Need(index=4, elements=1, type_of="DT_FLOAT")
    ),
    "QuantizedInstanceNorm": _ranks(4),
    "QuantizedMatMulWithBias": _quantized_matmul(3, 4, 5, 6),
    "QuantizedMatMulWithBiasAndRelu": _quantized_matmul(3, 4, 5, 6),
    "QuantizedMatMulWithBiasAndReluAndRequantize": _quantized_matmul(3, 4, 5, 6, 7, 8),
    "QuantizedMatMulWithBiasAndRequantize": _quantized_matmul(3, 4, 5, 6, 7, 8),
    "QuantizedMatMulWithBiasAndDequantize": _quantized_matmul(3, 4, 5, 6, 7, 8),
}

GUARDED: Final = frozenset(_RULES)
"""The operations with a rule in this module."""
