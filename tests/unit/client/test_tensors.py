from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.harness.errors import raises

from sealserve.client import tensors
from sealserve.client.codes import ClientCode
from sealserve.client.tensors import Array, TensorTypeError, data_type_name, from_proto, to_proto
from sealserve.client.wire import types_pb2 as types
from sealserve.client.wire.tensor_pb2 import TensorProto
from sealserve.client.wire.tensor_shape_pb2 import TensorShapeProto
from sealserve.errors import UnavailableError

NUMERIC = ["bool", "complex64", "complex128", "float16", "float32", "float64"]
NUMERIC += [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]


def shape(*sizes: int) -> TensorShapeProto:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])


@given(
    st.sampled_from(NUMERIC).flatmap(
        lambda name: hnp.arrays(np.dtype(name), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    )
)
def test_every_numeric_array_comes_back_bit_for_bit(array: Array) -> None:
    sent = TensorProto.FromString(to_proto(array).SerializeToString())
    back = from_proto(sent)
    assert (back.shape, back.dtype) == (array.shape, array.dtype)
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a", "äöü", ""]),
        np.array([b"a", b"\xff\x00b", b""]),
        np.array([["a"], [b"b"]], dtype=object),
        np.array(["a", "bc"], dtype=np.dtypes.StringDType()),
        np.array("scalar"),
    ],
)
def test_strings_come_back_as_bytes(array: Array) -> None:
    back = from_proto(to_proto(array))
    expected = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
    assert back.shape == array.shape
    assert back.ravel().tolist() == expected


def test_byte_order_and_memory_layout_do_not_matter() -> None:
    array = np.arange(12, dtype=">f4").reshape(3, 4).T
    np.testing.assert_array_equal(from_proto(to_proto(array)), array)


def test_what_comes_back_is_writable() -> None:
    back = from_proto(to_proto(np.zeros(3, np.float32)))
    back[0] = 1
    assert back[0] == 1


def test_numbers_travel_as_one_block_of_bytes() -> None:
    sent = to_proto(np.ones((2, 2), np.float32))
    assert len(sent.tensor_content) == 16
    assert not sent.float_val


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (TensorProto(dtype=types.DT_FLOAT, float_val=[1.5, 2.5]), np.array([1.5, 2.5], np.float32)),
        (TensorProto(dtype=types.DT_DOUBLE, double_val=[1, 2]), np.array([1, 2], np.float64)),
        (TensorProto(dtype=types.DT_INT8, int_val=[-1, 2]), np.array([-1, 2], np.int8)),
        (TensorProto(dtype=types.DT_UINT8, int_val=[255, 2]), np.array([255, 2], np.uint8)),
        (TensorProto(dtype=types.DT_INT16, int_val=[-5, 2]), np.array([-5, 2], np.int16)),
        (TensorProto(dtype=types.DT_UINT16, int_val=[65535, 2]), np.array([65535, 2], np.uint16)),
        (TensorProto(dtype=types.DT_INT32, int_val=[-(2**31), 2]), np.array([-(2**31), 2], np.int32)),
        (TensorProto(dtype=types.DT_INT64, int64_val=[-(2**63), 2]), np.array([-(2**63), 2], np.int64)),
        (TensorProto(dtype=types.DT_UINT32, uint32_val=[2**32 - 1, 2]), np.array([2**32 - 1, 2], np.uint32)),
        (TensorProto(dtype=types.DT_UINT64, uint64_val=[2**64 - 1, 2]), np.array([2**64 - 1, 2], np.uint64)),
        (TensorProto(dtype=types.DT_BOOL, bool_val=[True, False]), np.array([True, False])),
        (TensorProto(dtype=types.DT_COMPLEX64, scomplex_val=[1, 2, 3, 4]), np.array([1 + 2j, 3 + 4j], np.complex64)),
        (TensorProto(dtype=types.DT_COMPLEX128, dcomplex_val=[1, 2, 3, 4]), np.array([1 + 2j, 3 + 4j])),
        (TensorProto(dtype=types.DT_HALF, half_val=[0x3C00, 0xC000]), np.array([1, -2], np.float16)),
        (TensorProto(dtype=types.DT_BFLOAT16, half_val=[0x3F80, 0xC000]), np.array([1, -2], np.float32)),
        (TensorProto(dtype=types.DT_BFLOAT16, tensor_content=b"\x80\x3f\x00\xc0"), np.array([1, -2], np.float32)),
        (TensorProto(dtype=types.DT_BOOL, tensor_content=b"\x02\x00"), np.array([True, False])),
        (TensorProto(dtype=types.DT_STRING, string_val=[b"a", b"b"]), np.array([b"a", b"b"], object)),
        (TensorProto(dtype=types.DT_STRING, tensor_content=b"\x01\x02abb"), np.array([b"a", b"bb"], object)),
    ],
)
def test_typed_fields_are_read(tensor: TensorProto, expected: Array) -> None:
    tensor.tensor_shape.CopyFrom(shape(2))
    back = from_proto(tensor)
    assert back.dtype == expected.dtype
    np.testing.assert_array_equal(back, expected)


