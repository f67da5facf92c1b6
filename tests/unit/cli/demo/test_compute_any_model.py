"""TensorFlow's answers as a reference, for models of every kind that people serve."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.harness.errors import raises

from sealserve.cli.codes import CliCode
from sealserve.cli.demo.comparison import Reference, compute
from sealserve.cli.demo.local_model import ModelFailsError
from sealserve.cli.generated_input import TensorInputError

pytestmark = pytest.mark.tensorflow

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save a function of TensorFlow as a model; its specifications are types, or types with shapes."""
    import tensorflow as tf  # noqa: PLC0415  # importing it takes seconds

    def write(function: Callable[..., Any], *, state: Any = None, **specs: Any) -> Path:
        module = tf.Module()
        module.state = state
        arguments = {
            name: tf.TensorSpec(spec[1], spec[0], name)
            if isinstance(spec, tuple)
            else tf.TensorSpec([None], spec, name)
            for name, spec in specs.items()
        }
        signature = tf.function(function).get_concrete_function(**arguments)
        tf.saved_model.save(module, str(tmp_path / "model"), signatures={"serving_default": signature})
        return tmp_path / "model"

    return write


def said(reference: Reference) -> str:
    return "\n".join(reference.limits())


def wrong(reference: Reference, number: int, **outputs: Any) -> str:
    changed = {**reference.answers[number], **{name: np.asarray(value) for name, value in outputs.items()}}
    with raises(CliCode.DEMO_WRONG_ANSWER) as caught:
        reference.check(number, changed)
    return caught.value.message


def test_labels_are_compared_exactly(save: Save) -> None:
    import tensorflow as tf  # noqa: PLC0415

    def label(x: Any) -> Any:
        best = tf.argmax(x, axis=-1)
        return {"index": best, "name": tf.gather(tf.constant(["cat", "dog", "owl", "fox"]), best)}

    reference = compute(save(label, x=(tf.float32, [None, 4])), 20)
    assert sorted(reference.exact) == ["index", "name"]
    assert 1 < (reference.distinct or 0) <= 4
    assert "compared exactly: index, name" in said(reference)
    assert f"{reference.distinct} different answers to 20 requests" in said(reference)
    assert reference.check(3, reference.answers[3]) == 0
    assert "at most 0, got" in wrong(reference, 3, index=reference.answers[3]["index"] + 1)
    assert "at most 0, got" in wrong(reference, 3, name=np.array([b"cow"], object))
    assert reference.verdict(20, 0.0) == "20 of 20 equal TensorFlow's own exactly"


def test_labels_beside_scores(save: Save) -> None:
    import tensorflow as tf  # noqa: PLC0415

    def both(x: Any) -> Any:
        return {"label": tf.argmax(x, axis=-1) * 1_000_000, "scores": tf.nn.softmax(x)}

    reference = compute(save(both, x=(tf.float32, [None, 4])), 10)
    assert (reference.exact, reference.near) == (["label"], ["scores"])
    assert "at most 0, got" in wrong(reference, 0, label=reference.answers[0]["label"] + 1)
    wrong(reference, 0, scores=reference.answers[1]["scores"])


def test_the_same_label_each_time_is_told(save: Save) -> None:
    import tensorflow as tf  # noqa: PLC0415

    reference = compute(save(lambda x: {"label": tf.cast(x[:, 0] * 0, tf.int64) + 7}, x=(tf.float32, [None, 4])), 5)
    assert "the comparison cannot detect that two answers were interchanged" in said(reference)
    wrong(reference, 0, label=[8])


def test_large_integers_are_not_compared_as_fractions(save: Save) -> None:
    import tensorflow as tf  # noqa: PLC0415

    reference = compute(save(lambda x: {"id": x + 2**60}, x=tf.int64), 5)
    wrong(reference, 0, id=reference.answers[0]["id"] + 1)


