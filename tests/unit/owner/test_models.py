from pathlib import Path

import numpy as np
import pytest
from tests.harness.errors import raises
from tests.harness.optimized_models import Array, convolution_model, in_this_process, random, save
from tests.harness.tiny_model import saved_model
from tests.harness.workspaces import Site, make_site

from sealserve import deployment
from sealserve.atomic_file import OutputExistsError
from sealserve.host.facts import Processor
from sealserve.model.codes import ModelCode
from sealserve.model.optimization import given_inputs, optimize
from sealserve.model.optimization.report import digest_of_model, find_report
from sealserve.model.source import SIGNATURE_FILE
from sealserve.model.tensorflow_import import import_tensorflow
from sealserve.owner import models
from sealserve.owner.codes import OwnerCode
from sealserve.serving_interface import OPTIMIZATION_FILE
from sealserve.terms import Precision


def test_a_saved_model_comes_in_whole(site: Site) -> None:
    assert not models.is_imported(site.workspace, site.deployment.model)
    steps: list[str] = []
    imported = models.bring_in(site.workspace, site.deployment.model, progress=steps.append)
    assert imported.folder == site.workspace.owner.models / "half-plus-two" / "1"
    assert models.servable_folder(site.workspace, site.deployment.model) == imported.folder
    source = site.directory / "half-plus-two" / "saved_model.pb"
    assert (imported.folder / "saved_model.pb").read_bytes() == source.read_bytes()
    assert models.is_imported(site.workspace, site.deployment.model)
    assert steps


def test_a_version_comes_in_once(site: Site) -> None:
    site.import_model()
    with pytest.raises(OutputExistsError, match="half-plus-two/1 already exists"):
        models.bring_in(site.workspace, site.deployment.model)


def test_another_version_stands_beside_it(site: Site) -> None:
    site.import_model()
    newer = make_site(site.directory, source=site.directory / "half-plus-two", model={"version": 2})
    assert newer.import_model().name == "2"
    assert models.servable_folder(site.workspace, site.deployment.model).name == "1"