def test_the_last_of_too_few_values_repeats() -> None:
    one = TensorProto(dtype=types.DT_FLOAT, tensor_shape=shape(2, 3), float_val=[7])
    np.testing.assert_array_equal(from_proto(one), np.full((2, 3), 7, np.float32))
    two = TensorProto(dtype=types.DT_INT64, tensor_shape=shape(4), int64_val=[1, 2])
    np.testing.assert_array_equal(from_proto(two), [1, 2, 2, 2])
    strings = TensorProto(dtype=types.DT_STRING, tensor_shape=shape(3), string_val=[b"a"])
    assert from_proto(strings).tolist() == [b"a", b"a", b"a"]


def test_no_value_at_all_means_zero() -> None:
    np.testing.assert_array_equal(from_proto(TensorProto(dtype=types.DT_FLOAT, tensor_shape=shape(2))), [0, 0])
    assert from_proto(TensorProto(dtype=types.DT_STRING, tensor_shape=shape(1))).tolist() == [b""]


def test_bfloat16_is_sent_as_it_is() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes comes with the `server` extra")
    array = np.array([[1.0, -2.5]], dtype=ml_dtypes.bfloat16)
    sent = to_proto(array)
    assert (sent.dtype, sent.tensor_content) == (types.DT_BFLOAT16, array.tobytes())
    np.testing.assert_array_equal(from_proto(sent), [[1.0, -2.5]])


@pytest.mark.parametrize("array", [np.zeros(2, "datetime64[s]"), np.zeros(2, np.longdouble), np.zeros(2, "i4,f4")])
def test_a_type_without_a_counterpart_is_refused(array: Array) -> None:
    with pytest.raises(TensorTypeError, match=r"An array of .* cannot be sent.*float32") as caught:
        to_proto(array)
    assert caught.value.code == "client.tensor-type"


def test_objects_that_are_no_strings_are_refused() -> None:
    with pytest.raises(TensorTypeError, match="expected only str or bytes, got int"):
        to_proto(np.array(["a", 1], dtype=object))


