"""Tensors: bytes are copied only after the sizes of both sides were compared."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.errors import raises

from sealserve.serving.request_errors import RequestCode, Status
from sealserve.serving.runtime.data_types import element_size, is_known, type_name, value_type
from sealserve.serving.runtime.libtensorflow import Library, library
from sealserve.serving.runtime.protos import DataType, TensorProto
from sealserve.serving.runtime.tensors import Tensor

pytestmark = pytest.mark.tensorflow

FLOAT, STRING, RESOURCE = (DataType.Value(name) for name in ("DT_FLOAT", "DT_STRING", "DT_RESOURCE"))


def floats(*shape: int) -> Tensor:
    return Tensor.from_bytes(library(), FLOAT, shape, [np.arange(np.prod(shape), dtype=np.float32).tobytes()])


def words(*values: bytes) -> Tensor:
    return Tensor.from_strings(library(), [len(values)], values)


class Watched:
    """A TensorFlow library that records its allocations, and can report wrong sizes."""

    def __init__(self, *, reported: int | None = None) -> None:
        self.allocated = 0
        self._reported = reported

    def __getattr__(self, name: str) -> Any:
        if name == "TF_AllocateTensor":
            self.allocated += 1
        if name == "TF_TensorByteSize" and self._reported is not None:
            return lambda _handle: self._reported
        return getattr(library(), name)


@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        ((2, 3), lambda: [floats(1, 3), floats(1, 4)]),  # more
        ((2, 4), lambda: [floats(1, 4), floats(1, 1)]),  # less: the rest would be uninitialized memory
        ((2, 2), lambda: [b"x" * 15]),
        ((2, 2), lambda: [b"x" * 17]),
        ((2, 2), list),
        ((0,), lambda: [b"x"]),
        ((2**40, 2**40), lambda: [b"x"]),
        ((-1, -4), lambda: [b"x" * 16]),
    ],
)
def test_parts_that_do_not_have_the_size_are_refused_before_anything_is_allocated(
    shape: tuple[int, ...], parts: Callable[[], list[Any]]
) -> None:
    watched: Any = Watched()
    with raises(RequestCode.TENSOR_SIZE) as caught:
        Tensor.from_bytes(watched, FLOAT, shape, parts())
    assert (caught.value.code, caught.value.status) == ("request.tensor-size", Status.INTERNAL)
    assert "does not match its parts" in caught.value.message or "cannot have the shape" in caught.value.message
    assert not watched.allocated


@pytest.mark.parametrize("shape", [(2**62, 2**62, 0), (2**63, 0), (0, 2**61, 2)])
def test_sizes_whose_product_overflows_are_refused_beside_a_zero(shape: tuple[int, ...]) -> None:
    with raises(RequestCode.TENSOR_SIZE, match="cannot have the shape"):
        Tensor.from_bytes(library(), DataType.Value("DT_FLOAT"), shape, [])


def test_parts_of_another_type_are_refused() -> None:
    integers = Tensor.from_bytes(library(), DataType.Value("DT_INT32"), [1], [b"abcd"])
    for dtype, parts in ((FLOAT, [integers]), (STRING, [b"x" * 24]), (STRING, [words(b"a")]), (FLOAT, [words(b"a")])):
        with raises(RequestCode.TENSOR_TYPE) as caught:
            Tensor.from_bytes(library(), dtype, [1], parts)
        assert caught.value.code == "request.tensor-type"


def test_a_size_that_tensorflow_does_not_have_is_never_read() -> None:
    short: Any = Watched(reported=11)
    for read in (
        Tensor.content,
        Tensor.memory,
        lambda tensor: tensor.rows(0, 1),
        lambda tensor: tensor.fill(TensorProto()),
    ):
        tensor = floats(3)
        tensor._library = short
        with raises(RequestCode.TENSOR_SIZE, match="is too small: expected 12 bytes, got 11"):
            read(tensor)
    strings = words(b"a", b"b")
    strings._library = short
    with raises(RequestCode.TENSOR_SIZE, match="is too small: expected 48 bytes, got 11"):
        strings.strings()


def test_memory_is_read_no_further_than_the_shape_goes() -> None:
    tensor, longer = floats(3), Watched(reported=2**30)
    tensor._library = longer  # type: ignore[assignment]
    assert tensor.content() == np.arange(3, dtype=np.float32).tobytes()


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (1, 0), (0, 4), (3, 4), (-3, -1)])
def test_rows_that_are_not_there(start: int, stop: int) -> None:
    for tensor in (floats(3, 2), words(b"a", b"b", b"c")):
        with raises(RequestCode.TENSOR_SIZE, match="does not have the rows from"):
            tensor.rows(start, stop)
    with raises(RequestCode.TENSOR_SIZE, match="does not have the rows from 0 to 0"):
        floats().rows(0, 0)


def test_only_tensors_with_like_rows_are_joined() -> None:
    for tensors in (
        [floats(1, 2), floats(1, 3)],
        [floats(1, 2), floats(2)],
        [floats(), floats()],
        [floats(1), words(b"a")],
    ):
        with raises(RequestCode.TENSOR_SIZE, match="cannot be joined"):
            Tensor.joined(library(), tensors)
    assert Tensor.joined(library(), [floats(2, 2), floats(1, 2), floats(0, 2)]).shape == (3, 2)
    assert Tensor.joined(library(), [words(b"a"), words(), words(b"b" * 40)]).strings() == [b"a", b"b" * 40]


def test_there_are_as_many_strings_as_elements() -> None:
    for shape, values in (([2], [b"a"]), ([1], [b"a", b"b"]), ([], []), ([-1, -1], [b"a"])):
        with raises(RequestCode.TENSOR_SIZE):
            Tensor.from_strings(library(), shape, values)


def test_addresses_of_strings_are_not_content() -> None:
    with raises(RequestCode.TENSOR_TYPE, match="contains addresses"):
        words(b"a").content()
    with raises(RequestCode.TENSOR_TYPE, match="does not contain strings"):
        floats(1).strings()


@given(
    rows=st.lists(st.integers(0, 5), min_size=1, max_size=6), width=st.integers(0, 4), cuts=st.lists(st.integers(0, 30))
)
def test_what_is_cut_apart_and_joined_is_what_it_was(rows: list[int], width: int, cuts: list[int]) -> None:
    numbers = np.random.default_rng(7).random((sum(rows), width)).astype(np.float32)
    whole = Tensor.from_bytes(library(), FLOAT, numbers.shape, [numbers.tobytes()])
    edges = sorted({0, sum(rows), *(cut for cut in cuts if cut <= sum(rows))})
    parts = [whole.rows(start, stop) for start, stop in itertools.pairwise(edges)] or [whole]
    assert Tensor.joined(library(), parts).content() == numbers.tobytes()


# --- types ------------------------------------------------------------------------------------------------------------

NARROW = {"DT_INT4": (-8, 7), "DT_UINT4": (0, 15), "DT_INT2": (-2, 1), "DT_UINT2": (0, 3)}
SMALL_FLOATS = ("E5M2", "E4M3FN", "E4M3FNUZ", "E4M3B11FNUZ", "E5M2FNUZ")


def returned(proto: TensorProto, *, as_content: bool = False) -> TensorProto:
    answer = TensorProto()
    Tensor.from_proto(library(), proto.SerializeToString()).fill(answer, as_content=as_content)
    return answer


@pytest.mark.parametrize("name", NARROW)
def test_integers_of_less_than_a_byte(name: str) -> None:
    least, greatest = NARROW[name]
    proto = TensorProto(dtype=DataType.Value(name), int_val=range(least, greatest + 1))
    proto.tensor_shape.dim.add(size=greatest - least + 1)
    assert returned(proto) == proto
    content = returned(proto, as_content=True)
    assert returned(content) == proto
    content.tensor_content = bytes(byte ^ 0x80 for byte in content.tensor_content)  # the upper bits are ignored
    assert returned(content) == proto


@pytest.mark.parametrize("name", [*(f"DT_FLOAT8_{kind}" for kind in SMALL_FLOATS), "DT_QINT16", "DT_QUINT16"])
def test_small_floats_and_quantized_integers(name: str) -> None:
    proto = TensorProto(dtype=DataType.Value(name))
    proto.tensor_shape.dim.add(size=3)
    if name.startswith("DT_Q"):
        proto.int_val.extend([0, 1, 32767])
    else:
        proto.float8_val = b"\x00\x3c\x40"
    assert returned(proto) == proto
    assert returned(returned(proto, as_content=True)) == proto


def test_four_bit_floats_travel_as_content() -> None:
    proto = TensorProto(dtype=DataType.Value("DT_FLOAT4_E2M1FN"), tensor_content=b"\x01\x02")
    proto.tensor_shape.dim.add(size=2)
    assert returned(proto, as_content=True) == proto


def test_names_and_sizes_of_types() -> None:
    assert (type_name(1), type_name(101), type_name(29), type_name(4711)) == ("float", "float_ref", "int4", "type 4711")
    assert (value_type(101), value_type(1), value_type(0)) == (1, 1, 0)
    assert not is_known(101)
    assert not is_known(RESOURCE)
    with raises(RequestCode.TENSOR_TYPE, match="type resource cannot be sent") as caught:
        element_size(RESOURCE)
    assert caught.value.status is Status.FAILED_PRECONDITION


def test_the_library_is_used_as_it_is() -> None:
    assert isinstance(library(), Library)