def test_a_path_in_the_file_is_relative_to_it(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", source=Path("below/model"))
    saved_model(tmp_path / "site" / "below" / "model")
    assert site.import_model().is_dir()


def test_a_deployment_without_a_path_says_what_to_set(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    nowhere = deployment.parse('[model]\nname = "m"\n')
    with raises(OwnerCode.MODEL_NO_PATH, match=r"path of the model m is not set") as caught:
        models.bring_in(site.workspace, nowhere.model)
    assert caught.value.code == "model.no-path"
    assert "frozen graph (.pb) or SavedModel" in (caught.value.hint or "")


def test_a_missing_model_leaves_nothing(tmp_path: Path) -> None:
    site = make_site(tmp_path, source=Path("nowhere.pb"))
    with raises(ModelCode.MISSING, match=r"does not exist: expected .* at .*nowhere\.pb") as caught:
        models.bring_in(site.workspace, site.deployment.model)
    assert caught.value.code == "model.missing"
    assert list(site.workspace.owner.models.iterdir()) == []


def test_a_model_that_was_not_brought_in(site: Site) -> None:
    with raises(OwnerCode.MODEL_NOT_IMPORTED, match="The model half-plus-two, version 1, is not in the work") as caught:
        models.servable_folder(site.workspace, site.deployment.model)
    assert caught.value.code == "model.not-imported"
    assert "model convert" in (caught.value.hint or "")


@pytest.mark.tensorflow
def test_a_model_comes_in_optimized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    original = convolution_model(tmp_path / "original")
    np.savez(tmp_path / "inputs.npz", x=random(6, 8, 8, 4))
    settings = {"optimize": "bfloat16", "optimize_inputs": str(tmp_path / "inputs.npz"), "optimize_min_top1": 0.5}
    site = make_site(tmp_path / "site", source=original, model=settings)
    model = site.deployment.model
    imported = models.bring_in(site.workspace, model)
    assert imported.folder == site.workspace.owner.models / "half-plus-two" / "1"
    report = find_report(imported.folder)
    assert report is not None
    assert (report.original, report.precision, report.given) == (digest_of_model(original), "bfloat16", ("x",))
    assert models.check(site.workspace, [model])
    with pytest.raises(OutputExistsError, match="half-plus-two/1 already exists"):
        models.bring_in(site.workspace, model)
    # Another precision, another threshold or other inputs need a new conversion. The release shows the drift.
    assert not models.stale(site.workspace, [model])
    for changed in ({"optimize": "float32"}, {"optimize": None}, {"optimize_min_top1": 0.6}, {"optimize_inputs": None}):
        assert models.stale(site.workspace, [model.model_copy(update=changed)]), changed
    np.savez(tmp_path / "inputs.npz", x=random(7, 8, 8, 4))
    assert models.stale(site.workspace, [model])
    generated = model.model_copy(update={"optimize": "float32", "optimize_inputs": None})
    again = models.bring_in_again(site.workspace, generated)
    nowhere = generated.model_copy(update={"optimize_inputs": tmp_path / "nowhere.npz"})
    assert not models.stale(site.workspace, [generated])
    assert models.stale(site.workspace, [nowhere])  # a missing file is not the same as no file
    report = find_report(again.folder)
    assert report is not None
    assert report.precision == "float32"


@pytest.mark.tensorflow
def test_a_rejected_optimization_keeps_the_former_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    original = convolution_model(tmp_path / "original")
    site = make_site(tmp_path / "site", source=original)
    former = site.import_model()
    digest = digest_of_model(former)
    stricter = site.deployment.model.model_copy(update={"optimize": Precision.BFLOAT16, "optimize_min_top1": 1.0})
    monkeypatch.setattr(optimize, "check", refusing)
    with raises(ModelCode.OPTIMIZATION_DIFFERS, match="refused by the test"):
        models.bring_in_again(site.workspace, stricter)
    assert digest_of_model(former) == digest
    assert [path.name for path in site.workspace.owner.models.iterdir()] == ["half-plus-two"]
    other = site.deployment.model.model_copy(update={"version": 2, "optimize": Precision.BFLOAT16})
    with raises(ModelCode.OPTIMIZATION_DIFFERS, match="refused by the test"):
        models.bring_in(site.workspace, other)
    assert [path.name for path in (site.workspace.owner.models / "half-plus-two").iterdir()] == ["1"]


@pytest.mark.tensorflow
def test_each_threshold_of_the_file_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    original, inputs = convolution_model(tmp_path / "original"), tmp_path / "inputs.npz"
    np.savez(inputs, x=random(200, 8, 8, 4))
    for name, limit in (
        ("optimize_min_top5", 1.0), ("optimize_max_difference", 0.0), ("optimize_max_relative_difference", 0.0),
    ):  # fmt: skip
        settings = {"optimize": "bfloat16", "optimize_min_top1": 0.0, "optimize_inputs": str(inputs), name: limit}
        site = make_site(tmp_path / name, source=original, model=settings)
        with raises(ModelCode.OPTIMIZATION_DIFFERS, match=rf"expected at (most|least) {limit:g}, got") as caught:
            models.bring_in(site.workspace, site.deployment.model)
        assert name in (caught.value.hint or "")
        assert ".partial" not in str(caught.value)
        assert f"The bfloat16 form of {original} is not accepted" in caught.value.message


@pytest.mark.tensorflow
def test_an_optimization_warns_and_names_the_model_of_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    monkeypatch.setattr(models, "read_processor", lambda: Processor(flags=frozenset(("avx2", "fma"))))
    tf = import_tensorflow()
    dense = tf.Variable(random(4, 8))
    signatures = {
        "serving_default": (lambda x: {"y": tf.matmul(x, dense)}, [tf.TensorSpec([None, 4], tf.float32, name="x")]),
        "length": (lambda text: {"n": tf.strings.length(text)}, [tf.TensorSpec([None], tf.string, name="text")]),
    }
    original = save(tmp_path / "original", signatures, dense=dense)
    (original / SIGNATURE_FILE).write_text("not copied")  # so the converted copy has another digest
    site = make_site(tmp_path / "site", source=original, model={"optimize": "bfloat16", "optimize_min_top1": 0.0})
    told: list[str] = []
    imported = models.bring_in(site.workspace, site.deployment.model, warn=told.append)
    report = find_report(imported.folder)
    assert report is not None
    assert report.original == digest_of_model(original)
    slow, skipped = told
    assert "half-plus-two version 1: A processor with avx2 does not compute in bfloat16" in slow
    assert "The signature 'length' was not compared: the input 'text' is text and needs a value." in skipped
    models.bring_in_again(site.workspace, site.deployment.model, warn=told.append)
    assert told == [slow, skipped] * 2
    models.bring_in_again(site.workspace, site.deployment.model)  # without a listener


@pytest.mark.tensorflow
def test_messages_name_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    original = convolution_model(tmp_path / "original")
    site = make_site(tmp_path / "site", source=original, model={"optimize": "bfloat16", "optimize_min_top1": 0.0})
    model = site.deployment.model
    for array, reason in ((random(3), "expected the shape"), (np.array([b"a"]), "expected float32, got text")):
        np.savez(tmp_path / "inputs.npz", x=array)
        chosen = model.model_copy(update={"optimize_inputs": tmp_path / "inputs.npz"})
        with raises(ModelCode.OPTIMIZATION_INPUTS, match=reason) as caught:
            models.bring_in(site.workspace, chosen)
        assert ".partial" not in str(caught.value)
    tf = import_tensorflow()
    dense, texts = tf.Variable(random(4, 8)), [tf.TensorSpec([4], tf.string, name="text")]
    words = save(
        tmp_path / "words",
        {"y": (lambda text: {"y": tf.matmul([tf.cast(tf.strings.length(text), tf.float32)], dense)}, texts)},
        dense=dense,
    )
    with raises(ModelCode.OPTIMIZATION_UNPROVEN, match=f"{words} cannot be compared with its original") as caught:
        models.bring_in(site.workspace, model.model_copy(update={"path": words}))
    assert caught.value.hint == "Give typical inputs: optimize_inputs."
    (original / OPTIMIZATION_FILE).parent.mkdir()
    (original / OPTIMIZATION_FILE).write_text("{}")
    with raises(ModelCode.OPTIMIZATION_RECORD, match=str(original / OPTIMIZATION_FILE)):
        models.bring_in(site.workspace, model)


@pytest.mark.tensorflow
def test_inputs_that_change_during_the_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)
    original, inputs = convolution_model(tmp_path / "original"), tmp_path / "inputs.npz"
    np.savez(inputs, x=random(6, 8, 8, 4))
    settings = {"optimize": "bfloat16", "optimize_inputs": str(inputs), "optimize_min_top1": 0.0}
    site = make_site(tmp_path / "site", source=original, model=settings)

    read_arrays = given_inputs.read_arrays

    def then_changed(path: Path) -> dict[str, Array]:
        found = read_arrays(path)
        np.savez(path, x=random(7, 8, 8, 4))
        return found

    monkeypatch.setattr(given_inputs, "read_arrays", then_changed)
    with raises(OwnerCode.MODEL_SOURCE_CHANGED, match=r"inputs\.npz changed during the conversion"):
        models.bring_in(site.workspace, site.deployment.model)
    assert not models.is_imported(site.workspace, site.deployment.model)


def refusing(*_: object) -> None:
    raise ModelCode.OPTIMIZATION_DIFFERS.error("refused by the test")
