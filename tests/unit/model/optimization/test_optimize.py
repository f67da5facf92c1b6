import gzip
import hashlib
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.harness.errors import raises
from tests.harness.optimized_models import Array, convolution_model, in_this_process, random, save
from tests.harness.tiny_model import saved_model

from sealserve.atomic_file import OutputExistsError
from sealserve.codes import SealserveCode
from sealserve.model.codes import ModelCode
from sealserve.model.convert import import_model
from sealserve.model.lint import lint
from sealserve.model.optimization.acceptance import Thresholds
from sealserve.model.optimization.given_inputs import read_arrays
from sealserve.model.optimization.optimize import Inputs, optimize
from sealserve.model.optimization.origin import SETTINGS, Origin
from sealserve.model.optimization.report import digest_of_model, find_report
from sealserve.model.saved_model import check_servable, describe, read_saved_model
from sealserve.model.tensorflow_import import import_tensorflow
from sealserve.serving_interface import OPTIMIZATION_FILE
from sealserve.terms import Precision

DIGITS = Path(__file__).parent / "digits" / "digits.csv.gz"
ALL = Thresholds(top1=0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return convolution_model(tmp_path / "original")


@pytest.fixture
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)


in_process = pytest.mark.usefixtures("_in_process")


def outputs(folder: Path, signature: str, **inputs: Any) -> dict[str, Array]:
    """Return the outputs of a signature, with TensorFlow's own loader."""
    tf = import_tensorflow()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(folder))
        definition = loaded.signature_def[signature]
        feeds = {definition.inputs[name].name: value for name, value in inputs.items()}
        result: dict[str, Array] = session.run({key: info.name for key, info in definition.outputs.items()}, feeds)
        return result


def nothing_left(folder: Path) -> bool:
    return not folder.exists() and not list(folder.parent.glob(".*.partial"))


@pytest.mark.tensorflow
@in_process
@pytest.mark.parametrize("precision", Precision)
def test_the_interface_stays_and_the_report_tells_what_changed(
    precision: Precision, model: Path, tmp_path: Path
) -> None:
    result = tmp_path / "models" / "result"
    steps: list[str] = []
    report = optimize(
        model, result, precision=precision, thresholds=ALL, instructions="amx", progress=steps.append,
        inputs=Inputs(seed=3, rows=10),
    )  # fmt: skip
    assert steps == ["loading TensorFlow", "rewriting the graph", "comparing the outputs", "checking the result"]
    assert check_servable(result).serving_graph.signatures == describe(model).serving_graph.signatures
    assert not lint(result).allowed
    assert report == find_report(result)
    assert (report.original, report.precision, report.instructions) == (digest_of_model(model), precision, "amx")
    assert (report.seed, report.given, report.skipped) == (3, (), {})
    assert report.changes.batch_norms == 2  # one for each signature
    assert report.changes.nodes_after < report.changes.nodes_before
    assert report.changes.bytes_after < report.changes.bytes_before
    assert bool(report.changes.bfloat16_nodes) is (precision is Precision.BFLOAT16)
    assert {(name, key) for name, key, _ in report.agreements} == {
        ("features", "features"), ("serving_default", "class"), ("serving_default", "scores"),
    }  # fmt: skip
    scores = report.signatures["serving_default"]["scores"]
    assert scores.rows == 10
    assert scores.top5 is not None
    assert 0 < (scores.max_difference or 0) < (1e-5 if precision is Precision.FLOAT32 else 0.1)


