import errno
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sealserve.atomic_file import DiskFullError, OutputExistsError
from sealserve.model.convert import ModelNameError, SourceKind, import_model
from sealserve.model.frozen_graph import NodeUnknownError
from sealserve.model.saved_model import ModelMissingError, ServeTagMissingError
from sealserve.model.tensorflow_import import TensorFlowMissingError

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
    with pytest.raises(ModelMissingError, match="There is no model at") as caught:
        import_model(tmp_path / "nowhere", tmp_path / "models", name="m", version=1)
    assert caught.value.code == "model.missing"
    with pytest.raises(ServeTagMissingError):
        import_model(make_saved_model(tags=("train",)), tmp_path / "models", name="m", version=1)
    assert _nothing_left(tmp_path / "models")


def test_an_existing_version_is_never_replaced(make_saved_model: MakeSavedModel, tmp_path: Path) -> None:
    source = make_saved_model()
    first = import_model(source, tmp_path / "models", name="m", version=1)
    (source / "extra").touch()
    with pytest.raises(OutputExistsError, match=r"models/m/1 exists already.*another --version"):
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
    with pytest.raises(OutputExistsError, match="lies inside"):
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
    with pytest.raises(DiskFullError, match=r"No room to write to .*models/m\."):
        import_model(source, tmp_path / "models", name="m", version=1)
    assert _nothing_left(tmp_path / "models")


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a b", ".hidden", "x" * 64])
def test_a_name_that_is_no_servables_is_refused(graph_file: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNameError, match="is no servable's name") as caught:
        import_model(graph_file, tmp_path / "models", name=name, version=1)
    assert caught.value.code == "model.invalid-name"


def test_a_version_starts_at_one(graph_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNameError, match="a number from 1 on, not 0"):
        import_model(graph_file, tmp_path / "models", name="m", version=0)


def test_a_wrong_node_name_is_an_error_before_tensorflow_is_imported(
    graph_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(NodeUnknownError):
        import_model(graph_file, tmp_path / "models", name="m", version=1, inputs=["input"], outputs=["predicts"])


def test_without_tensorflow_one_message_says_what_to_install(
    graph_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(TensorFlowMissingError, match=r"pip install 'sealserve\[server\]'") as caught:
        import_model(graph_file, tmp_path / "models", name="m", version=1, inputs=["input"], outputs=["predict"])
    assert caught.value.code == "model.tensorflow-missing"
    assert caught.value.exit_status == 4
    assert _nothing_left(tmp_path / "models")
