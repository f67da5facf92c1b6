"""Padding of inputs with different lengths to the same shape, so that they can be in the same batch.

Source: tensorflow/serving, ``batching/batching_util.cc`` (``AddPadding``): values are added at the end of each
Source: tensorflow/serving, ``batching/batching_util.cc`` (``AddPadding``). Copies of the tensor's first element are
added at the end of each dimension except the first; ranks from 1 to 6.
"""

from collections.abc import Sequence
from typing import Final

from sealserve.serving.request_errors import RequestCode
from sealserve.serving.runtime.data_types import element_size
from sealserve.serving.runtime.libtensorflow import Library
from sealserve.serving.runtime.protos import DataType
from sealserve.serving.runtime.tensors import Tensor

_STRING: Final = DataType.Value("DT_STRING")
_MAX_RANK: Final = 6


def pad_to(library: Library, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Return ``tensor`` padded to ``shape``.

    Raises:
        RequestError: `request.batch-padding`: The tensor is empty, or has too many dimensions.
    """
    import numpy as np  # noqa: PLC0415  # most servers do not need numpy

    if len(shape) > _MAX_RANK:
        raise RequestCode.BATCH_PADDING.error("Only tensors with rank from 1 to 6 can be padded.")
    if 0 in tensor.shape:
        raise RequestCode.BATCH_PADDING.error("Got empty tensor in batch of non-empty tensors.")
    inside = tuple(slice(size) for size in tensor.shape)
    if tensor.dtype == _STRING:
        words = tensor.strings()
        filled = np.full(shape, words[0], object)
        filled[inside] = np.array([*words, None], object)[:-1].reshape(tensor.shape)
        return Tensor.from_strings(library, shape, filled.ravel().tolist())
    numbers = np.frombuffer(tensor.content(), f"V{element_size(tensor.dtype)}").reshape(tensor.shape)
    padded = np.full(shape, numbers.flat[0], numbers.dtype)
    padded[inside] = numbers
    return Tensor.from_bytes(library, tensor.dtype, shape, [padded.tobytes()])