@pytest.mark.tensorflow
@in_process
def test_the_accuracy_of_a_trained_model_holds(tmp_path: Path) -> None:
    """Train on real digits, because random weights do not show whether accuracy holds."""
    keras = import_tensorflow().keras
    keras.utils.set_random_seed(0)
    with gzip.open(DIGITS) as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
    pictures, digits = rows[:, :64].reshape(-1, 8, 8, 1) / 16, rows[:, 64].astype(np.int64)
    layers = keras.layers
    network = keras.Sequential([
        keras.Input((8, 8, 1)),
        layers.Conv2D(16, 3, padding="same", use_bias=False), layers.BatchNormalization(), layers.ReLU(),
        layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False), layers.BatchNormalization(), layers.ReLU(),
        layers.Flatten(), layers.Dense(10, activation="softmax"),
    ])  # fmt: skip
    network.compile(optimizer=keras.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy")
    network.fit(pictures[:1200], digits[:1200], batch_size=64, epochs=8, verbose=0)
    original = tmp_path / "original"
    network.export(original, verbose=False)
    tests, truth = pictures[1200:], digits[1200:]

    def accuracy(folder: Path) -> float:
        (name,) = describe(folder).serving_graph.signatures[-1].inputs
        (scores,) = outputs(folder, "serving_default", **{name.name: tests}).values()
        return float((scores.argmax(1) == truth).mean())

    before = accuracy(original)
    assert before > 0.9, "the network learned"
    (name,) = describe(original).serving_graph.signatures[-1].inputs
    for precision in Precision:
        result = tmp_path / precision
        report = optimize(original, result, precision=precision, inputs=Inputs(given={name.name: tests}))
        assert abs(accuracy(result) - before) <= 0.01, precision
        for _, _, found in report.agreements:
            assert found.rows == len(tests)
            assert (found.top1 or 0) >= 0.99


@pytest.mark.tensorflow
@in_process
def test_a_result_below_a_threshold_leaves_nothing(model: Path, tmp_path: Path) -> None:
    for thresholds, what in (
        (Thresholds(top1=0, difference=1e-9), r"maximum difference: expected at most 1e-09, got "),
        (Thresholds(top1=0, top5=1.0), r"common classes among the highest five: expected at least 1, got "),
    ):
        result = tmp_path / "new" / "folder" / "result"
        with raises(ModelCode.OPTIMIZATION_DIFFERS, match=what) as caught:
            optimize(model, result, precision=Precision.BFLOAT16, thresholds=thresholds, inputs=Inputs(rows=200))
        assert (caught.value.code, caught.value.exit_status) == ("model.optimization-differs", 3)
        assert not (tmp_path / "new").exists()


@pytest.mark.tensorflow
@in_process
def test_an_optimized_model_is_not_optimized_again(model: Path, tmp_path: Path) -> None:
    result = tmp_path / "result"
    optimize(model, result, precision=Precision.BFLOAT16, thresholds=ALL, inputs=Inputs(rows=4))
    with raises(ModelCode.ALREADY_OPTIMIZED, match="was already optimized"):
        optimize(result, tmp_path / "again", precision=Precision.BFLOAT16)
    with pytest.raises(OutputExistsError, match="already exists"):
        optimize(model, result, precision=Precision.BFLOAT16)
    with pytest.raises(OutputExistsError, match="inside the source"):
        optimize(model, model / "assets", precision=Precision.BFLOAT16)


@pytest.mark.tensorflow
@in_process
def test_a_vocabulary_stays_an_asset(tmp_path: Path) -> None:
    tf = import_tensorflow()
    (tmp_path / "words.txt").write_text("cat\ndog\nbird\n")
    initializer = tf.lookup.TextFileInitializer(
        str(tmp_path / "words.txt"), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )  # fmt: skip
    table = tf.lookup.StaticHashTable(initializer, -1)
    embeddings, dense = tf.Variable(random(4, 64)), tf.Variable(random(64, 8, seed=1))

    def call(words: Any) -> Any:
        return {"y": tf.matmul(tf.gather(embeddings, table.lookup(words) + 1), dense)}

    spec = [tf.TensorSpec([None], tf.string, name="words")]
    original = save(
        tmp_path / "original", {"serving_default": (call, spec)}, table=table, embeddings=embeddings, dense=dense
    )
    with raises(ModelCode.OPTIMIZATION_UNPROVEN, match="the input 'words' is text and needs a value"):
        optimize(original, tmp_path / "unproven", precision=Precision.BFLOAT16)
    assert nothing_left(tmp_path / "unproven")
    words = np.array([b"dog", b"cat", b"unknown", b"bird"], object)
    for given in (words, words.astype(bytes), words.astype(str)):
        result = tmp_path / f"result-{given.dtype.kind}"
        report = optimize(original, result, precision=Precision.BFLOAT16, inputs=Inputs(given={"words": given}))
        assert report.given == ("words",)
        assert (result / "assets" / "words.txt").read_bytes() == (tmp_path / "words.txt").read_bytes()
        assert not (result / "variables").exists()
    before = outputs(original, "serving_default", words=words)["y"]
    after = outputs(tmp_path / "result-O", "serving_default", words=words)["y"]
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()


@pytest.mark.tensorflow
@in_process
def test_unusual_signatures(tmp_path: Path) -> None:
    """Outputs that are inputs, variables or constants, numbers without rows, conditions, shared filters, any rank."""
    tf = import_tensorflow()
    dense, filters = tf.Variable(random(4, 4)), tf.Variable(random(1, 1, 4, 8))
    rows = tf.TensorSpec([None, 4], tf.float32, name="x")
    pictures = tf.TensorSpec([None, 4, 4, 4], tf.float32, name="picture")
    factors = random(8)
    flag = tf.TensorSpec([], tf.bool, name="flag")
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "input": (lambda x: {"y": x, "z": tf.matmul(x, dense)}, [rows]),
        "variable": (lambda x: {"y": dense.read_value(), "z": tf.matmul(x, dense)}, [rows]),
        "constant": (lambda x: {"y": tf.constant([[1.0, 2.0]]), "z": tf.matmul(x, dense)}, [rows]),
        "scalar": (lambda x: {"y": tf.reduce_sum(tf.matmul(x, dense))}, [rows]),
        "condition": (lambda x, flag: {"y": tf.cond(flag, lambda: tf.matmul(x, dense), lambda: x)}, [rows, flag]),
        "no_input": (lambda: {"y": tf.matmul(dense, dense)}, []),
        "scaled": (lambda picture: {"y": tf.nn.conv2d(picture, filters, 1, "SAME") * factors}, [pictures]),
        "same_filters": (lambda picture: {"y": tf.nn.conv2d(picture, filters, 1, "SAME")}, [pictures]),
        "any_rank": (lambda x: {"y": tf.abs(x)}, [tf.TensorSpec(None, tf.float32, name="any")]),
    }
    original = save(tmp_path / "original", signatures, dense=dense, filters=filters)
    for precision, largest in ((Precision.FLOAT32, 1e-5), (Precision.BFLOAT16, 0.2)):
        report = optimize(
            original, tmp_path / precision, precision=precision, thresholds=Thresholds(top1=0, difference=largest),
            inputs=Inputs(rows=4),
        )  # fmt: skip
        assert report.skipped == {"any_rank": "the input 'any' needs a value, because its type or shape is open"}
        assert set(report.signatures) == set(signatures) - {"any_rank"}
        assert report.signatures["scaled"]["y"].rows == 4


