"""Tiny models, created once per test process. Their arithmetic gives the expected answers."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness.served import transport  # noqa: F401  # a fixture

from sealserve.serving.command_line import options
from sealserve.serving.command_line.options import ServerOptions
from sealserve.serving.file_list import FileList
from sealserve.serving.lifecycle import versions
from sealserve.serving.lifecycle.loading import Loader
from sealserve.serving.servables import Servable, Servables


def server_options(base_path: Path, *flags: str, name: str = "m") -> ServerOptions:
    chosen = options.parse([f"--model_base_path={base_path}", f"--model_name={name}", "--dangerous_plaintext", *flags])
    assert isinstance(chosen, ServerOptions)
    return chosen


def load(chosen: ServerOptions, files: FileList | None = None) -> Servable:
    """Return the latest version of the one model of the options."""
    found = versions.available(chosen.model_base_path, files)
    return Loader(options=chosen, files=files).load(chosen.flags.model_name, max(found), found[max(found)])


def _save(folder: Path) -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # as in the server; the library reads it once
    import tensorflow as tf  # noqa: PLC0415  # seconds, and only here

    class Models(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
        def __init__(self) -> None:
            super().__init__()
            self.half = tf.Variable(0.5)
            self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2]), -1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def half_plus_two(self, x: Any) -> dict[str, Any]:
            return {"y": self.half * x + 2.0}

        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[tf.TensorSpec([None, 2], tf.float32, name="a"), tf.TensorSpec([], tf.float32, name="b")]
        )
        def two_inputs(self, a: Any, b: Any) -> dict[str, Any]:
            return {"sum": a + b, "product": a * b}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])  # type: ignore[untyped-decorator]
        def words(self, words: Any) -> dict[str, Any]:
            return {"twice": tf.strings.join([words, words]), "known": self.table.lookup(words)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="index")])  # type: ignore[untyped-decorator]
        def pick(self, index: Any) -> dict[str, Any]:
            return {"picked": tf.gather(tf.constant([1.0, 2.0, 3.0]), index)}

        @tf.function(input_signature=[tf.TensorSpec(None, tf.string, name="text")])  # type: ignore[untyped-decorator]
        def number(self, text: Any) -> dict[str, Any]:
            return {"number": tf.strings.to_number(text)}

    models = Models()
    signatures = {
        "serving_default": models.half_plus_two,
        "two_inputs": models.two_inputs,
        "words": models.words,
        "pick": models.pick,
        "number": models.number,
    }
    tf.saved_model.save(models, str(folder / "several" / "3"), signatures=signatures)
    _save_graphs(tf, folder)


def _save_graphs(tf: Any, folder: Path) -> None:
    """Signatures that only TensorFlow 1's builder can create: one identity per type, a default, a sparse input."""
    v1 = tf.compat.v1
    types = (
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128", "bool", "string"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
    signatures = {}
    with tf.Graph().as_default(), v1.Session() as session:
        for name in types:
            x = v1.placeholder(name, None, f"in_{name}")
            y = tf.identity(x, f"out_{name}")
            signatures[name] = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        a, b = v1.placeholder(tf.float32, [None], "a"), v1.placeholder(tf.float32, [], "b")
        signatures["with_default"] = v1.saved_model.predict_signature_def({"a": a, "b": b}, {"sum": tf.add(a, b)})
        signatures["with_default"].defaults["b"].CopyFrom(tf.make_tensor_proto(10.0))
        sparse = v1.sparse_placeholder(tf.float32, name="sparse")
        dense = tf.sparse.to_dense(sparse)
        info = v1.saved_model.build_tensor_info
        signatures["sparse"] = v1.saved_model.build_signature_def(
            {"x": info(sparse)}, {"y": info(dense)}, "tensorflow/serving/predict"
        )
        builder = v1.saved_model.Builder(str(folder / "types" / "1"))
        builder.add_meta_graph_and_variables(session, ["serve", "other"], signature_def_map=signatures)
        builder.save()


def _save_examples(folder: Path) -> None:
    """Signatures for lists of examples that compute half of x plus two, as in TensorFlow Serving's test models."""
    import tensorflow as tf  # noqa: PLC0415  # seconds, and only here

    v1 = tf.compat.v1
    kinds = {"classify": v1.saved_model.signature_constants.CLASSIFY_METHOD_NAME}
    regress = v1.saved_model.signature_constants.REGRESS_METHOD_NAME
    with tf.Graph().as_default(), v1.Session() as session:
        serialised = v1.placeholder(tf.string, [None], "examples")
        features = {"x": tf.io.FixedLenFeature([1], tf.float32), "w": tf.io.FixedLenFeature([1], tf.float32, [0.0])}
        x = tf.io.parse_example(serialised, features)
        y = tf.add(x["x"] * 0.5 + 2.0, x["w"], "y")
        classes = tf.tile(tf.constant([["low", "high"]]), [tf.shape(y)[0], 1], "classes")
        scores = tf.concat([y, -y], 1, "scores")
        info, make = v1.saved_model.build_tensor_info, v1.saved_model.build_signature_def
        inputs = {"inputs": info(serialised)}

        def outputs(**tensors: Any) -> dict[str, Any]:
            return {alias: info(tensor) for alias, tensor in tensors.items()}

        other = v1.placeholder(tf.float32, [None], "other")
        signatures = {
            "serving_default": make(inputs, outputs(outputs=y), regress),
            "vector": make(inputs, outputs(outputs=tf.reshape(y, [-1])), regress),
            "scores": make(inputs, outputs(scores=y), kinds["classify"]),
            "classes": make(inputs, outputs(classes=classes), kinds["classify"]),
            "both": make(inputs, outputs(classes=classes, scores=scores), kinds["classify"]),
            "uneven": make(inputs, outputs(classes=classes, scores=y), kinds["classify"]),
            "wide": make(inputs, outputs(outputs=scores), regress),
            "fewer": make(inputs, outputs(outputs=y[:1]), regress),
            "whole": make(inputs, outputs(outputs=tf.cast(y, tf.int32)), regress),
            "flat": make(inputs, outputs(scores=tf.reshape(y, [-1])), kinds["classify"]),
            "doubles": make(inputs, outputs(scores=tf.cast(y, tf.float64)), kinds["classify"]),
            "numbers": make({"inputs": info(other)}, outputs(outputs=other), regress),
            "two": make({**inputs, "more": info(other)}, outputs(outputs=y), regress),
            "none": make(inputs, outputs(a=y, b=y, c=y), kinds["classify"]),
            "named": make({"x": info(serialised)}, outputs(outputs=y), regress),
            "unnamed": make(inputs, outputs(a=y), kinds["classify"]),
        }
        builder = v1.saved_model.Builder(str(folder / "examples" / "5"))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``several/3`` (half_plus_two and others), ``types/1`` (an identity for each type), ``examples/5``."""
    folder = tmp_path_factory.mktemp("models")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _save(folder)
        _save_examples(folder)
    return folder


@pytest.fixture(scope="session")
def servable(models: Path) -> Iterator[Servable]:
    loaded = load(server_options(models / "several"))
    yield loaded
    loaded.session.close()


@pytest.fixture(scope="session")
def servables(servable: Servable) -> Servables:
    table = Servables()
    table.publish(servable)
    return table


@pytest.fixture(scope="session")
def types(models: Path) -> Iterator[Servables]:
    loaded = load(server_options(models / "types", "--saved_model_tags=other,serve", name="types"))
    table = Servables()
    table.publish(loaded)
    yield table
    loaded.session.close()


@pytest.fixture(scope="session")
def examples(models: Path) -> Iterator[Servables]:
    loaded = load(server_options(models / "examples", name="examples"))
    table = Servables()
    table.publish(loaded)
    yield table
    loaded.session.close()
