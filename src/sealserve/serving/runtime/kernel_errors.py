"""What TensorFlow's operations say of a request, without what they quote of it.

An operation's text may quote an input. So a text leaves the process only where it is one of those below, whose every
part is known: shapes, sizes and names of the model stay, values become ``<hidden>``. Of any other text only the status
and the names of the operations are told.

Source: tensorflow/tensorflow 2.21, ``tensorflow/core/kernels`` (the file beside each group).
"""

import re
from typing import Final

from sealserve.serving.runtime.libtensorflow import TensorFlowError

SPEC_VERSION: Final = "2.21"

_PARTS: Final = {
    "shape": r"\[[\d,?]*\]",
    "size": r"-?\d+",
    "name": r"[\w./<>-]*",
    "value": r"(?P<value>.*)",
}
"""What a text is made of, beside its own words; ``value`` is what must not be seen, and comes once at most."""

_TEXTS: Final = (
    "Incompatible shapes: {shape} vs. {shape}",  # cwise_ops_common.cc
    "Matrix size-incompatible: In[0]: {shape}, In[1]: {shape}",  # matmul_op_impl.h and below
    "In[{size}] ndims must be >= {size}: {size}",
    "In[{size}] ndims must be >= {size}",
    "In[{size}] is not a matrix",
    "In[{size}] and In[{size}] must have compatible batch dimensions: {shape} vs. {shape}",
    "lhs mismatch rhs shape: {size} vs. {size}: {shape} {shape} {size} {size}",
    "ConcatOp : Can't concatenate scalars (use tf.stack instead)",  # concat_op.cc
    "ConcatOp : Ranks of all input tensors should match: shape[{size}] = {shape} vs. shape[{size}] = {shape}",
    "ConcatOp : Dimension {size} in both shapes must be equal: shape[{size}] = {shape} vs. shape[{size}] = {shape}",
    "Shapes of all inputs must match: values[{size}].shape = {shape} != values[{size}].shape = {shape}",  # pack_op.cc
    "Input shape axis {size} must equal {size}, got shape {shape}",  # unpack_op.cc
    "Input to reshape is a tensor with {size} values, but the requested shape {value}",  # reshape_op.h
    "Only one input size may be -1, not both {size} and {size}",
    "indices{value} is not in [0, {size})",  # gather_op.cc
    "indices{value} does not index into param shape {shape}, node name: {name}",  # gather_nd_op.h
    "index innermost dimension length must be <= params rank; saw: {size} vs. {size}",
    "inputs must be at least 1-D, got shape {shape}",  # bias_op.cc, softmax_op.cc
    "Input tensor must be at least 2D: {shape}",
    "Must provide as many biases as the last dimension of the input tensor: {shape} vs. {shape}",
    "input depth must be evenly divisible by filter depth: {size} vs {size}",  # conv_ops
    "Input must be 4 or 5-dimensional",  # pooling_ops_common.cc
    "input must be {size}-dimensional{shape}",  # image operations, conv_ops
    "transpose expects a vector of size {size}. But input({size}) is a vector of size {size}",  # transpose_op.cc
    "The first dimension of paddings must be the rank of inputs{shape} {shape}",  # pad_op.cc
    "Invalid reduction dimension ({size} for input with {size} dimension(s)",  # reduction_ops_common.cc
    "input must have at least k columns. Had {size}, needed {size}",  # topk_op.cc
    "data.shape = {shape} does not start with segment_ids.shape = {shape}",  # segment_reduction_ops_impl.h
    "StringToNumberOp could not correctly convert string: {value}",  # string_to_number_op.cc, strings/numbers
    "Could not parse example input, value: '{value}'",  # example_proto_fast_parsing.cc and below
    "Name: <unknown>, Feature: {name} (data type: {name}) is required but could not be found.",
    "Name: <unknown>, Key: {name}, Index: {size}.  Data types don't match. Data type: {name} but expected type: {name}",
    (
        "Name: <unknown>, Key: {name}, Index: {size}.  Number of {name} values != expected."
        "  Values size: {size} but output shape: {shape}"
    ),
    "Key: {name}.  Data types don't match. Expected type: {name}, Actual type: {name}",
    "Expected serialized to be a scalar or vector, got shape: {shape}",
    "`contents` must be scalar but got shape{shape}",  # decode_image_op.cc, lib/jpeg
    "Unknown image file format. One of JPEG, JPEG XL, PNG, GIF, BMP, WebP required.",
    "jpeg::Uncompress failed. Invalid JPEG data or crop window.",
    "Input is empty.",
    "Input to DecodeRaw has length {size} that is not a multiple of {size}, the size of {name}",  # decode_raw_op.cc
)


def _pattern(text: str) -> re.Pattern[str]:
    parts = re.split(r"(\{(?:shape|size|name|value)\})", text)
    return re.compile("".join(_PARTS.get(part.strip("{}"), re.escape(part)) for part in parts), re.DOTALL)


_PATTERNS: Final = tuple(map(_pattern, _TEXTS))
_WHERE: Final = re.compile(r"\n\t \[\[(?:\{\{function_node [\w./-]+\}\})?(?:\{\{node ([\w./-]+)\}\}|([\w./-]+))\]\]\Z")
"""The last line, which TensorFlow adds itself: what looks like one further up may be part of a value."""
HIDDEN: Final = "<hidden>"


def told(error: TensorFlowError, signature: str) -> str:
    """Return what may be told of ``error`` when ``signature`` was run: TensorFlow's text, or its status and where."""
    where = _WHERE.search(error.text)
    text, line = (error.text[: where.start()], where.group()) if where else (error.text, "")
    for pattern in _PATTERNS:
        found = pattern.fullmatch(text)
        if found is None:
            continue
        if "value" in pattern.groupindex:
            text = text[: found.start("value")] + HIDDEN + text[found.end("value") :]
        return text + line
    at = f" at {where[1] or where[2]}" if where else ""
    return f"TensorFlow could not compute the signature {signature!r}: {error.status.name}{at}"