@pytest.mark.tensorflow
@in_process
def test_state_that_requests_change_is_refused(tmp_path: Path) -> None:
    tf = import_tensorflow()
    count = tf.Variable(0.0)
    spec = [tf.TensorSpec([None, 4], tf.float32, name="x")]
    original = save(
        tmp_path / "original", {"serving_default": (lambda x: {"y": x + count.assign_add(1.0)}, spec)}, count=count
    )
    with raises(ModelCode.NOT_OPTIMIZABLE, match=r"effects of operations could get lost.*AssignAddVariableOp"):
        optimize(original, tmp_path / "result", precision=Precision.FLOAT32)
    assert nothing_left(tmp_path / "result")


@pytest.mark.tensorflow
@in_process
@pytest.mark.parametrize(("value", "reason"), [(np.nan, "proves nothing"), (np.inf, "proves nothing")])
def test_weights_that_are_not_numbers_prove_nothing(value: float, reason: str, tmp_path: Path) -> None:
    tf = import_tensorflow()
    weights = random(4, 8)
    weights[0, 0] = value
    variable = tf.Variable(weights)
    spec = [tf.TensorSpec([None, 4], tf.float32, name="x")]
    original = save(
        tmp_path / "original", {"serving_default": (lambda x: {"y": tf.matmul(x, variable)}, spec)}, w=variable
    )
    with raises(ModelCode.OPTIMIZATION_UNPROVEN, match=f"the output 'y' of 'serving_default': .*{reason}"):
        optimize(original, tmp_path / "result", precision=Precision.BFLOAT16)
    assert nothing_left(tmp_path / "result")


@pytest.mark.tensorflow
@in_process
def test_a_weight_that_bfloat16_rounds_to_infinity_is_found(tmp_path: Path) -> None:
    tf = import_tensorflow()
    variable = tf.Variable(np.full((4, 8), np.finfo(np.float32).max))
    spec = [tf.TensorSpec([None, 4], tf.float32, name="x")]
    original = save(
        tmp_path / "original", {"serving_default": (lambda x: {"y": tf.matmul(x, variable)}, spec)}, w=variable
    )
    inputs = Inputs(given={"x": np.full((2, 4), 0.2, np.float32)})
    with raises(ModelCode.OPTIMIZATION_UNPROVEN, match="where the original returns a number"):
        optimize(original, tmp_path / "result", precision=Precision.BFLOAT16, inputs=inputs)
    optimize(original, tmp_path / "result", precision=Precision.FLOAT32, inputs=inputs)


