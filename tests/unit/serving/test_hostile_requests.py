"""Deliberately hostile requests. Each is answered or rejected, and the process survives."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.harness.serialised import predict

from sealserve.serving.request_errors import RequestError
from sealserve.serving.runtime.protos import PredictRequest, PredictResponse, TensorProto
from sealserve.serving.servables import Servables

pytestmark = pytest.mark.tensorflow

NUMBERS = st.sampled_from([0, 1, -1, 5, 127, -(2**31), 2**31 - 1])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "tensor_content": st.binary(max_size=40),
    "float_val": st.lists(st.floats(width=32), max_size=4),
    "double_val": st.lists(st.floats(), max_size=4),
    "scomplex_val": st.lists(st.floats(width=32), max_size=5),
    "dcomplex_val": st.lists(st.floats(), max_size=5),
    "int_val": st.lists(NUMBERS, max_size=4),
    "half_val": st.lists(NUMBERS, max_size=4),
    "int64_val": st.lists(NUMBERS, max_size=4),
    "bool_val": st.lists(st.booleans(), max_size=4),
    "string_val": st.lists(st.binary(max_size=40), max_size=4),
}
SIZES = st.sampled_from([0, 1, 2, 3, -1, 70000, 2**62, 2**63 - 1])


@st.composite
def tensors(draw: st.DrawFn, dtype: int | None) -> TensorProto:
    proto = TensorProto(dtype=draw(st.integers(0, 30)) if dtype is None else dtype)
    for size in draw(st.lists(SIZES, max_size=4)):
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_shape.unknown_rank = draw(st.integers(0, 20)) == 0
    for field in draw(st.sets(st.sampled_from(sorted(VALUES)), max_size=2)):
        value = draw(VALUES[field])
        if isinstance(value, bytes):
            setattr(proto, field, value)
        else:
            getattr(proto, field).extend(value)
    return proto


def ask(servables: Servables, content: bytes) -> None:
    """Send a request. Every fault of the request must raise a `RequestError`."""
    with suppress(RequestError):
        PredictResponse.FromString(predict(servables, content, max_tensor_bytes=2**20, deadline=None))


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.parametrize("model", ["m", "types"])
def test_hostile_tensors(servables: Servables, types: Servables, model: str, data: st.DataObject) -> None:
    table = {"m": servables, "types": types}[model]
    (state,) = table.states(model).values()
    assert state.servable is not None
    name = data.draw(st.sampled_from(sorted(state.servable.definitions)))
    request = PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = name
    for alias, info in sorted(state.servable.definitions[name].inputs.items()):
        request.inputs[alias].CopyFrom(data.draw(tensors(data.draw(st.sampled_from([info.dtype, info.dtype, None])))))
    ask(table, request.SerializeToString())


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_hostile_bytes(servables: Servables, data: st.DataObject) -> None:
    request = PredictRequest(output_filter=["y"])
    request.model_spec.name = "m"
    request.inputs["x"].CopyFrom(TensorProto(dtype=1, float_val=[1.0, 2.0]))
    request.inputs["x"].tensor_shape.dim.add(size=2)
    content = bytearray(request.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    ask(servables, bytes(content[: data.draw(st.integers(0, len(content)))]))
    ask(servables, data.draw(st.binary(max_size=60)))
