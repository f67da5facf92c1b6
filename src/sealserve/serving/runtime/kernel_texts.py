"""The messages of TensorFlow's operations that may leave the process, with placeholders for their parts.

``{shape}``, ``{size}``, ``{name}`` and ``{device}`` stay, because they describe the model or the shapes of the request.
``{number}`` and ``{value}`` become ``<hidden>``, because they can be values of an input. ``{value}`` is any text.

Source: tensorflow/tensorflow 2.21, ``tensorflow/core/kernels`` (the files beside each group).
"""

from typing import Final

SPEC_VERSION: Final = "2.21"

TEXTS: Final = (
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
    "input must have at least k columns. Had {size}, needed {number}",  # topk_op.cc
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
    # argmax_op.cc, broadcast_to_op.h, cwise_ops_common.cc
    "dim must be a scalar, but received tensor of shape: {shape}",
    "Expected dimension in the range [{size}, {size}), but got {number}",
    "Reduction axis {number} is empty in shape {shape}",
    "Rank of input ({size}) must be no greater than rank of output shape ({size}).",
    "shape must be a vector of {int32,int64}, got shape {shape}",
    "Dimension {number} must be >= 0",
    "Size {number} must be non-negative, not {number}",
    "Integer division by zero",
    "condition {shape}, then {shape}, and else {shape} must be broadcastable",
    # logging_ops.cc, check_numerics_op.cc, ensure_shape
    "assertion failed: {value}",
    "{value} : Tensor had {name} values",
    "Shape of tensor {name} {shape} is not compatible with expected shape {shape}.",
    # base64, string operations
    "Invalid character found in base64.",
    "Base64 string length cannot be 1 modulo 4.",
    "pos {number} out of range for string b'{value}",
    "pos and len should have the same shape, got: {shape} vs. {shape}",
    "Pattern must be scalar, but received {shape}",
    "Invalid pattern: {value}",
    "input must be a vector, got shape: {shape}",
    # strided_slice_op.cc, slice_op.cc, split_op.cc, split_v_op.cc, reshape_util.cc
    "slice index {number} of dimension {size} out of bounds.",
    "Attempting to slice scalar input.",
    "Index out of range using input dim {size}; input has only {size} dims",
    (
        "Expected begin, end, and strides to be 1D equal size tensors, but got shapes {shape}, {shape}, and"
        " {shape} instead."
    ),
    "Expected begin and size arguments to be 1-D tensors of size {size}, but got shapes {shape} and {shape} instead.",
    "Expected begin[{size}] in [0, {size}], but got {number}",
    "Expected size[{size}] in [0, {size}], but got {number}",
    "Expected begin[{size}] == 0 (got {number}) and size[{size}] == 0 (got {number}) when input.dim_size({size}) == 0",
    (
        "Number of ways to split should evenly divide the split dimension, but got split_dim {size} (size = {size}) and"
        " num_split {size}"
    ),
    "-input rank(-{size}) <= split_dim < input rank ({size}), but got {number}",
    (
        "Determined shape must either match input shape along split_dim exactly if fully specified, or be less than the"
        " size of the input along split_dim if not fully specified.  Got: {number}"
    ),
    "Can not squeeze dim[{size}], expected a dimension of 1, got {size}",
    "Tried to squeeze dim index {size} for tensor with {size} dimensions.",
    "Tried to expand dim index {number} for tensor with {size} dimensions.",
    "'dim' must be a tensor with a single value",
    "sizes input must be 1-D, not {shape}",
    "dims must represent a vector, got shape {shape}",
    "perm must be rank 1, got shape {shape}",
    "{number} is out of range [0 .. {size})",
    "{number} is missing from {{value}}.",
    "paddings must be a matrix with 2 columns: {shape}",
    "Expected multiples argument to be a vector of length {size} but got length {size}",
    "Expected multiples to be 1-D, but got shape {shape}",
    "Expected multiples[{size}] >= 0, but got {number}",
    # gather_op.cc, gather_nd_op.h, scatter_nd_op.cc, sparse operations, ragged operations
    "params must be at least 1 dimensional",
    "params must be at least a vector",
    "indices must be at least a vector",
    "Requested more than 0 entries, but params is empty.  Params shape: {shape}",
    "Indices and updates specified for empty output shape",
    "Updates shape must have rank at least one. Found:{shape}",
    "Indices shape must have rank at least one. Found:{shape}",
    "Inner dimensions of output shape must match inner dimensions of updates shape. Output: {shape} updates: {shape}",
    "Outer dimensions of indices and update must match. Indices shape: {shape}, updates shape:{shape}",
    (
        "Dimensions [{size},{size}) of indices[shape={shape}] = {size} must match dimensions [{size},{size}) of"
        " updates[shape={shape}] = {size}"
    ),
    (
        "The inner {size} dimensions of output.shape={shape} must match the inner {size} dimensions of"
        " updates.shape={shape}"
    ),
    (
        "Dimensions [{size},{size}) of input[shape={shape}] must match dimensions [{size},{size}) of"
        " updates[shape={shape}]"
    ),
    "sparse_values has incorrect shape {shape}, should be [] or {shape}",
    "output_shape must be rank 1, got shape {shape}",
    "output_shape has incorrect number of elements: {size} should be: {size}",
    "indices[{size}] = {value} is out of bounds: need 0 <= index < {value}",
    "indices[{size}] = {value} is repeated",
    (
        "indices[{size}] = {value} is out of order. Many sparse ops require sorted indices.\n    Use"
        " `tf.sparse.reorder` to create a correctly ordered copy.\n\n"
    ),
    "The second input must be a scalar, but it has shape {shape}",
    # segment_reduction_ops_impl.h, dynamic_partition_op.cc, reverse_sequence_op.cc, invert_permutation, bincount_op.cc
    "segment_ids should be the same size as dimension 0 of input.",
    "segment_ids should be a vector.",
    "input must be at least rank 1",
    "Segment id {number} out of range [0, {number}), possibly because 'segment_ids' input is not sorted.",
    "segment_ids{value} is out of range [0, {number})",
    "num_segments should be a scalar, not shape {shape}",
    "Input num_segments == {number} must not be negative.",
    "data.shape must start with partitions.shape, got data.shape = {shape}, partitions.shape = {shape}",
    "partitions{value} is not in [0, {size})",
    "Length of seq_lengths != input.dims({size}), ({size} vs. {size})",
    "seq_lengths must be 1-dim, not {size}",
    "seq_dim must be < input rank ( {size} vs. {size})",
    "seq_lens({size}) < 0",
    "seq_lens({size}) > input.dims({size})",
    "invert_permutation expects a 1D vector.",
    "{number} is not between 0 and {size}",
    "Input arr must be non-negative!",
    "size ({number}) must be non-negative",
    # reduction_ops_common.cc, topk_op.cc, one_hot_op.cc, sequence_ops.cc, list_kernels.cc
    "Invalid reduction dimension ({number} for input with {size} dimension(s)",
    "Invalid reduction arguments: Axes contains duplicate dimension: {number}",
    "k must be scalar, got shape {shape}",
    "Need k >= 0, got {number}",
    "input must be >= 1-D, got shape {shape}",
    "depth must be a scalar, but got: {shape}",
    "depth must be non-negative, got: {number}",
    "delta must be a scalar, not shape {shape}",
    "Requires delta != 0: {number}",
    "Requires start >= limit when delta < 0: {number}/{number}",
    "Requires start <= limit when delta > 0: {number}/{number}",
    "Trying to modify element {number} in a list with {size} elements.",
    "Expected argument {size} to be a scalar. Received{value}",
    # linear algebra, concat_op.cc, bias_op.cc, unpack_op.cc, softmax_op.cc, einsum_op_impl.h, fft_ops.cc
    "Input matrix must be square.",
    "Input tensor {size} must have rank >= {size}, got {size}",
    "Input is not invertible.",
    "Input matrix is not invertible.",
    "First input (lhs) must be a square matrix.",
    "All input tensors must have the same rank.",
    "Self-adjoint eigen decomposition was not successful. The input might not be valid.",
    "Matrix size-incompatible: In[0]: {shape}, In[1]: {shape} {size} {size}",
    "ConcatOp : Expected concatenating dimensions in the range [{size}, {size}), but got {number}",
    "axis tensor should be a scalar integer, but got shape {shape}",
    "Biases must be 1D: {shape}",
    "axis = {size} not in [{size}, {size})",
    "Input dims must be <= {size} and >={size}",
    "Expected dimension {size} at axis {size} of the input shaped {shape} but got dimension {size}",
    "Expected input {size} to have rank {size} but got: {size}",
    "Input must have rank of at least {size} but got: {shape}",
    # images: image_resizer_state.h, crop_and_resize_op.cc, non_max_suppression_op.cc, decode_image_op.cc, decode_bmp
    "output dimensions must be positive",
    "input image must be of non-zero size",
    "input image must be 4-D{shape}",
    "shape_t must be {size}-dimensional{shape}",
    "shape_t must have two elements{shape}",
    "max_output_size must be 0-D, got shape {shape} (Shape must be rank {size} but is rank {size})",
    "boxes must have 4 columns (Dimension must be {size} but is {size})",
    "boxes must be 2-D{shape} (Shape must be rank {size} but is rank {size})",
    "Invalid PNG. Failed to initialize decoder.",
    "Invalid PNG data, size {size}",
    "Invalid GIF data (size {size}), {value}",
    "Trying to decode {name} format using {name} op. Use `{name}` or `{name}` instead.",
    "Trying to decode {name} format using a wrong op. Use `{name}` or `{name}` instead. Op used: {name}",
    (
        "Incomplete bmp content, requires at least {size} bytes to find the header size, width, height, and bpp,"
        " got {size} bytes"
    ),
    # sounds, JSON, CSV, compressed and serialized input
    "contents must be scalar, got shape {shape}",
    "Header mismatch: Expected {name} but found {value}",
    "Data too short when trying to read string",
    "Error while parsing JSON: {value}",
    "Expect {size} fields but have {size} in record {size}",
    "Unquoted fields cannot have quotes/CRLFs inside",
    "DecodeRaw requires input strings to all be the same size, but element {size} has size {size} != {size}",
    "Expected `serialized` to be a scalar, got shape: {shape}",
    "Could not parse `serialized` as TensorProto, base64: {value}",
    "Feature: {name} (data type: {name}) is required but could not be found.",
    "inflate() failed with error {size}: {value}",
    # what a model lacks: lookup_util.cc, resource_variable_ops.cc, variable_ops, resource_mgr.cc
    "Table not initialized.",
    "Attempting to use uninitialized value {name}",
    (
        "Could not find variable {name}. This could mean that the variable has been deleted. In TF1, it can also mean"
        " the variable is uninitialized. Debug info: container={name}, status error message={value}"
    ),
    "Resource {name} does not exist.",
    # the run itself: direct_session.cc, op_kernel.cc
    "Timed out waiting for notification",
    "OOM when allocating tensor with shape{shape} and type {name} on {device} by allocator {name}",
)