@pytest.mark.tensorflow
@in_process
def test_a_model_without_work_in_bfloat16_is_left_as_it_is(tmp_path: Path) -> None:
    original = saved_model(tmp_path / "original")
    with raises(ModelCode.NOTHING_TO_OPTIMIZE, match="TensorFlow computes none of its operations in bfloat16"):
        optimize(original, tmp_path / "result", precision=Precision.BFLOAT16)
    assert nothing_left(tmp_path / "result")


@pytest.mark.tensorflow
@in_process
def test_a_frozen_graph_without_changes_is_left_as_it_is(tmp_path: Path) -> None:
    tf = import_tensorflow()
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="input")
        tf.nn.relu(x, name="predict")
    (tmp_path / "graph.pb").write_bytes(graph.as_graph_def().SerializeToString())
    imported = import_model(
        tmp_path / "graph.pb", tmp_path / "models", name="m", version=1, inputs=["input"], outputs=["predict"]
    )
    with raises(ModelCode.NOTHING_TO_OPTIMIZE, match="it has no variables, and no operation can be removed"):
        optimize(imported.folder, tmp_path / "result", precision=Precision.FLOAT32)


@pytest.mark.tensorflow
@in_process
def test_a_graph_that_tensorflow_does_not_load(model: Path, tmp_path: Path) -> None:
    message = read_saved_model(model)
    message.meta_graphs[0].graph_def.node.add(name="odd", op="AddV2", input=["nowhere", "odd"])
    (model / "saved_model.pb").write_bytes(message.SerializeToString())
    with raises(ModelCode.NOT_OPTIMIZABLE, match="cannot be optimized: .*nowhere"):
        optimize(model, tmp_path / "result", precision=Precision.FLOAT32)
    assert nothing_left(tmp_path / "result")


@pytest.mark.tensorflow
def test_the_separate_process(model: Path, tmp_path: Path) -> None:
    """All other tests call the worker as a function."""
    numbers = tmp_path / "inputs.npz"
    np.savez(numbers, x=random(5, 8, 8, 4))
    steps: list[str] = []
    report = optimize(
        model, tmp_path / "result", precision=Precision.BFLOAT16, thresholds=ALL, progress=steps.append,
        inputs=Inputs(given=read_arrays(numbers)),
    )  # fmt: skip
    assert report.given == ("x",)
    assert {path.name for path in (tmp_path / "result").iterdir()} == {"saved_model.pb", "assets.extra"}
    assert {found.rows for _, _, found in report.agreements} == {5}
    assert len(steps) == 4


