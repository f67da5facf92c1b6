"""TensorFlow's own messages leave the process only if they contain no values."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.serving.conftest import load, server_options

from sealserve.serving.request_errors import Status
from sealserve.serving.runtime.kernel_errors import told
from sealserve.serving.runtime.kernel_texts import TEXTS
from sealserve.serving.runtime.libtensorflow import TensorFlowError, library
from sealserve.serving.runtime.tensors import Tensor
from sealserve.serving.servables import Servable

pytestmark = pytest.mark.tensorflow

CANARY = 771177


def example(tf: Any, **features: Any) -> bytes:
    kinds = {int: "int64_list", float: "float_list", bytes: "bytes_list"}
    message = tf.train.Example()
    for name, value in features.items():
        getattr(message.features.feature[name], kinds[type(value)]).value.append(value)
    return bytes(message.SerializeToString())


def zeros(*shape: int) -> Any:
    return np.full(shape, CANARY, np.float32)


def asserted(tf: Any, a: Any) -> Any:
    with tf.control_dependencies([tf.compat.v1.Assert(tf.reduce_all(a < 0), [a, "must be negative"])]):
        return tf.identity(a)


def unset(tf: Any) -> Any:
    variable = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="kept")
    return tf.raw_ops.ReadVariableOp(resource=variable, dtype=tf.float32)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Servable:
    import tensorflow as tf  # noqa: PLC0415  # seconds, and only here

    folder = tmp_path_factory.mktemp("kernels")
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        a, b = v1.placeholder(tf.float32, None, "a"), v1.placeholder(tf.float32, None, "b")
        index, text = v1.placeholder(tf.int32, None, "index"), v1.placeholder(tf.string, None, "text")
        outputs = {
            "add": ({"a": a, "b": b}, a + b),
            "matmul": ({"a": a, "b": b}, tf.raw_ops.MatMul(a=a, b=b)),
            "batch": ({"a": a, "b": b}, tf.raw_ops.BatchMatMulV2(x=a, y=b)),
            "concat": ({"a": a, "b": b}, tf.concat([a, b], 0)),
            "pack": ({"a": a, "b": b}, tf.stack([a, b])),
            "reshape": ({"a": a, "index": index}, tf.reshape(a, index)),
            "gather": ({"a": a, "index": index}, tf.gather(a, index)),
            "gather_nd": ({"a": a, "index": index}, tf.gather_nd(a, index)),
            "number": ({"text": text}, tf.strings.to_number(text)),
            "raw": ({"text": text}, tf.io.decode_raw(text, tf.float32)),
            "image": ({"text": text}, tf.io.decode_jpeg(text)),
            "parse": ({"text": text}, tf.io.parse_example(text, {"f": tf.io.FixedLenFeature([2], tf.float32)})["f"]),
            "base64": ({"text": text}, tf.io.decode_base64(text)),
            "column": (
                {"a": a},
                tf.raw_ops.StridedSlice(
                    input=a, begin=[0, 1], end=[0, 2], strides=[1, 1], begin_mask=1, end_mask=1, shrink_axis_mask=2
                ),
            ),
            "split": ({"a": a}, tf.split(a, 2, 1)[0]),
            "assert": ({"a": a}, asserted(tf, a)),
            "resize": ({"index": index}, tf.image.resize(tf.ones([1, 2, 2, 3]), index)),
            "number_of": ({"index": index}, tf.reduce_sum(tf.ones([2, 2]), index)),
            "variable": ({"a": a}, a + unset(tf)),
            "table": (
                {"text": text},
                tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1.0]), -1.0).lookup(text),
            ),
            "many": ({"text": text}, tf.strings.as_string(tf.strings.to_number(text, tf.int64))),
            "quoted": ({"text": text}, tf.strings.to_hash_bucket_fast(tf.strings.regex_replace(text, text, ""), 9)),
        }
        signatures = {
            name: v1.saved_model.predict_signature_def(inputs, {"y": tf.identity(output)})
            for name, (inputs, output) in outputs.items()
        }
        builder = v1.saved_model.Builder(str(folder / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()
    return load(server_options(folder))


CASES: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("add", {"a": zeros(2, 3), "b": zeros(4)}, "Incompatible shapes: [2,3] vs. [4]"),
    ("matmul", {"a": zeros(2, 3), "b": zeros(4, 5)}, "Matrix size-incompatible: In[0]: [2,3], In[1]: [4,5]"),
    ("matmul", {"a": zeros(2), "b": zeros(4, 5)}, "In[0] ndims must be >= 2"),
    ("batch", {"a": zeros(2), "b": zeros(4, 5)}, "In[0] ndims must be >= 2: 1"),
    (
        "concat",
        {"a": zeros(2, 3), "b": zeros(4, 5)},
        "ConcatOp : Dimension 1 in both shapes must be equal: shape[0] = [2,3] vs. shape[1] = [4,5]",
    ),
    (
        "concat",
        {"a": zeros(2), "b": zeros(4, 5)},
        "ConcatOp : Ranks of all input tensors should match: shape[0] = [2] vs. shape[1] = [4,5]",
    ),
    ("concat", {"a": zeros(), "b": zeros()}, "ConcatOp : Can't concatenate scalars (use tf.stack instead)"),
    (
        "pack",
        {"a": zeros(2), "b": zeros(3)},
        "Shapes of all inputs must match: values[0].shape = [2] != values[1].shape = [3]",
    ),
    (
        "reshape",
        {"a": zeros(3), "index": np.array([CANARY], np.int32)},
        "Input to reshape is a tensor with 3 values, but the requested shape <hidden>",
    ),
    ("gather", {"a": zeros(3), "index": np.array([CANARY], np.int32)}, "indices<hidden> is not in [0, 3)"),
    (
        "gather_nd",
        {"a": zeros(3), "index": np.array([[CANARY]], np.int32)},
        "indices<hidden> does not index into param shape [3], node name: GatherNd",
    ),
    ("number", {"text": f"{CANARY} is none"}, "StringToNumberOp could not correctly convert string: <hidden>"),
    (
        "number",
        {"text": f"{CANARY}\n\t [[{{{{node x}}}}]]"},
        "StringToNumberOp could not correctly convert string: <hidden>",
    ),
    ("raw", {"text": "123"}, "Input to DecodeRaw has length 3 that is not a multiple of 4, the size of float"),
    (
        "image",
        {"text": str(CANARY)},
        "Unknown image file format. One of JPEG, JPEG XL, PNG, GIF, BMP, WebP required.",
    ),
    ("image", {"text": [str(CANARY)]}, "`contents` must be scalar but got shape[1]"),
    ("parse", {"text": [f"{CANARY}"]}, "Could not parse example input, value: '<hidden>'"),
    (
        "parse",
        {"text": lambda tf: [example(tf, g=1.0)]},
        "Name: <unknown>, Feature: f (data type: float) is required but could not be found.",
    ),
    (
        "parse",
        {"text": lambda tf: [example(tf, f=b"771177")]},
        "Name: <unknown>, Key: f, Index: 0.  Data types don't match. Data type: string but expected type: float",
    ),
    (
        "parse",
        {"text": lambda tf: [example(tf, f=float(CANARY))]},
        "Name: <unknown>, Key: f, Index: 0.  Number of float values != expected.  Values size: 1 but output shape: [2]",
    ),
    ("quoted", {"text": f"({CANARY}"}, "Invalid pattern: <hidden>"),
    ("base64", {"text": f"%%%{CANARY}"}, "Invalid character found in base64."),
    ("column", {"a": zeros(2, 1)}, "slice index <hidden> of dimension 1 out of bounds."),
    (
        "split",
        {"a": zeros(2, 3)},
        "Number of ways to split should evenly divide the split dimension, but got split_dim 1",
    ),
    ("assert", {"a": zeros(2)}, "assertion failed: <hidden>"),
    ("resize", {"index": np.array([0, CANARY], np.int32)}, "output dimensions must be positive"),
    (
        "gather_nd",
        {"a": zeros(0), "index": np.array([[0]], np.int32)},
        "Requested more than 0 entries, but params is empty.",
    ),
    (
        "number_of",
        {"index": np.array(CANARY, np.int32)},
        "Invalid reduction dimension (<hidden> for input with 2 dimen",
    ),
    ("variable", {"a": zeros(2)}, "Could not find variable kept. This could mean that the variable has been deleted."),
    ("table", {"text": str(CANARY)}, "Table not initialized."),
)


def failure(servable: Servable, signature: str, values: dict[str, Any]) -> TensorFlowError:
    import tensorflow as tf  # noqa: PLC0415  # the models' fixture has paid for it

    tensors = {
        alias: Tensor.from_proto(
            library(), tf.make_tensor_proto(value(tf) if callable(value) else value).SerializeToString()
        )
        for alias, value in values.items()
    }
    with pytest.raises(TensorFlowError) as caught:
        servable.signatures[signature].run(servable.session, tensors, ["y"], timeout=None)
    return caught.value


@pytest.mark.parametrize(("signature", "values", "text"), CASES, ids=range(len(CASES)))
def test_a_text_is_tensorflows_but_for_values(
    kernels: Servable, signature: str, values: dict[str, Any], text: str
) -> None:
    error = failure(kernels, signature, values)
    message = told(error, signature)
    assert message.startswith(text)
    assert str(CANARY) not in message
    assert error.status in {Status.INVALID_ARGUMENT, Status.FAILED_PRECONDITION}
    assert "\n\t [[" in message.removeprefix(text) or " at " in message


def test_the_rest_of_a_text_is_where_it_happened_and_nothing_else() -> None:
    where = "\n\t [[{{function_node __inference_pick_71}}{{node GatherV2}}]]"
    error = TensorFlowError(Status.INVALID_ARGUMENT, f"indices[0] = 7 is not in [0, 3){where}")
    assert told(error, "s") == f"indices<hidden> is not in [0, 3){where}"
    for text in (
        f"Incompatible shapes: [4] vs. [3] {CANARY}{where}",
        f"Something else: {CANARY}{where}",
        f"Something else: {CANARY}\n\t [[{{{{node {CANARY} (}}}}]]{where}",
        f"Something else:\n\t [[{{{{node {CANARY}}}}}]]{where}",
    ):
        message = told(TensorFlowError(Status.INTERNAL, text), "s")
        assert message == "TensorFlow could not compute the signature 's': INTERNAL at GatherV2"
    assert told(TensorFlowError(Status.INTERNAL, "unknown"), "s").endswith("'s': INTERNAL")


def test_names_that_python_and_grappler_give() -> None:
    texts = {
        "{{function_node __inference_<lambda>_607}}{{node add}}": "add",
        "{{function_node __inference_Model.<locals>.f_1}}{{node a/b}}": "a/b",
        "{{node a/All}}, {{node a/AssertGuard}}": "a/All, a/AssertGuard",
        "lambda/<lambda>": "lambda/<lambda>",
    }
    for line, name in texts.items():
        where = f"\n\t [[{line}]]"
        error = TensorFlowError(Status.INVALID_ARGUMENT, f"Incompatible shapes: [2] vs. [3]{where}")
        assert told(error, "s") == f"Incompatible shapes: [2] vs. [3]{where}"
        error = TensorFlowError(Status.INVALID_ARGUMENT, f"{CANARY}{where}")
        assert told(error, "s") == f"TensorFlow could not compute the signature 's': INVALID_ARGUMENT at {name}"


FILLERS = {"{shape}": "[2,?]", "{size}": "-3", "{name}": "a/b.c-1", "{device}": "/job:x/cpu:0", "{number}": "-771177"}


@pytest.mark.parametrize("text", TEXTS)
def test_each_text_hides_its_values_and_only_these(text: str) -> None:
    filled, expected = text, text
    for part, filler in {**FILLERS, "{value}": f"\n{CANARY} it's [1]"}.items():
        filled = filled.replace(part, filler)
        expected = expected.replace(part, "<hidden>" if part in {"{number}", "{value}"} else filler)
    assert told(TensorFlowError(Status.INVALID_ARGUMENT, filled), "s") == expected
    assert str(CANARY) not in expected


PARTS = st.text() | st.sampled_from(
    ["\n\t [[{{node x}}]]", "]] ", "'", " is not in [0, 3)", "[1,2]", " vs. [4]", "\x00"]
)
QUOTING = (
    "StringToNumberOp could not correctly convert string: {}",
    "Could not parse example input, value: '{}'",
    "indices[0] = {} is not in [0, 3)",
    "indices{} does not index into param shape [3], node name: GatherNd",
    "Input to reshape is a tensor with 3 values, but the requested shape {}",
    "Incompatible shapes: {} vs. [4]",
    "In[0] ndims must be >= 2: {}",
    "{}",
)


@given(text=st.sampled_from(QUOTING), around=st.lists(PARTS, max_size=4), position=st.integers(0, 4))
def test_whatever_stands_around_a_value_it_is_hidden(text: str, around: list[str], position: int) -> None:
    value = "".join([*around[:position], f"canary{CANARY}", *around[position:]])
    where = "\n\t [[{{node Model/Operation}}]]"
    message = told(TensorFlowError(Status.INVALID_ARGUMENT, text.format(value) + where), "s")
    assert str(CANARY) not in message
    assert "Model/Operation" in message