def test_an_array_that_fits_no_message_is_refused() -> None:
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.float64), (2**28,), (0,))
    with raises(ClientCode.TENSOR_TOO_LARGE, match="smaller batch") as caught:
        to_proto(huge)
    assert caught.value.code == "client.tensor-too-large"


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (
            TensorProto(dtype=types.DT_FLOAT, tensor_shape=shape(2), tensor_content=b"1234"),
            "expected 8 bytes for its shape, got 4",
        ),
        (TensorProto(dtype=types.DT_FLOAT, tensor_shape=shape(1), float_val=[1, 2]), "at most 1 for its shape, got 2"),
        (TensorProto(dtype=types.DT_FLOAT, tensor_shape=shape(-1)), "has the invalid shape"),
        (TensorProto(dtype=types.DT_FLOAT, tensor_shape=shape(2**40), float_val=[1]), "has the invalid shape"),
        (
            TensorProto(dtype=types.DT_STRING, tensor_shape=shape(2**30), string_val=[b"a"]),
            "expected at most 2147483647 bytes",
        ),
        (
            TensorProto(dtype=types.DT_DOUBLE, tensor_shape=shape(2**30), double_val=[1]),
            "expected at most 2147483647 bytes",
        ),
        (TensorProto(dtype=types.DT_FLOAT, tensor_shape=TensorShapeProto(unknown_rank=True)), "has the invalid shape"),
        (TensorProto(tensor_shape=shape(1)), "the unknown type 0"),
        (TensorProto(dtype=types.DT_INT8, tensor_shape=shape(1), int_val=[128]), "outside the range of its type int8"),
        (
            TensorProto(dtype=types.DT_COMPLEX64, tensor_shape=shape(2), scomplex_val=[1, 2, 3]),
            "expected pairs of numbers, got 3",
        ),
        (
            TensorProto(dtype=types.DT_STRING, tensor_shape=shape(2), tensor_content=b"\x01\x02ab"),
            "expected the data of 2 strings",
        ),
        (
            TensorProto(dtype=types.DT_STRING, tensor_shape=shape(2), tensor_content=b"\x80"),
            "expected the data of 2 strings",
        ),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(tensor: TensorProto, message: str) -> None:
    with raises(ClientCode.TENSOR_MALFORMED, match=message) as caught:
        from_proto(tensor)
    assert caught.value.code == "client.tensor-malformed"


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    tensor = TensorProto(dtype=types.DT_STRING, tensor_shape=shape(2), tensor_content=raw)
    try:
        assert from_proto(tensor).shape == (2,)
    except UnavailableError as error:
        if error.code != ClientCode.TENSOR_MALFORMED:
            raise


def test_types_are_named_as_numpy_names_them() -> None:
    assert data_type_name(types.DT_HALF) == "float16"
    assert data_type_name(types.DT_STRING) == "string"
    assert data_type_name(types.DT_BFLOAT16) == "bfloat16"
    assert data_type_name(types.DT_INVALID) == "type 0"
    assert tensors.MAX_BYTES == 2**31 - 1


@pytest.mark.parametrize("sizes", [[1] * 65, [0, 2**62, 2**62], [2**31, 0]])
def test_a_shape_that_numpy_cannot_have_is_refused(sizes: list[int]) -> None:
    for data_type in (types.DT_FLOAT, types.DT_STRING):
        with raises(ClientCode.TENSOR_MALFORMED, match="A tensor in the reply has ") as caught:
            from_proto(TensorProto(dtype=data_type, tensor_shape=shape(*sizes)))
        assert len(str(caught.value)) < 200


def test_a_length_of_a_string_is_a_varint_of_ten_bytes() -> None:
    tensor = TensorProto(dtype=types.DT_STRING, tensor_shape=shape(1), tensor_content=b"\xff" * 12 + b"\x01")
    reads = 0

    class Counted(bytes):
        def __getitem__(self, index: Any) -> Any:
            nonlocal reads
            reads += 1
            return super().__getitem__(index)

    with raises(ClientCode.TENSOR_MALFORMED, match="expected the data of 1 strings"):
        tensors._content_strings(Counted(tensor.tensor_content), 1)
    assert reads < 2 * 11  # a long run of such bytes would make a number of as many digits, at quadratic cost


def test_a_string_that_is_no_unicode_text_is_refused() -> None:
    with pytest.raises(TensorTypeError, match="not valid Unicode text") as caught:
        to_proto(np.array(["\ud800"], dtype=object))
    assert caught.value.hint == "Send it as bytes."