PROGRAMS = {
    "dies": ('import os; print(\'{"step": "rewriting"}\', flush=True); os.abort()', r"rewriting: .*SIGABRT"),
    "exits": ("raise SystemExit(7)", r"starting: .*status 7"),
    "hangs": ("import time; time.sleep(600)", r"starting: no result in 0\.1 seconds"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_model_that_takes_its_process_away(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, reason = PROGRAMS[name]
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{program}\n")
    script.chmod(0o755)
    monkeypatch.setattr("sealserve.model.tensorflow_process.PYTHON", str(script))
    monkeypatch.setattr("sealserve.model.tensorflow_import.find_spec", lambda _name: True)
    timeout = 0.1 if name == "hangs" else 600.0
    with raises(ModelCode.NOT_OPTIMIZABLE, match=reason):
        optimize(saved_model(tmp_path / "original"), tmp_path / "result", precision=Precision.FLOAT32, timeout=timeout)
    assert nothing_left(tmp_path / "result")


def test_variables_that_no_message_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealserve.model.tensorflow_import.find_spec", lambda _name: True)
    original = saved_model(tmp_path / "original")
    (original / "variables").mkdir(exist_ok=True)
    with (original / "variables" / "variables.data-00000-of-00001").open("wb") as file:
        file.truncate(2**31)  # a sparse file
    with raises(ModelCode.NOT_OPTIMIZABLE, match=r"expected at most \d+ bytes of variables, got 2147483648"):
        optimize(original, tmp_path / "result", precision=Precision.FLOAT32)


def test_inputs_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealserve.model.tensorflow_import.find_spec", lambda _name: True)
    original = saved_model(tmp_path / "original")
    for given, reason in (({"z": random(2)}, "it has no input 'z'"), ({"x": random(2, 2)}, "expected the shape")):
        with raises(ModelCode.OPTIMIZATION_INPUTS, match=reason):
            optimize(original, tmp_path / "result", precision=Precision.FLOAT32, inputs=Inputs(given=given))
    assert nothing_left(tmp_path / "result")


@pytest.mark.tensorflow
@in_process
def test_each_output_needs_values_and_a_criterion(tmp_path: Path) -> None:
    tf = import_tensorflow()
    dense, tail = tf.Variable(random(4, 8)), tf.Variable(random(4, 1))
    rows = [tf.TensorSpec([None, 4], tf.float32, name="x")]
    tokens = [tf.TensorSpec([None, None, 4], tf.float32, name="tokens")]

    def detect(x: Any) -> Any:
        scores = tf.matmul(x, dense)
        return {"count": tf.shape(x)[:1], "boxes": tf.boolean_mask(scores, tf.reduce_max(scores, 1) > 1e6)}

    detector = save(tmp_path / "detector", {"serving_default": (detect, rows)}, dense=dense)
    with raises(ModelCode.OPTIMIZATION_UNPROVEN, match=r"the output 'boxes' of 'serving_default' has no values"):
        optimize(detector, tmp_path / "result", precision=Precision.BFLOAT16)
    boxes = Inputs(given={"x": 1e8 * random(4, 4)})
    report = optimize(detector, tmp_path / "boxes", precision=Precision.BFLOAT16, thresholds=ALL, inputs=boxes)
    assert report.signatures["serving_default"]["boxes"].rows > 0

    regression = save(tmp_path / "regression", {"y": (lambda x: {"y": tf.matmul(x, tail)}, rows)}, tail=tail)
    for threshold in (Thresholds(top1=1.0), Thresholds(top5=1.0)):
        with raises(ModelCode.OPTIMIZATION_UNPROVEN, match=r"cannot be compared with --min-top[15]: no output has"):
            optimize(regression, tmp_path / "result", precision=Precision.BFLOAT16, thresholds=threshold)
    strict = Thresholds(relative_difference=1e-7)
    with raises(ModelCode.OPTIMIZATION_DIFFERS, match="as a share of the largest number: expected at most 1e-07"):
        optimize(regression, tmp_path / "result", precision=Precision.BFLOAT16, thresholds=strict)
    assert nothing_left(tmp_path / "result")
    report = optimize(regression, tmp_path / "accepted", precision=Precision.BFLOAT16)
    assert 0 < (report.signatures["y"]["y"].relative_difference or 0) < 0.02

    classes = save(
        tmp_path / "tokens", {"y": (lambda tokens: {"y": tf.einsum("nti,ij->ntj", tokens, dense)}, tokens)}, dense=dense
    )
    report = optimize(classes, tmp_path / "classes", precision=Precision.BFLOAT16, thresholds=ALL)
    assert report.signatures["y"]["y"].top1 is not None
    assert report.signatures["y"]["y"].top5 is not None


@pytest.mark.tensorflow
@in_process
def test_inputs_of_several_signatures(tmp_path: Path) -> None:
    """The same name with different types, generated values beside given values, and values that the model rejects."""
    tf = import_tensorflow()
    dense = tf.Variable(random(4, 8))
    rows = tf.TensorSpec([None, 4], tf.float32, name="x")
    other = tf.TensorSpec([None, 4], tf.float32, name="other")
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "numbers": (lambda x: {"y": tf.matmul(x, dense)}, [rows]),
        "pairs": (lambda x, other: {"y": tf.matmul(x * other, dense)}, [rows, other]),
        "texts": (lambda x: {"y": tf.strings.length(x)}, [tf.TensorSpec([None], tf.string, name="x")]),
    }
    original = save(tmp_path / "original", signatures, dense=dense)
    for given, skipped in (
        (random(5, 4), {"texts": "the value for the input 'x' does not fit: expected string, got float32"}),
        (
            np.array([b"a", b"bc"]),
            dict.fromkeys(("numbers", "pairs"), "the value for the input 'x' does not fit: expected float32, got text"),
        ),
    ):
        report = optimize(
            original, tmp_path / given.dtype.name, precision=Precision.FLOAT32, inputs=Inputs(given={"x": given})
        )
        assert report.skipped == skipped
        assert {found.rows for _, _, found in report.agreements} == {len(given)}
    # Only an input with any number of rows decides the number of generated rows.
    factors = tf.TensorSpec([4], tf.float32, name="factors")
    scaled = save(
        tmp_path / "scaled",
        {"y": (lambda x, factors: {"y": tf.matmul(x * factors, dense)}, [rows, factors])},
        dense=dense,
    )
    report = optimize(
        scaled, tmp_path / "rows", precision=Precision.FLOAT32, inputs=Inputs(given={"factors": random(4)}, rows=7)
    )
    assert report.signatures["y"]["y"].rows == 7
    unequal = Inputs(given={"x": random(5, 4), "other": random(3, 4)})
    with raises(ModelCode.OPTIMIZATION_INPUTS, match="'pairs' of the original model rejects them .'other', 'x'.: "):
        optimize(original, tmp_path / "result", precision=Precision.FLOAT32, inputs=unequal)
    picky = {
        "index": (
            lambda i: {"y": tf.gather(tf.matmul(dense, dense, transpose_b=True), i + 100)},
            [tf.TensorSpec([None], tf.int64, name="i")],
        )
    }
    rejecting = save(tmp_path / "rejecting", picky, dense=dense)
    with raises(ModelCode.OPTIMIZATION_UNPROVEN, match="'index': the original model rejects generated inputs: "):
        optimize(rejecting, tmp_path / "result", precision=Precision.FLOAT32)
    assert nothing_left(tmp_path / "result")


@pytest.mark.tensorflow
@pytest.mark.parametrize("inputs", [Inputs(), Inputs(given={"x": random(64, 8, 8, 4)})])
def test_a_full_disk_is_not_a_fault_of_the_model(inputs: Inputs, model: Path, tmp_path: Path) -> None:
    """The limit of the file size has the same effect as a full disk, here and in the separate process."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with raises(SealserveCode.FILE_DISK_FULL, match="nothing can be written to") as caught:
            optimize(model, tmp_path / "result", precision=Precision.FLOAT32, inputs=inputs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.exit_status == 4
    assert nothing_left(tmp_path / "result")


@pytest.mark.tensorflow
@in_process
def test_a_converted_copy_is_not_named(model: Path, tmp_path: Path) -> None:
    origin = Origin(name="models/flowers", digest="ab" * 32, options=SETTINGS)
    report = optimize(model, tmp_path / "result", precision=Precision.FLOAT32, origin=origin)
    assert report.original == "ab" * 32
    message = read_saved_model(model)
    message.meta_graphs[0].graph_def.node.add(name="odd", op="AddV2", input=["nowhere", "odd"])
    (model / "saved_model.pb").write_bytes(message.SerializeToString())
    with raises(ModelCode.NOT_OPTIMIZABLE, match="models/flowers cannot be optimized") as caught:
        optimize(model, tmp_path / "again", precision=Precision.FLOAT32, origin=origin)
    assert str(tmp_path) not in caught.value.message
    message.meta_graphs[0].graph_def.node.add(name="file", op="ReadFile", input=["odd"])
    message.meta_graphs[0].signature_def["serving_default"].outputs["z"].name = "file:0"
    (model / "saved_model.pb").write_bytes(message.SerializeToString())
    with raises(ModelCode.NOT_OPTIMIZABLE, match="models/flowers has operations that are not allowed") as caught:
        optimize(model, tmp_path / "again", precision=Precision.FLOAT32, origin=origin)
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"version": 2}', b"\xff"])
def test_a_damaged_record(content: bytes, tmp_path: Path) -> None:
    original = saved_model(tmp_path / "original")
    (original / OPTIMIZATION_FILE).parent.mkdir()
    (original / OPTIMIZATION_FILE).write_bytes(content)
    with raises(ModelCode.OPTIMIZATION_RECORD, match="is not a record of an optimization"):
        find_report(original)


def test_the_digest_is_the_digest_of_release_statements(tmp_path: Path) -> None:
    original = saved_model(tmp_path / "original")
    digest = digest_of_model(original)
    shutil.copytree(original, tmp_path / "copy")
    assert digest_of_model(tmp_path / "copy") == digest
    (tmp_path / "copy" / "extra").write_text("x")
    assert digest_of_model(tmp_path / "copy") != digest
    graph = tmp_path / "frozen.pb"
    graph.write_bytes(b"graph")
    assert digest_of_model(graph) == hashlib.sha256(b"graph").hexdigest()
