"""Our serialised `tf.Example`s are what TensorFlow reads."""

import pytest

from sealserve.client.examples import from_json, serialize

pytestmark = pytest.mark.tensorflow


def test_tensorflow_reads_what_we_write() -> None:
    from tensorflow.core.example.example_pb2 import Example  # noqa: PLC0415  # importing it takes seconds

    features = {"é": [b"a", b"\xff", b"x" * 300], "f": [1.5, -2.0], "i": [0, -1, 2**63 - 1, -(2**63)], "none": []}
    found = Example.FromString(serialize(features)).features.feature  # type: ignore[arg-type]
    assert list(found["é"].bytes_list.value) == features["é"]
    assert list(found["f"].float_list.value) == features["f"]
    assert list(found["i"].int64_list.value) == features["i"]
    assert found["none"].WhichOneof("kind") is None
    assert set(found) == set(features)
    mixed = Example.FromString(from_json({"n": [1, 2.5]})).features.feature
    assert list(mixed["n"].float_list.value) == [1.0, 2.5]
