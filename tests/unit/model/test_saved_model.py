import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.model.codes import ModelCode
from sealserve.model.saved_model import SavedSignature, TensorSpec, check_servable, describe, dtype_name

MakeSavedModel = Callable[..., Path]


def test_describe_says_what_model_show_prints(make_saved_model: MakeSavedModel) -> None:
    folder = make_saved_model()
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / "warmup").write_bytes(b"1234")
    info = describe(folder)
    assert info.serving_graph.signatures == (
        SavedSignature(
            name="serving_default",
            method="tensorflow/serving/predict",
            inputs=(TensorSpec(name="x", dtype="float32", shape=(None, 3)),),
            outputs=(TensorSpec(name="y", dtype="string", shape=None),),
        ),
    )
    assert info.serving_graph.tensorflow_version == "2.21.0"
    assert info.serving_graph.operations == ("Add", "Placeholder")
    assert (info.files, info.size) == (2, 4 + (folder / "saved_model.pb").stat().st_size)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with raises(ModelCode.MISSING, match=r"The folder .*nowhere does not exist") as caught:
        describe(tmp_path / "nowhere")
    assert caught.value.code == "model.missing"


def test_the_folder_above_the_versions_points_at_the_last_one(make_saved_model: MakeSavedModel, tmp_path: Path) -> None:
    make_saved_model(tmp_path / "resnet50" / "1")
    make_saved_model(tmp_path / "resnet50" / "2")
    with raises(
        ModelCode.NOT_A_SAVED_MODEL, match=r"it does not contain saved_model\.pb.*Did you mean .*resnet50/2\?"
    ) as caught:
        describe(tmp_path / "resnet50")
    assert caught.value.code == "model.not-a-saved-model"


def test_a_damaged_file_is_no_saved_model(make_saved_model: MakeSavedModel) -> None:
    folder = make_saved_model()
    with (folder / "saved_model.pb").open("r+b") as stream:
        stream.truncate(20)
    with raises(ModelCode.NOT_A_SAVED_MODEL, match="damaged"):
        describe(folder)


@pytest.mark.parametrize("tags", [("serve", "gpu"), ("train",), ()])
def test_a_graph_that_a_server_would_not_load_is_refused(
    make_saved_model: MakeSavedModel, tags: tuple[str, ...]
) -> None:
    with raises(ModelCode.NO_SERVE_TAG, match="not have a graph with the tags serve: it has") as caught:
        check_servable(make_saved_model(tags=tags))
    assert caught.value.code == "model.no-serve-tag"


def test_a_model_without_a_signature_is_refused(make_saved_model: MakeSavedModel) -> None:
    with raises(ModelCode.NO_SIGNATURE, match=r"does not have a signature.*serving_default") as caught:
        check_servable(make_saved_model(signature=False))
    assert caught.value.code == "model.no-signature"


def test_each_missing_file_of_the_variables_is_named(make_saved_model: MakeSavedModel) -> None:
    folder = make_saved_model(op="VarHandleOp")
    variables = folder / "variables"
    with raises(
        ModelCode.VARIABLES_MISSING, match=r"has variables, but variables/variables\.index is missing"
    ) as caught:
        check_servable(folder)
    assert caught.value.code == "model.variables-missing"
    variables.mkdir()
    (variables / "variables.index").touch()
    with raises(ModelCode.VARIABLES_MISSING, match=r"but variables/variables\.data-00000-of-00001 is missing"):
        check_servable(folder)
    (variables / "variables.data-00001-of-00002").touch()
    with raises(ModelCode.VARIABLES_MISSING, match=r"but variables/variables\.data-00000-of-00002 is missing"):
        check_servable(folder)
    (variables / "variables.data-00000-of-00002").touch()
    assert check_servable(folder).serving_graph.has_variables


def test_a_link_to_a_file_is_a_file_and_a_link_to_a_folder_is_refused(
    make_saved_model: MakeSavedModel, tmp_path: Path
) -> None:
    folder = make_saved_model()
    (tmp_path / "vocabulary").write_text("a")
    (folder / "assets").mkdir()
    (folder / "assets" / "vocabulary").symlink_to(tmp_path / "vocabulary")
    assert describe(folder).files == 2
    (folder / "variables").symlink_to(tmp_path, target_is_directory=True)
    with raises(
        ModelCode.UNUSABLE_FILE, match="variables cannot be used in a model: it is not a regular file or folder"
    ) as caught:
        describe(folder)
    assert caught.value.code == "model.unusable-file"


def test_a_socket_or_pipe_is_refused(make_saved_model: MakeSavedModel) -> None:
    folder = make_saved_model()
    os.mkfifo(folder / "pipe")
    with raises(ModelCode.UNUSABLE_FILE, match="pipe cannot be used in a model: it is not a regular file"):
        check_servable(folder)


def test_a_type_from_the_future_is_shown_as_its_number() -> None:
    assert dtype_name(12345) == "dtype 12345"
