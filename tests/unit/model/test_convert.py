import errno
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.harness.errors import raises

from sealserve.atomic_file import OutputExistsError
from sealserve.codes import SealserveCode
from sealserve.model import saved_model_pb2 as pb
from sealserve.model.codes import ModelCode
from sealserve.model.convert import SourceKind, import_model

MakeSavedModel = Callable[..., Path]


def _nothing_left(folder: Path) -> bool:
    return not any(folder.rglob("*"))


def test_a_saved_model_is_copied_whole(make_saved_model: MakeSavedModel, tmp_path: Path) -> None:
    source = make_saved_model()
    (source / "assets").mkdir()
    (source / "assets" / "vocabulary").write_text("words")
    steps: list[str] = []
    model = import_model(source, tmp_path / "models", name="resnet50", version=3, progress=steps.append)
    assert model.folder == tmp_path / "models" / "resnet50" / "3"
    assert (model.name, model.version, model.source) == ("resnet50", 3, SourceKind.SAVED_MODEL)
    assert model.info.folder == model.folder
    assert (model.folder / "assets" / "vocabulary").read_text() == "words"
    assert (model.folder / "saved_model.pb").read_bytes() == (source / "saved_model.pb").read_bytes()
    assert [path.name for path in model.folder.parent.iterdir()] == ["3"]
    assert steps == ["checking the SavedModel", "copying the SavedModel"]


def test_nothing_is_written_for_a_missing_or_unusable_model(make_saved_model: MakeSavedModel, tmp_path: Path) -> None:
    with raises(ModelCode.MISSING, match="The model .*nowhere does not exist") as caught:
        import_model(tmp_path / "nowhere", tmp_path / "models", name="m", version=1)
    assert caught.value.code == "model.missing"
    with raises(ModelCode.NO_SERVE_TAG):
        import_model(make_saved_model(tags=("train",)), tmp_path / "models", name="m", version=1)
    assert _nothing_left(tmp_path / "models")


def test_an_existing_version_is_never_replaced(make_saved_model: MakeSavedModel, tmp_path: Path) -> None:
    source = make_saved_model()
    first = import_model(source, tmp_path / "models", name="m", version=1)
    (source / "extra").touch()
    with pytest.raises(OutputExistsError, match=r"models/m/1 already exists.*Set a different version"):
        import_model(source, tmp_path / "models", name="m", version=1)
    assert not (first.folder / "extra").exists()


def test_a_version_that_appears_meanwhile_is_never_replaced(make_saved_model: MakeSavedModel, tmp_path: Path) -> None:
    source, models = make_saved_model(), tmp_path / "models"

    def meanwhile(step: str) -> None:
        if step.startswith("copying"):
            make_saved_model(models / "m" / "1")

    with pytest.raises(OutputExistsError, match="models/m/1 exists already"):
        import_model(source, models, name="m", version=1, progress=meanwhile)
    assert sorted(path.name for path in (models / "m").iterdir()) == ["1"]


def test_a_copy_into_itself_is_refused(make_saved_model: MakeSavedModel) -> None:
    source = make_saved_model()
    with pytest.raises(OutputExistsError, match="cannot be created: it is inside the source"):
        import_model(source, source / "models", name="m", version=1)
    assert not (source / "models").exists()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), OSError(errno.EIO, "broken disk")])
def test_an_interrupted_copy_leaves_nothing(
    make_saved_model: MakeSavedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    def interrupted(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:3])
        raise interruption

    source = make_saved_model()
    monkeypatch.setattr(shutil, "copyfile", interrupted)
    with pytest.raises(type(interruption)):
        import_model(source, tmp_path / "models", name="m", version=1)
    assert _nothing_left(tmp_path / "models")


def test_a_full_disk_is_one_clear_error(
    make_saved_model: MakeSavedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, f"no space for {source} at {target}")

    source = make_saved_model()
    monkeypatch.setattr(shutil, "copyfile", full)
    with raises(SealserveCode.FILE_DISK_FULL, match=r"No room to write to .*models/m\."):
        import_model(source, tmp_path / "models", name="m", version=1)
    assert _nothing_left(tmp_path / "models")


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a b", ".hidden", "x" * 64])
def test_a_name_that_is_no_servables_is_refused(graph_file: Path, tmp_path: Path, name: str) -> None:
    with raises(ModelCode.INVALID_NAME, match="is not a valid name of a servable") as caught:
        import_model(graph_file, tmp_path / "models", name=name, version=1)
    assert caught.value.code == "model.invalid-name"