def test_a_random_output_is_said_to_be_so_and_the_others_are_compared(save: Save) -> None:
    import tensorflow as tf  # noqa: PLC0415

    def noisy(x: Any) -> Any:
        return {"noisy": x + tf.random.normal(tf.shape(x)), "plain": x * 2}

    reference = compute(save(noisy, x=tf.float32), 10)
    assert reference.changing == {"noisy"}
    assert "not comparable: noisy, which changes from call to call" in said(reference)
    reference.check(0, {**reference.answers[0], "noisy": np.array([9.0], np.float32)})
    message = wrong(reference, 0, noisy=np.array([9], np.int64))
    assert message.endswith("the wrong type in the output noisy: expected float32, got int64.")
    wrong(reference, 0, plain=[99.0])


def test_a_model_that_is_random_alone(save: Save) -> None:
    import tensorflow as tf  # noqa: PLC0415

    reference = compute(save(lambda x: {"y": x + tf.random.normal(tf.shape(x))}, x=tf.float32), 5)
    assert (reference.exact, reference.near) == ([], [])
    assert reference.check(0, {"y": np.array([5.0], np.float32)}) == 0
    assert "5 of 5 have TensorFlow's outputs and types" in reference.verdict(5, 0.0)


def test_a_model_with_a_state(save: Save) -> None:
    import tensorflow as tf  # noqa: PLC0415

    counter = tf.Variable(0, dtype=tf.int64)
    reference = compute(
        save(lambda x: {"count": counter.assign_add(1), "double": x * 2}, state=counter, x=tf.float32), 5
    )
    assert reference.changing == {"count"}
    assert reference.near == ["double"]


def test_the_counter_of_tensorflow_serving(tmp_path: Path) -> None:
    """A TF1 model without a default signature, with a signature that does not have inputs."""
    import tensorflow as tf  # noqa: PLC0415

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        counter = v1.Variable(0.0, name="counter", use_resource=False)
        delta = v1.placeholder(tf.float32, [], "delta")
        increased = v1.assign_add(counter, delta)
        session.run(v1.global_variables_initializer())
        utils = v1.saved_model.signature_def_utils
        info = v1.saved_model.utils.build_tensor_info
        method = "tensorflow/serving/predict"
        builder = v1.saved_model.Builder(str(tmp_path / "counter"))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "get": utils.build_signature_def({}, {"output": info(counter.read_value())}, method),
                "incr_by": utils.build_signature_def({"delta": info(delta)}, {"output": info(increased)}, method),
            },
        )
        builder.save()
    reference = compute(tmp_path / "counter", 5)
    assert reference.signature == "incr_by"
    assert reference.changing == {"output"}


def test_texts(save: Save) -> None:
    import tensorflow as tf  # noqa: PLC0415

    reference = compute(save(lambda text: {"length": tf.strings.length(text), "copy": text}, text=tf.string), 10)
    assert all(value["text"][0] for value in reference.inputs)
    assert (reference.distinct or 0) > 1


def test_words_that_the_model_knows(save: Save) -> None:
    import tensorflow as tf  # noqa: PLC0415

    words = [f"entry{number}" for number in range(50)]
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(words, list(range(50))), -1)
    reference = compute(
        save(lambda text: {"id": table.lookup(tf.strings.substr(text, 0, 6))}, state=table, text=tf.string), 10
    )
    assert set(reference.inputs[0]["text"][0].decode().split()) <= set(words)


def test_numbers_as_text(save: Save) -> None:
    import tensorflow as tf  # noqa: PLC0415

    reference = compute(save(lambda text: {"value": tf.strings.to_number(text)}, text=tf.string), 5)
    assert reference.distinct == 5


def test_pictures(save: Save) -> None:
    import tensorflow as tf  # noqa: PLC0415

    def mean(image_bytes: Any) -> Any:
        decode = lambda content: tf.reduce_mean(tf.cast(tf.io.decode_jpeg(content, 3), tf.float32))  # noqa: E731
        return {"mean": tf.map_fn(decode, image_bytes, fn_output_signature=tf.float32)}

    assert compute(save(mean, image_bytes=tf.string), 5).distinct == 5