@pytest.mark.parametrize("version", [-1, 2**63])
def test_a_version_that_tensorflow_serving_does_not_read_is_refused(
    graph_file: Path, tmp_path: Path, version: int
) -> None:
    with raises(
        ModelCode.INVALID_NAME, match=f"The version {version} is out of range: expected a number from 0 to {2**63 - 1}"
    ):
        import_model(graph_file, tmp_path / "models", name="m", version=version)


@pytest.mark.parametrize("version", [0, 1764322215123, 2**63 - 1])
def test_every_version_that_tensorflow_serving_reads_is_taken(
    make_saved_model: MakeSavedModel, tmp_path: Path, version: int
) -> None:
    imported = import_model(make_saved_model(), tmp_path / "models", name="m", version=version)
    assert imported.folder.name == str(version)


@pytest.mark.parametrize("tags", [("serve", "gpu"), ("gpu", "serve"), ("serve", "serve"), ()])
def test_a_graph_is_chosen_by_its_set_of_tags_and_gets_the_one_tag_serve(
    make_saved_model: MakeSavedModel, tmp_path: Path, tags: tuple[str, ...]
) -> None:
    source = make_saved_model(tags=tags)
    (source / "fingerprint.pb").touch()
    model = import_model(source, tmp_path / "models", name="m", version=1, tags=sorted(tags))
    assert model.info.serving_graph.tags == ("serve",)
    message = pb.SavedModel.FromString((model.folder / "saved_model.pb").read_bytes())
    assert list(message.meta_graphs[0].meta_info_def.tags) == ["serve"]
    assert not (model.folder / "fingerprint.pb").exists()


def test_graphs_that_are_not_served_are_left_out(make_saved_model: MakeSavedModel, tmp_path: Path) -> None:
    source = make_saved_model()
    path = source / "saved_model.pb"
    message = pb.SavedModel.FromString(path.read_bytes())
    served = pb.MetaGraphDef.FromString(message.meta_graphs[0].SerializeToString())
    message.meta_graphs.add().meta_info_def.tags.append("train")
    path.write_bytes(message.SerializeToString())
    model = import_model(source, tmp_path / "models", name="m", version=1)
    kept = pb.SavedModel.FromString((model.folder / "saved_model.pb").read_bytes())
    assert kept.saved_model_schema_version == 1
    assert list(kept.meta_graphs) == [served]


def test_the_chunked_form_is_refused_by_its_name(make_saved_model: MakeSavedModel, tmp_path: Path) -> None:
    source = make_saved_model()
    (source / "saved_model.pb").rename(source / "saved_model.cpb")
    with raises(
        ModelCode.NOT_A_SAVED_MODEL,
        match=r"a SavedModel in chunked form: expected saved_model\.pb, got saved_model\.cpb",
    ):
        import_model(source, tmp_path / "models", name="m", version=1)
    assert _nothing_left(tmp_path / "models")


def test_the_file_of_keras_is_refused_with_the_way_to_export_it(tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_bytes(b"PK\x03\x04")
    with raises(
        ModelCode.NOT_A_GRAPH, match=r"m\.keras is a Keras model: .*load_model\('.*m\.keras'\)\.export\('.*m'\)"
    ):
        import_model(tmp_path / "m.keras", tmp_path / "models", name="m", version=1, inputs=["x"], outputs=["y"])


def test_a_wrong_node_name_is_an_error_before_tensorflow_is_imported(
    graph_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with raises(ModelCode.UNKNOWN_NODE):
        import_model(graph_file, tmp_path / "models", name="m", version=1, inputs=["input"], outputs=["predicts"])


def test_without_tensorflow_one_message_says_what_to_install(
    graph_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with raises(ModelCode.TENSORFLOW_MISSING, match=r"pip install '\.\[server\]'") as caught:
        import_model(graph_file, tmp_path / "models", name="m", version=1, inputs=["input"], outputs=["predict"])
    assert caught.value.code == "model.tensorflow-missing"
    assert caught.value.exit_status == 4
    assert _nothing_left(tmp_path / "models")