@pytest.mark.parametrize("single", [False, True])
def test_serialised_examples(save: Save, single: bool) -> None:
    import tensorflow as tf  # noqa: PLC0415

    features = {
        "weight": tf.io.FixedLenFeature([3], tf.float32),
        "age": tf.io.FixedLenFeature([], tf.int64),
        "city": tf.io.VarLenFeature(tf.string),
    }

    def parse(examples: Any) -> Any:
        if single:
            found = tf.io.parse_single_example(examples[0], features)
            return {"sum": tf.reduce_sum(found["weight"], keepdims=True)}
        found = tf.io.parse_example(examples, features)
        return {"sum": tf.reduce_sum(found["weight"], axis=-1), "cities": tf.sparse.to_dense(found["city"])}

    reference = compute(save(parse, examples=tf.string), 5)
    assert reference.distinct == 5


def test_a_picture_of_any_size(save: Save) -> None:
    import tensorflow as tf  # noqa: PLC0415

    def network(image: Any) -> Any:
        small = tf.nn.max_pool2d(tf.nn.conv2d(image, tf.ones([7, 7, 3, 2]), 2, "VALID"), 8, 8, "VALID")
        return {"y": tf.reduce_mean(small, [1, 2])}

    reference = compute(save(network, image=(tf.float32, [None, None, None, 3])), 3)
    assert reference.inputs[0]["image"].shape == (1, 224, 224, 3)


def test_what_tensorflow_refuses_is_not_our_bug(save: Save) -> None:
    import tensorflow as tf  # noqa: PLC0415

    def picky(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_greater(x, 5.0, "too small")]):
            return {"y": x * 2}

    folder = save(picky, x=tf.float32)
    with pytest.raises(ModelFailsError, match="TensorFlow cannot run the signature 'serving_default' on") as caught:
        compute(folder, 3)
    assert (caught.value.code, caught.value.exit_status) == ("demo.model-fails", 2)
    assert "--input NAME=VALUE" in str(caught.value.hint)
    given = compute(folder, 4, ["x=[6, 7, 8]"])
    assert [value["y"].tolist() for value in given.answers] == [[12, 14, 16], [14, 16, 12], [16, 12, 14], [12, 14, 16]]
    assert "3 different answers to 4 requests" in said(given)


def test_one_given_input_is_compared_and_said_to_prove_less(save: Save) -> None:
    import tensorflow as tf  # noqa: PLC0415

    folder = save(lambda x: {"y": x * 2}, x=tf.float32)
    given = compute(folder, 4, ["x=[1.5]"])
    assert "all answers are the same" in said(given)
    assert wrong(given, 0, y=[3.1])
    with pytest.raises(TensorInputError, match="with the name of one of the model's inputs"):
        compute(folder, 4, ["z=1"])


def test_a_model_that_cannot_be_loaded(save: Save) -> None:
    import tensorflow as tf  # noqa: PLC0415

    folder = save(lambda x: {"y": x * 2}, state=tf.Variable([1.0] * 100), x=tf.float32)
    (folder / "variables/variables.index").write_bytes(b"nothing")
    with pytest.raises(ModelFailsError, match="TensorFlow cannot load the model: "):
        compute(folder, 3)


def test_answers_that_differ_by_rounding_alone_are_the_same(save: Save) -> None:
    import tensorflow as tf  # noqa: PLC0415

    folder = save(lambda x: {"y": 1.0 + x * 1e-7}, x=tf.float32)
    with raises(CliCode.DEMO_NOT_COMPARABLE):
        compute(folder, 5)


def test_bfloat16(save: Save) -> None:
    import tensorflow as tf  # noqa: PLC0415

    reference = compute(save(lambda x: {"y": x * 2}, x=tf.bfloat16), 5)
    assert reference.answers[0]["y"].dtype == np.float32  # as a client gets it
